//! A backup point of a domain that runs: from its beginning to its end, QEMU serves a disk as it was at the beginning.
//!
//! libvirt calls that a backup in pull mode: what the guest overwrites is copied to a scratch file first. There is one
//! such job at a time. Ours is known by its socket, which is in a folder with the name of the point, so that what a
//! killed backup has left can be found and ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::LibvirtMachine;
use super::domain::{Disk, Domain, Job, escaped};
use super::virsh::{Answer, Request, Virsh};
use crate::base::fork::Maker;
use crate::base::mark::{ArchiveId, MarkName};
use crate::policy::config::Quiesce;
use crate::source::Meeting;
use crate::source::meeting::{Begun, Came, Participant};
use crate::source::nbd::NbdSource;
use crate::source::running::Point;
use crate::source::scratch::{self, Ending, Folder, InUse};
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
    /// With the scratch file of this disk.
    folder: Folder,
    /// With the socket, which several disks may have in common.
    served_in: Folder,
    /// Those that have it in common.
    meeting: Option<Meeting>,
    /// `None` once it is ended.
    nbd: Option<NbdSource>,
    /// `None` once it is ended.
    in_use: Option<InUse>,
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
        let start = || {
            let (disk, in_use) = ready(&folder, machine, (domain, disk), wanted)?;
            let checkpoint = match wanted.with_checkpoint {
                true => Some(Request::new(&checkpoint_xml(wanted.name, &disk.target, ""))?),
                false => None,
            };
            let backup = Request::new(&backup_xml(&folder, std::slice::from_ref(&disk))?)?;
            virsh.begin(&backup, checkpoint.as_ref(), disk.freezes)?;
            Self::begun(machine, &disk, (folder.clone(), None), in_use).connected(&disk)
        };
        let begun = start();
        if begun.is_err() {
            // What cannot be ended now is ended by whoever settles.
            let _ = end(virsh, &folder);
        }
        begun
    }

    /// Has one begin for this disk and those that it meets, and waits until this one may be read. Returns it with what
    /// there is to know about the marks; `None` if it has to be begun for this disk alone.
    ///
    /// # Errors
    /// A sentence; what has been begun is ended again, unless others still need it.
    pub(super) fn share(
        machine: &LibvirtMachine,
        meeting: &Meeting,
        (domain, disk): (&Domain, &Disk),
        wanted: Wanted,
    ) -> Answer<Option<(Self, Begun)>> {
        end_all(machine, wanted.name.archive)?;
        let folder = Folder::of(&machine.scratch, wanted.name);
        let meet = || {
            let (disk, in_use) = ready(&folder, machine, (domain, disk), wanted)?;
            let begun = match meeting.arrive(disk.clone())? {
                Came::Apart => return Ok(None),
                Came::Begun(begun) => begun,
                Came::Begin(all) => match begin_for(&machine.virsh, &disk, &all) {
                    Ok(begun) => {
                        meeting.begun(&begun)?;
                        begun
                    }
                    Err(why) => {
                        meeting.failed(why)?;
                        return Ok(None);
                    }
                },
            };
            let is_begun_here = begun.by == disk;
            let since = disk.since.filter(|_| begun.doubt.is_none());
            let disk = Participant { since, ..disk };
            let shared = (begun.by.folder(), Some(meeting.clone()));
            let point = Self::begun(machine, &disk, shared, in_use).connected(&disk)?;
            if !is_begun_here {
                meeting.wait()?;
            }
            Ok(Some((point, begun)))
        };
        let met = meet();
        if !matches!(met, Ok(Some(_))) {
            let _ = end(&machine.virsh, &folder);
        }
        if let Ok(None) = met {
            meeting.wait()?;
            let virsh = &machine.virsh;
            // Whoever could not begin the point for all may have made it.
            if virsh.checkpoints(wanted.name.archive)?.contains(&wanted.name) {
                virsh.delete(wanted.name, true)?;
            }
        }
        met
    }

    /// One that has begun, and is served in a folder. Dropping it ends it.
    fn begun(
        machine: &LibvirtMachine,
        disk: &Participant,
        (served_in, meeting): (Folder, Option<Meeting>),
        in_use: InUse,
    ) -> Self {
        let (virsh, folder, maker) = (machine.virsh.clone(), disk.folder(), Maker::this());
        let in_use = Some(in_use);
        LibvirtPoint { virsh, folder, served_in, meeting, nbd: None, in_use, maker }
    }

    fn connected(mut self, disk: &Participant) -> Answer<Self> {
        let bitmap = disk.since.map(|since| since.to_string());
        self.nbd = Some(self.served_in.connect(&disk.name.to_string(), bitmap)?);
        Ok(self)
    }
}

/// Makes the folder of a disk for which a point may begin then.
///
/// # Errors
/// A sentence.
fn ready(
    folder: &Folder,
    machine: &LibvirtMachine,
    (domain, disk): (&Domain, &Disk),
    wanted: Wanted,
) -> Answer<(Participant, InUse)> {
    let freezes = match (wanted.quiesce, domain.has_agent) {
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
    let in_use = folder.make(machine.virsh.size_bytes(&disk.target)?)?;
    if let Some(owner) = domain.owner {
        folder.give(owner)?;
    }
    let Wanted { name, with_checkpoint: is_marked, since, .. } = wanted;
    let (target, scratch) = (disk.target.clone(), machine.scratch.clone());
    Ok((Participant { target, name, is_marked, since, scratch, freezes }, in_use))
}

/// Begins a point for several disks, and makes their checkpoints, each of its own archive. These come first: then what
/// is written before the point is read once more by the next backup, and nothing is missed.
fn begin_for(virsh: &Virsh, by: &Participant, all: &[Participant]) -> Answer<Begun> {
    until_free(virsh)?;
    let mut unmarked = BTreeMap::new();
    for disk in all.iter().filter(|disk| disk.is_marked) {
        let request = Request::new(&checkpoint_xml(disk.name, &disk.target, ""))?;
        if let Err(why) = virsh.create(&request) {
            unmarked.insert(disk.name, why);
        }
    }
    let freezes = all.iter().any(|disk| disk.freezes);
    let begin = |all: &[Participant]| {
        virsh.begin(&Request::new(&backup_xml(&by.folder(), all)?)?, None, freezes)
    };
    let doubt = match begin(all) {
        Err(why) if !Virsh::is_of_guest(&why) && all.iter().any(|disk| disk.since.is_some()) => {
            let whole = all.iter().map(|disk| Participant { since: None, ..disk.clone() });
            begin(&whole.collect::<Vec<_>>())?;
            Some(why)
        }
        begun => begun.map(|()| None)?,
    };
    Ok(Begun { by: by.clone(), doubt, unmarked })
}

impl Point for LibvirtPoint {
    fn check_space(&self) -> Answer<()> {
        self.in_use.as_ref().map_or(Ok(()), InUse::check)
    }

    fn check_whole(&self) -> Answer<()> {
        match self.virsh.job()? {
            Some(job) if job.socket == Some(self.served_in.socket()) => Ok(()),
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
        (self.nbd, self.in_use) = (None, None);
        if self.maker.is_this() {
            // Whoever settles tries again, and reports what is in the way.
            let _ = end(&self.virsh, &self.served_in);
            if self.folder != self.served_in {
                let _ = self.folder.remove();
            }
            if let Some(meeting) = &self.meeting {
                meeting.leave();
            }
        }
    }
}

/// Ends what backups of backy that were killed have left, and removes all folders of an archive that nobody uses.
/// Returns whether the domain has no backup job then.
///
/// # Errors
/// A sentence about the first that cannot be ended.
pub(super) fn end_all(machine: &LibvirtMachine, archive: ArchiveId) -> Answer<bool> {
    let LibvirtMachine { virsh, scratch, .. } = machine;
    let mut job = virsh.job()?;
    if let Some(found) = &job
        && abandon(virsh, found)?
    {
        job = None;
    }
    let names =
        scratch::names(scratch, archive)?.into_iter().chain(scratch::served(scratch, archive));
    for name in names {
        let folder = Folder::of(scratch, name);
        // Others may still read from a point that was begun here.
        if job.as_ref().and_then(|job| job.socket.as_ref()) != Some(&folder.socket()) {
            match job {
                None => clear(virsh, &folder)?,
                Some(_) => folder.remove()?,
            }
        }
    }
    Ok(job.is_none())
}

fn end(virsh: &Virsh, folder: &Folder) -> Answer<()> {
    match virsh.job()?.filter(|job| job.socket == Some(folder.socket())) {
        Some(job) if !abandon(virsh, &job)? => Ok(()),
        _ => folder.remove(),
    }
}

/// Ends a job if backy has begun it, for whichever archive, and no process of backy reads from it any more. Returns
/// whether it has done that.
///
/// Processes do this one at a time: otherwise the second could end another job, which has just begun.
fn abandon(virsh: &Virsh, job: &Job) -> Answer<bool> {
    let Some((scratch, folder)) = job.served_in().filter(|_| !job.is_in_use()) else {
        return Ok(false);
    };
    let _ending = Ending::begin(scratch)?;
    if virsh.job()?.as_ref() != Some(job) || job.is_in_use() {
        return Ok(false);
    }
    virsh.abort()?;
    let asked = Instant::now();
    // Another one may begin at once.
    while virsh.job()?.as_ref() == Some(job) {
        if asked.elapsed() > TO_END {
            return Err("an earlier backup job of the domain does not end".to_owned());
        }
        std::thread::sleep(TICK);
    }
    clear(virsh, &folder)?;
    Ok(true)
}

/// Removes the folder of a job that has ended. A libvirtd that was killed while it began or ended a job, or that has
/// read of one when it was started again, may leave QEMU serving.
fn clear(virsh: &Virsh, folder: &Folder) -> Answer<()> {
    if folder.is_served() {
        virsh.stop_serving()?;
    }
    folder.remove()
}

/// Waits while backy backs up another disk of the domain, or this one to another archive.
fn until_free(virsh: &Virsh) -> Answer<()> {
    let asked = Instant::now();
    loop {
        let Some(job) = virsh.job()? else { return Ok(()) };
        if abandon(virsh, &job)? {
            continue;
        }
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

/// "Backup XML format" of libvirt, for disks that are served in a folder. Disks that are not named take no part.
fn backup_xml(served_in: &Folder, disks: &[Participant]) -> Answer<String> {
    let disks = disks.iter().map(|disk| {
        let since = disk.since.map_or_else(String::new, |since| {
            format!(" backupmode='incremental' incremental='{since}' exportbitmap='{since}'")
        });
        Ok(format!(
            "<disk name='{}' backup='yes' type='file' exportname='{}'{since}>\
             <driver type='qcow2'/><scratch file='{}'/></disk>",
            escaped(&disk.target),
            disk.name,
            path_text(&disk.folder().file())?,
        ))
    });
    Ok(format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>{}</disks></domainbackup>\n",
        path_text(&served_in.socket())?,
        disks.collect::<Answer<String>>()?,
    ))
}

/// "Checkpoint XML format" of libvirt. Disks that are not named get no bitmap.
fn checkpoint_xml(name: MarkName, target: &str, more: &str) -> String {
    format!(
        "<domaincheckpoint><name>{name}</name><disks><disk name='{}' checkpoint='bitmap' bitmap='{name}'/></disks>\
         {more}</domaincheckpoint>\n",
        escaped(target)
    )
}

/// Tells libvirt of a checkpoint of a domain that does not run: its bitmap is made without libvirt.
///
/// # Errors
/// A sentence.
pub(super) fn redefine(virsh: &Virsh, disk: &Disk, name: MarkName) -> Answer<()> {
    let time = name.revision.time().map_or(0, |time| time.as_second());
    let more = format!("<creationTime>{time}</creationTime>{}", virsh.configuration()?);
    virsh.redefine(&Request::new(&checkpoint_xml(name, &disk.target, &more))?)
}

/// A path as XML takes it.
fn path_text(path: &Path) -> Answer<String> {
    path.to_str().map(escaped).ok_or_else(|| {
        format!("{} is not UTF-8; set another scratch in [tracking]", path.display())
    })
}
