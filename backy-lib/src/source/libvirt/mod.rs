//! A disk of a libvirt domain, by `virsh`. While the domain runs, it is read as it was when the backup began, while the
//! guest writes on; otherwise, its image is read through `qemu-nbd`.
//!
//! A mark is a checkpoint of libvirt: a bitmap in a qcow2 image, in which QEMU records what is written from then on.
//! All checkpoints record, so a backup that fails leaves the mark of the newest revision as it was. Of a domain that
//! does not run, `qemu-img` makes the bitmap, and backy registers it with libvirt.

mod domain;
mod point;
mod stopped;
mod tracker;
mod virsh;

use std::path::PathBuf;

use crate::base::error::Result;
use crate::base::mark::{ArchiveId, MarkName};
pub use crate::format::libvirt_address::LibvirtAddress;
use crate::policy::config::Quiesce;
use crate::source::running::{self, Machine, Running};
use crate::source::{Meeting, Opened};
use domain::{Disk, Domain};
use point::{LibvirtPoint, Wanted};
use tracker::CheckpointTracker;
use virsh::{Answer, Virsh};

/// What it is called in the manifest.
pub(crate) const KIND: &str = "disk of libvirt";

/// How a disk is backed up.
pub(crate) struct LibvirtOptions {
    /// The folder for scratch files.
    pub scratch: PathBuf,
    /// Whether the file systems of the guest are frozen for the moment of the backup point.
    pub quiesce: Quiesce,
    /// The file with the passphrase of the image, for a domain that does not run.
    pub secret: Option<PathBuf>,
    /// The other disks of the domain that are backed up together with it.
    pub meeting: Option<Meeting>,
}

/// Opens a disk. Scratch files have the name of the archive, if it has one yet.
///
/// # Errors
/// [`Error::Source`](crate::Error::Source) if libvirt does not answer, has no such domain, or that no such disk; if the
/// domain does not run, also if its image cannot be read.
pub(crate) fn open(
    address: LibvirtAddress,
    options: LibvirtOptions,
    archive: Option<ArchiveId>,
) -> Result<Opened<'static>> {
    let failed = |why: String| running::error(address.to_string(), &why);
    let (virsh, domain) = Virsh::find(address.domain()).map_err(failed)?;
    let disk = domain.disk(address.disk()).map_err(failed)?;
    if !domain.is_active {
        return stopped::open(&address, virsh, (&domain, disk), options);
    }
    let size_bytes = virsh.size_bytes(&disk.target).map_err(failed)?;
    let LibvirtOptions { scratch, quiesce, meeting, .. } = options;
    let unmarked = MarkName::passing(archive);
    let machine = LibvirtMachine { address, virsh, scratch, quiesce, meeting, unmarked };
    let disk = Running::open(machine, size_bytes)?;
    Ok(Opened { source: disk.source(), tracker: Some(Box::new(CheckpointTracker { disk })) })
}

/// For tests that print anything; `None` for another command.
#[cfg(feature = "testing")]
pub(super) fn read_answer(command: &str, printed: &[u8]) -> Option<Answer<()>> {
    let xml = String::from_utf8_lossy(printed);
    Some(match command {
        "dumpxml" => Domain::parse(&xml).and_then(|domain| domain.disk("vda")?.chain().map(drop)),
        "checkpoint-dumpxml" => {
            domain::checkpoint_id(&xml, MarkName::passing(None), "vda").map(drop)
        }
        "backup-dumpxml" => domain::job(&xml).map(drop),
        _ => return None,
    })
}

struct LibvirtMachine {
    address: LibvirtAddress,
    virsh: Virsh,
    scratch: PathBuf,
    quiesce: Quiesce,
    meeting: Option<Meeting>,
    /// The name of a point that is no mark.
    unmarked: MarkName,
}

impl LibvirtMachine {
    /// Asks libvirt something of the domain and the disk as they are now.
    fn ask<T>(&self, ask: impl FnOnce(&Domain, &Disk) -> Answer<T>) -> Answer<T> {
        let (_, domain) = Virsh::find(self.address.domain())?;
        ask(&domain, domain.disk(self.address.disk())?)
    }
}

impl Machine for LibvirtMachine {
    const KIND: &'static str = KIND;

    type Point = LibvirtPoint;

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn begin(&self) -> Answer<LibvirtPoint> {
        let (name, quiesce) = (self.unmarked, Quiesce::Off);
        let wanted = Wanted { name, with_checkpoint: false, since: None, quiesce };
        self.ask(|domain, disk| LibvirtPoint::begin(self, (domain, disk), wanted))
    }
}
