//! `drill`: a timed test restore. Proves that a revision can be restored, and how fast.
//!
//! [`read`] reads a whole revision and checks it; [`assemble`] also writes it to a temporary file for a
//! program to examine, and [`run_command`] runs one. The caller chooses the revision, the folder of the file,
//! and the program. If the archive does not return the correct bytes, the drill fails; an error means that
//! the drill could not be done.

mod record;

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;

use crate::archive::operation::{Context, Request};
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::fork::Maker;
use crate::base::progress::{Observer, Phase};
use crate::base::revision::RevisionId;
use crate::format::manifest::{DrillReport, Manifest, Revision, Unknown};
use crate::image::sequential::{Reading, check_digests};
use crate::policy::config::{Config, TimeLimit};
use crate::storage::who_can_swap;
use crate::target::unfinished::{Folder, Note, Token};
use crate::target::{FileTarget, Target, space};
use crate::verb::restore::{self, RestoreOptions};

pub use crate::source::hooks::{run_command, words_on};
pub use record::{choose, record};

impl DrillReport {
    /// Adds the verdict of a command on the revision: `Err` with the reason if it fails. `program` is only
    /// its name, because the report is kept in the manifest and shown to others, and arguments may be secret.
    pub fn judged(mut self, program: String, verdict: std::result::Result<(), String>) -> Self {
        self.command = Some(program);
        if let Err(why) = verdict {
            self.passed = false;
            self.message = why;
        }
        self
    }
}

/// A revision in a read-only temporary file. Deleted when dropped; if this process is killed, the next one to
/// create a file in that folder deletes it.
#[derive(Debug)]
pub struct Assembled {
    path: PathBuf,
    folder: Folder,
    name: String,
    maker: Maker,
    // Dropped after the file is deleted.
    _note: Option<Note>,
}

impl Assembled {
    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Assembled {
    fn drop(&mut self) {
        // A Python callable may have forked, and its child exits first.
        if self.maker.is_this() {
            // Somebody may have deleted it; no other error could be reported.
            let _ = self.folder.remove(&self.name);
        }
    }
}

/// How long the command of a drill in this archive may take: the config's limit, or the default if the config
/// cannot be read.
pub fn timeout(archive: &Archive) -> TimeLimit {
    archive.config().map_or_else(|_| TimeLimit::default(), |config| config.drill_timeout)
}

/// Which of `revisions` revisions a drill takes, given any number such as a random one; `None` if there are none.
fn pick(revisions: usize, seed: u64) -> Option<usize> {
    seed.checked_rem(revisions as u64).map(|number| number as usize)
}

/// Reads a revision through its chain, and checks every block.
pub fn read(
    archive: &Archive,
    id: RevisionId,
    threads: Option<usize>,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<DrillReport> {
    let drill = Drill::begin(archive, id, clock)?;
    let mut read_bytes = 0;
    let outcome = archive.open_revision(id).and_then(|chain| {
        check_digests(&chain, false, observer)?;
        let (phase, keep_going) = (Phase::Drill, false);
        let reading =
            Reading { chain: &chain, phase, max_void_bytes: u64::MAX, keep_going, threads };
        reading.run(observer, |piece| {
            read_bytes += piece.data_bytes;
            Ok(())
        })
    });
    match outcome {
        Err(error) if !error.is_loss() => Err(error),
        outcome => Ok(drill.end(outcome.err(), read_bytes)),
    }
}

/// Restores a revision to a temporary file in the folder `place`, with mode 0400 if the file system has
/// permissions. There is no file if the drill failed.
///
/// # Errors
/// [`Error::Target`] if others could replace the file there. [`crate::ErrorKind::NoSpace`] also if the folder
/// has less space than the revision has data.
pub fn assemble(
    archive: &Archive,
    id: RevisionId,
    place: &Path,
    threads: Option<usize>,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<(DrillReport, Option<Assembled>)> {
    let drill = Drill::begin(archive, id, clock)?;
    let folder = open_private(place)?;
    folder.sweep();
    let token = Token::new();
    let name = format!("backy-drill-{}-{token}.img", drill.revision.uuid);
    let path = place.join(&name);
    let options = RestoreOptions { threads, ..RestoreOptions::default() };
    let (mut read_bytes, mut assembled) = (0, None);
    let outcome = archive.open_revision(id).and_then(|chain| {
        let needed = space::needed_bytes(&chain, None, observer)?;
        space::check(place, needed)?;
        let note = Note::write(&folder, &token, &name).map_err(Error::io(&path, "create"))?;
        let target = FileTarget::create_in(folder.clone(), &path)?;
        restore::to_target(&chain, &target, &options, observer)?;
        let maker = Maker::this();
        let made = Assembled { path: path.clone(), folder, name, maker, _note: note };
        make_read_only(&target)?;
        assembled = Some(made);
        read_bytes = needed;
        Ok(())
    });
    // The target's errors say nothing about the archive.
    let of_target = |error: &Error| error.path().is_some_and(|at| at == path || at == place);
    match outcome {
        Err(error) if !error.is_loss() || of_target(&error) => Err(error),
        Err(error) => Ok((drill.end(Some(error), read_bytes), None)),
        Ok(()) => Ok((drill.end(None, read_bytes), assembled)),
    }
}

/// Opens the folder of a temporary file whose path a command gets: the command must find exactly that file there.
fn open_private(place: &Path) -> Result<Folder> {
    let folder = Folder::open(place).map_err(Error::io(place, "open the folder"))?;
    let others = who_can_swap(&folder)
        .map_err(|errno| Error::io(place, "look up the folder")(errno.into()))?;
    match others {
        None => Ok(folder),
        Some(found) => {
            let message = format!(
                "{found}, so another user could replace the restored file; choose a folder that only you may \
                 write to, or one with the sticky bit such as /tmp"
            );
            Err(Error::Target { path: place.to_owned(), message, forcible: false })
        }
    }
}

fn make_read_only(target: &FileTarget) -> Result<()> {
    match fchmod(target.file(), Mode::RUSR) {
        // A file system without permissions, such as FAT: writes to the file are discarded with it anyway.
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(Error::io(target.path(), "make it read-only")(errno.into())),
    }
}

/// A drill in progress.
struct Drill<'a> {
    revision: &'a Revision,
    started: Timestamp,
    began: Instant,
}

impl<'a> Drill<'a> {
    fn begin(archive: &'a Archive, id: RevisionId, clock: &dyn Clock) -> Result<Self> {
        if archive.manifest().is_undo() {
            let message =
                "an undo archive holds only what a restore overwrote; there is no whole revision to test"
                    .to_owned();
            return Err(Error::Specification { message });
        }
        let revision = archive.revision(id)?;
        Ok(Drill { revision, started: clock.now(), began: Instant::now() })
    }

    fn end(&self, error: Option<Error>, read_bytes: u64) -> DrillReport {
        let seconds = self.began.elapsed().as_secs_f64();
        DrillReport {
            revision: self.revision.uuid,
            started: self.started,
            seconds,
            size_bytes: self.revision.size_bytes,
            read_bytes,
            bytes_per_second: (read_bytes as f64 / seconds.max(1e-9)) as u64,
            command: None,
            passed: error.is_none(),
            message: match error {
                None => "all blocks verified".to_owned(),
                Some(error) => error.to_string(),
            },
            unknown: Unknown::new(),
        }
    }
}

impl ArchiveWriter {
    /// Records a test restore, for `status` to show. A failed one stays until one of the same revision has passed,
    /// with a command if the failed one had a command: another healthy revision proves nothing about this one.
    pub fn record_drill(
        &mut self,
        drill: DrillReport,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        self.operation(Record { drill }, clock, observer).map(drop)
    }
}

struct Record {
    drill: DrillReport,
}

impl Request for Record {
    const NAME: &'static str = "drill";
    type Plan = Manifest;
    type Report = DrillReport;

    /// What is recorded does not depend on the config.
    fn config(_: &Archive) -> Result<Config> {
        Ok(Config::default())
    }

    fn plan(&self, writer: &mut ArchiveWriter, _: &Context<'_>) -> Result<Manifest> {
        let mut after = writer.archive().manifest().clone();
        let last = after.drill.as_ref().filter(|last| {
            let is_there = after.revisions.iter().any(|revision| revision.uuid == last.revision);
            is_there && !last.passed
        });
        if last.is_none_or(|last| self.drill.settles(last)) {
            after.drill = Some(self.drill.clone());
        }
        Ok(after)
    }

    fn started(&self, _: &dyn Clock) -> Timestamp {
        self.drill.started
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        _: &Context<'_>,
        after: Manifest,
        _: Timestamp,
    ) -> Result<DrillReport> {
        writer.publish(after)?;
        Ok(self.drill)
    }

    fn is_recorded(done: &Result<DrillReport>) -> bool {
        done.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any number picks an existing revision, and every revision can be picked.
    #[test]
    fn every_revision_is_picked_by_some_number() {
        assert_eq!(pick(0, 7), None);
        let picked: Vec<_> = (0..3).filter_map(|seed| pick(3, seed)).collect();
        assert_eq!(picked, [0, 1, 2]);
        assert_eq!(pick(3, u64::MAX), Some(0));
    }

    /// Earlier versions kept the whole command of a drill, which may contain a secret: only the program is
    /// ever shown again.
    #[test]
    fn the_arguments_of_earlier_drills_are_forgotten() {
        let mut report = serde_json::json!({
            "revision": "019b0e2c-7c00-7000-8000-000000000001", "started": "2026-11-28T02:00:00Z", "seconds": 1.5,
            "size_bytes": 4,
            "read_bytes": 4, "bytes_per_second": 2, "command": "sh -c true --password=hunter2", "passed": true,
            "message": "right"
        });
        let read = |report: &serde_json::Value| {
            serde_json::from_value::<DrillReport>(report.clone()).expect("a report")
        };
        let written = serde_json::to_value(read(&report)).expect("JSON");
        report["command"] = "sh".into();
        assert_eq!(written, report);
        for none in [serde_json::Value::Null, "".into()] {
            report["command"] = none.clone();
            assert_eq!(serde_json::to_value(read(&report)).expect("JSON"), report, "{none}");
        }
    }
}
