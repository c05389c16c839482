//! A backup point of a domain that runs: from its beginning to its end, QEMU serves a disk as it was at the beginning.
//!
//! libvirt calls that a backup in pull mode: what the guest overwrites is copied to a scratch file first. There is one
//! such job at a time. Ours is known by its socket, which is in a folder with the name of the point, so that what a
//! killed backup has left can be found and ended.

use std::path::Path;
use std::time::{Duration, Instant};

use super::LibvirtMachine;
use super::domain::{Disk, Domain, escaped};
use super::virsh::{Answer, Job, Request, Virsh};
use crate::base::fork::Maker;
use crate::base::mark::{ArchiveId, MarkName};
use crate::policy::config::Quiesce;
use crate::source::nbd::NbdSource;
use crate::source::running::Point;
use crate::source::scratch::{self, Folder, Space};
use crate::source::served::Server;

/// How long the backup of another archive of the same domain is waited for.
const TO_BEGIN: Duration = Duration::from_secs(10 * 60);

/// How long a job may take to end.
const TO_END: Duration = Duration::from_secs(60);

/// How often to look for that.
const TICK: Duration = Duration::from_millis(250);

/// What a point is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub name: MarkName,
    /// Whether a checkpoint of the same name is made.
    pub with_checkpoint: bool,
    /// Report what has been written since this checkpoint.
    pub since: Option<MarkName>,
    pub quiesce: Quiesce,
}

/// A point that has begun.
pub(super) struct LibvirtPoint {
    virsh: Virsh,
    folder: Folder,
    /// `None` once it is ended.
    nbd: Option<NbdSource>,
    space: Space,
    maker: Maker,
}

impl LibvirtPoint {
    /// Begins one for a disk of a domain that runs.
    ///
    /// # Errors
    /// A sentence; what has been begun is ended again.
    pub(super) fn begin(
        machine: &LibvirtMachine,
        (domain, disk): (&Domain, &Disk),
        wanted: Wanted,
    ) -> Answer<Self> {
        let LibvirtMachine { virsh, scratch, .. } = machine;
        if !end_all(machine, wanted.name.archive)? {
            until_free(virsh)?;
        }
        let folder = Folder::of(scratch, wanted.name);
        let begun = Self::start(&folder, virsh, (domain, disk), wanted);
        if begun.is_err() {
            // What cannot be ended now is ended by whoever settles.
            let _ = end(virsh, &folder);
        }
        begun
    }

    fn start(
        folder: &Folder,
        virsh: &Virsh,
        (domain, disk): (&Domain, &Disk),
        wanted: Wanted,
    ) -> Answer<Self> {
        let is_frozen = match (wanted.quiesce, domain.has_agent) {
            (Quiesce::Off, _) | (Quiesce::Auto, false) => false,
            (Quiesce::Auto | Quiesce::Require, true) => true,
            (Quiesce::Require, false) => {
                return Err(
                    "[tracking] says quiesce = \"require\", but no guest agent is connected; start \
                     qemu-guest-agent in the guest"
                        .to_owned(),
                );
            }
        };
        let space = folder.make(virsh.size_bytes(&disk.target)?)?;
        if let Some(owner) = domain.owner {
            folder.give(owner)?;
        }
        let backup = Request::new(&backup_xml(folder, disk, wanted)?)?;
        let checkpoint = match wanted.with_checkpoint {
            true => Some(Request::new(&checkpoint_xml(wanted.name, disk, ""))?),
            false => None,
        };
        virsh.begin(&backup, checkpoint.as_ref(), is_frozen)?;
        let bitmap = wanted.since.map(|since| since.to_string());
        let nbd = folder.connect(&wanted.name.to_string(), bitmap)?;
        let (virsh, folder) = (virsh.clone(), folder.clone());
        Ok(LibvirtPoint { virsh, folder, nbd: Some(nbd), space, maker: Maker::this() })
    }
}

impl Point for LibvirtPoint {
    fn check_space(&self) -> Answer<()> {
        self.space.check()
    }

    fn check_whole(&self) -> Answer<()> {
        match self.virsh.job()? {
            Some(job) if job.socket == Some(self.folder.socket()) => Ok(()),
            _ => Err(
                "the job that keeps the disk as it was has ended before the backup; did somebody abort it?"
                    .to_owned(),
            ),
        }
    }
}

impl Server for LibvirtPoint {
    fn nbd(&self) -> Option<&NbdSource> {
        self.nbd.as_ref()
    }
}

impl Drop for LibvirtPoint {
    fn drop(&mut self) {
        self.nbd = None;
        if self.maker.is_this() {
            // Whoever settles tries again, and reports what is in the way.
            let _ = end(&self.virsh, &self.folder);
        }
    }
}

/// Ends all points of an archive, as a killed backup may have left one. Returns whether the domain has no backup job
/// then.
///
/// # Errors
/// A sentence about the first that cannot be ended.
pub(super) fn end_all(machine: &LibvirtMachine, archive: ArchiveId) -> Answer<bool> {
    let LibvirtMachine { virsh, scratch, .. } = machine;
    let job = virsh.job()?;
    let is_ours = job.as_ref().and_then(Job::name).is_some_and(|name| name.archive == archive);
    if is_ours {
        abort(virsh)?;
    }
    for name in scratch::names(scratch, archive)? {
        Folder::of(scratch, name).remove()?;
    }
    Ok(is_ours || job.is_none())
}

fn end(virsh: &Virsh, folder: &Folder) -> Answer<()> {
    if virsh.job()?.and_then(|job| job.socket) == Some(folder.socket()) {
        abort(virsh)?;
    }
    folder.remove()
}

fn abort(virsh: &Virsh) -> Answer<()> {
    virsh.abort()?;
    let asked = Instant::now();
    while virsh.job()?.is_some() {
        if asked.elapsed() > TO_END {
            return Err("an earlier backup job of the domain does not end".to_owned());
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Waits while backy backs up another disk of the domain, or this one to another archive.
fn until_free(virsh: &Virsh) -> Answer<()> {
    let asked = Instant::now();
    loop {
        let Some(job) = virsh.job()? else { return Ok(()) };
        let of_backy = job.name().is_some();
        if !of_backy || asked.elapsed() > TO_BEGIN {
            return Err(in_the_way(&job));
        }
        std::thread::sleep(TICK);
    }
}

fn in_the_way(job: &Job) -> String {
    let found = match (job.name(), &job.socket) {
        (Some(name), _) => format!("backy backs it up to the archive {}", name.archive),
        (None, Some(socket)) => {
            format!("somebody else has one with the socket {}", socket.display())
        }
        (None, None) => "somebody else has one".to_owned(),
    };
    format!(
        "libvirt has one backup job of a domain at a time, and {found}; wait for its end, or end it with \
         'virsh domjobabort'"
    )
}

/// "Backup XML format" of libvirt. Disks that are not named take no part.
fn backup_xml(folder: &Folder, disk: &Disk, wanted: Wanted) -> Answer<String> {
    let since = wanted.since.map_or_else(String::new, |since| {
        format!(" backupmode='incremental' incremental='{since}' exportbitmap='{since}'")
    });
    Ok(format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>\
         <disk name='{}' backup='yes' type='file' exportname='{}'{since}>\
         <driver type='qcow2'/><scratch file='{}'/></disk></disks></domainbackup>\n",
        path_text(&folder.socket())?,
        escaped(&disk.target),
        wanted.name,
        path_text(&folder.file())?,
    ))
}

/// "Checkpoint XML format" of libvirt. Disks that are not named get no bitmap.
fn checkpoint_xml(name: MarkName, disk: &Disk, more: &str) -> String {
    format!(
        "<domaincheckpoint><name>{name}</name><disks><disk name='{}' checkpoint='bitmap' bitmap='{name}'/></disks>\
         {more}</domaincheckpoint>\n",
        escaped(&disk.target)
    )
}

/// Tells libvirt of a checkpoint of a domain that does not run: its bitmap is made without libvirt.
///
/// # Errors
/// A sentence.
pub(super) fn redefine(virsh: &Virsh, disk: &Disk, name: MarkName) -> Answer<()> {
    let time = name.revision.time().map_or(0, |time| time.as_second());
    let more = format!("<creationTime>{time}</creationTime>{}", virsh.configuration()?);
    virsh.redefine(&Request::new(&checkpoint_xml(name, disk, &more))?)
}

/// A path as XML takes it.
fn path_text(path: &Path) -> Answer<String> {
    path.to_str().map(escaped).ok_or_else(|| {
        format!("{} is not UTF-8; set another scratch in [tracking]", path.display())
    })
}
