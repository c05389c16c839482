//! Marks at a disk of a domain that runs: checkpoints, one for each.

use std::sync::Arc;

use super::LibvirtMachine;
use super::domain::{Disk, Domain};
use super::point::{self, LibvirtPoint, Wanted};
use super::virsh::{Answer, Virsh};
use crate::base::error::Result;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::running::Running;
use crate::source::tracking::{Marked, Tracker, check_id, check_identity};

/// Its name in bookmarks.
pub(super) const TRACKER: &str = "libvirt";

/// What one bit stands for: the default of QEMU for images with clusters of 64 KiB, which libvirt leaves as it is.
const GRANULARITY: u64 = 64 << 10;

/// libvirt makes no checkpoints in others.
pub(super) const FORMAT: &str = "qcow2";

pub(super) struct CheckpointTracker {
    pub disk: Arc<Running<LibvirtMachine>>,
}

/// What distinguishes a disk with what is below it from any other.
pub(super) fn identity(domain: &Domain, disk: &Disk, chain: &str) -> String {
    format!("domain {}, disk {}, {chain}", domain.uuid, disk.target)
}

/// Checks that an earlier checkpoint tells what has changed.
///
/// # Errors
/// A sentence: why it does not.
pub(super) fn earlier(
    virsh: &Virsh,
    disk: &Disk,
    found: Answer<String>,
    (name, bookmark): (MarkName, &Bookmark),
) -> Answer<()> {
    check_identity("disk", &found?, bookmark)?;
    if !virsh.checkpoints(name.archive)?.contains(&name) {
        return Err(format!("the checkpoint {name} is missing"));
    }
    check_id(("checkpoint", name), &virsh.checkpoint_id(name, &disk.target)?, bookmark)
}

/// Why libvirt makes no checkpoint of a disk; `None` if it may.
fn obstacle(disk: &Disk) -> Option<String> {
    (disk.format != FORMAT).then(|| {
        format!(
            "libvirt makes checkpoints only of disks in {FORMAT}, and this is {}",
            disk.format.escape_debug()
        )
    })
}

impl CheckpointTracker {
    fn ask<T>(&self, ask: impl FnOnce(&Domain, &Disk) -> Answer<T>) -> Result<T> {
        self.disk.machine.ask(ask).map_err(|why| self.disk.error(&why))
    }

    fn virsh(&self) -> &Virsh {
        &self.disk.machine.virsh
    }

    /// Begins a point, and serves the disk as it is then: together with others if it meets any, and otherwise alone.
    fn begin(&self, domain: &Domain, disk: &Disk, wanted: Wanted) -> Answer<Beginning> {
        let machine = &self.disk.machine;
        let met = match &machine.meeting {
            Some(meeting) => LibvirtPoint::share(machine, meeting, (domain, disk), wanted)?,
            None => None,
        };
        if let Some((point, mut begun)) = met {
            let doubt = begun.doubt.filter(|_| wanted.since.is_some());
            self.serve(point, wanted.since.is_some() && doubt.is_none());
            return Ok(Beginning { doubt, unmarked: begun.unmarked.remove(&wanted.name) });
        }
        let mut doubt = None;
        if wanted.since.is_some() {
            doubt = self.refused(domain, disk, wanted)?;
            if doubt.is_none() {
                return Ok(Beginning::default());
            }
        }
        let mut unmarked = None;
        if wanted.with_checkpoint {
            unmarked = self.refused(domain, disk, Wanted { since: None, ..wanted })?;
            if unmarked.is_none() {
                return Ok(Beginning { doubt, unmarked });
            }
        }
        let plain = Wanted { since: None, with_checkpoint: false, ..wanted };
        self.serve(LibvirtPoint::begin(machine, (domain, disk), plain)?, false);
        Ok(Beginning { doubt, unmarked })
    }

    /// Begins a point alone. Returns why libvirt refuses it, if it may not refuse another one.
    fn refused(&self, domain: &Domain, disk: &Disk, wanted: Wanted) -> Answer<Option<String>> {
        match LibvirtPoint::begin(&self.disk.machine, (domain, disk), wanted) {
            Ok(point) => {
                self.serve(point, wanted.since.is_some());
                Ok(None)
            }
            Err(why) if Virsh::is_of_guest(&why) => Err(why),
            Err(why) => Ok(Some(why)),
        }
    }

    fn serve(&self, point: LibvirtPoint, is_tracked: bool) {
        self.disk.served.replace(Some(point), is_tracked);
    }
}

/// What came of beginning a point.
#[derive(Default)]
struct Beginning {
    /// Why it is not known what has been written since the earlier checkpoint.
    doubt: Option<String>,
    /// Why there is no checkpoint.
    unmarked: Option<String>,
}

impl Tracker for CheckpointTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        self.disk.served.replace(None, false);
        let quiesce = self.disk.machine.quiesce;
        self.ask(|domain, disk| {
            let chain = disk.chain().map(|chain| identity(domain, disk, &chain));
            let plain = Wanted { name, with_checkpoint: false, since: None, quiesce };
            let identity = match obstacle(disk).map_or_else(|| chain.clone(), Err) {
                Ok(identity) => identity,
                Err(why) => {
                    self.begin(domain, disk, plain)?;
                    return Ok(Marked::none(why));
                }
            };
            let doubt = match since {
                None => Some("there is no earlier mark".to_owned()),
                Some(known) => earlier(self.virsh(), disk, chain, known).err(),
            };
            let since = since.map(|(since, _)| since).filter(|_| doubt.is_none());
            let wanted = Wanted { with_checkpoint: true, since, ..plain };
            let begun = self.begin(domain, disk, wanted)?;
            if let Some(why) = begun.unmarked {
                return Ok(Marked::none(format!("a checkpoint cannot be made: {why}")));
            }
            let doubt = doubt.or(begun.doubt);
            let bookmark = self
                .virsh()
                .checkpoint_id(name, &disk.target)
                .map(|id| Bookmark::new(TRACKER, id, identity, GRANULARITY));
            Ok(match bookmark {
                Ok(bookmark) => Marked { bookmark: Some(bookmark), doubt },
                Err(why) => Marked::none(why),
            })
        })
    }

    fn hold(&mut self, name: MarkName) -> Result<()> {
        self.disk.served.replace(None, false);
        let quiesce = self.disk.machine.quiesce;
        let plain = Wanted { name, with_checkpoint: false, since: None, quiesce };
        self.ask(|domain, disk| self.begin(domain, disk, plain).map(drop))
    }

    fn obstacle(&self) -> Option<String> {
        self.ask(|_, disk| Ok(obstacle(disk).or_else(|| disk.chain().err()))).ok().flatten()
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        self.ask(|domain, disk| {
            let found = disk.chain().map(|chain| identity(domain, disk, &chain));
            Ok(earlier(self.virsh(), disk, found, (name, bookmark)).err())
        })
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        self.virsh().checkpoints(archive).map_err(|why| self.disk.error(&why))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.disk.served.replace(None, false);
        self.ask(|domain, _| {
            // What a killed backup has left; a domain that has stopped meanwhile has no job any more.
            point::end_all(&self.disk.machine, archive)?;
            for name in self.virsh().checkpoints(archive)? {
                if Some(name) != keep {
                    self.virsh().delete(name, domain.is_active)?;
                }
            }
            Ok(())
        })
    }
}
