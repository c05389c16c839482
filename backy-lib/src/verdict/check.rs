//! `check`: the verdicts on many archives of one machine. An archive that cannot be opened gets a verdict
//! too, and does not hide the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::archive::folders;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::pipeline;
use crate::base::progress::{self, Observer};
use crate::base::report_path::ReportPath;
use crate::policy::health::{self, Cause, Health, Level, Problem, SharedSpace};
use crate::verdict::status::{StatusReport, status};

/// Version of the JSON of a [`HostReport`]; `doc/scripting.md` has the promise.
pub const CHECK_SCHEMA: u32 = 1;

/// How many unreadable archives the summary names.
const MAX_NAMED: usize = 3;

/// The verdicts on many archives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostReport {
    /// Version of this structure: fields may be added within a version, but never removed or changed.
    pub schema: u32,
    /// When the check ran.
    pub checked: Timestamp,
    /// The worst level.
    pub level: Level,
    /// One line: how many are healthy, and the worst problem.
    pub summary: String,
    /// The archives, worst first, then by folder.
    pub archives: Vec<Checked>,
    /// The file systems with these archives.
    pub file_systems: Vec<SharedSpace>,
    /// Problems that several archives cause together.
    pub problems: Vec<Problem>,
}

/// The verdict on one archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    /// Its folder, without symbolic links, whatever path was given; or the path that cannot be read.
    pub archive: ReportPath,
    /// The verdict; its level is `unknown` if the archive cannot be read.
    pub health: Health,
    /// The report behind the verdict; with revisions only if they were wanted; null if the archive cannot be read.
    pub status: Option<StatusReport>,
}

/// The verdict on the archive in a folder.
///
/// # Errors
/// Only errors of the process, which say nothing about the archive.
pub fn check_one(folder: &Path, clock: &dyn Clock) -> Result<Checked> {
    look_at(folder, false, clock)
}

fn look_at(folder: &Path, with_revisions: bool, clock: &dyn Clock) -> Result<Checked> {
    let judge = |archive: Archive| {
        let all = archive.revisions().iter().filter(|_| with_revisions);
        status(&archive, &all.map(|revision| revision.uuid).collect::<Vec<_>>(), clock)
    };
    Ok(match judged(Archive::open(folder).and_then(judge))? {
        Ok(status) => Checked::of(status),
        Err(error) => Checked::unreadable(folder, &error),
    })
}

impl Checked {
    /// From a status report.
    pub fn of(status: StatusReport) -> Self {
        let (archive, health) = (status.archive.clone(), status.health.clone());
        Checked { archive, health, status: Some(status) }
    }

    /// The same with other problems.
    pub(crate) fn judged(mut self, change: impl FnOnce(&mut Vec<Problem>)) -> Self {
        let mut problems = self.health.problems.clone();
        change(&mut problems);
        if problems != self.health.problems {
            self.health = Health::of(problems, || "no problems".to_owned());
            if let Some(status) = &mut self.status {
                status.health = self.health.clone();
            }
        }
        self
    }

    /// For an archive that does not exist.
    pub(crate) fn missing(archive: ReportPath, problem: Problem) -> Self {
        Checked { archive, health: Health::of(vec![problem], String::new), status: None }
    }

    /// For something that cannot be read.
    pub fn unreadable(folder: &Path, error: &Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::Damaged => "run 'backy scrub --rebuild' there",
            ErrorKind::Unsupported => "use the version of backy that wrote it",
            ErrorKind::Permission => "run it as root or as a user who may read it",
            _ => "check the path, and that its disk is mounted",
        };
        let health =
            Health::of(vec![Cause::Unreadable.problem(error.to_string(), advice)], String::new);
        Checked { archive: folders::label(folder), health, status: None }
    }
}

/// The verdict on each of the given archives, in no order, until the observer asks to stop: each path is an archive, a
/// folder with archives directly below it, or a pattern such as `/srv/*/backup`. Each archive is examined once, however
/// often and under whatever names it is given. A path that cannot be read gets a verdict as well: a folder without
/// permission or on a dead disk, a broken link, an empty folder, a pattern without matches.
///
/// # Errors
/// Only errors of the process: one that cannot open another file knows nothing of any archive, and gives no verdicts.
pub(crate) fn look_at_all(
    folders: &[PathBuf],
    with_revisions: bool,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<Vec<Checked>> {
    let mut found = folders::archives(folders).into_iter();
    let mut archives = Vec::new();
    // Most of the time is spent waiting for the disks.
    pipeline::run(
        vec![(); pipeline::threads(None)],
        || {
            progress::check(observer)?;
            Ok(found.next())
        },
        |(), archive| match archive {
            Ok(path) => look_at(&path, with_revisions, clock),
            Err((_, error)) if error.is_of_process() => Err(error),
            Err((path, error)) => Ok(Checked::unreadable(&path, &error)),
        },
        |checked| {
            archives.push(checked);
            Ok(())
        },
    )?;
    Ok(archives)
}

/// The verdict on all of them together, with problems that are none of a single archive.
pub(crate) fn judge(
    mut archives: Vec<Checked>,
    mut problems: Vec<Problem>,
    now: Timestamp,
) -> HostReport {
    archives.sort_by(|a, b| {
        b.health.level.cmp(&a.health.level).then_with(|| a.archive.cmp(&b.archive))
    });
    let spaces = archives.iter().filter_map(|checked| checked.status.as_ref()?.space.as_ref());
    let mut by_device: BTreeMap<u64, SharedSpace> = BTreeMap::new();
    for space in spaces {
        by_device.entry(space.device).or_default().add(space);
    }
    let file_systems: Vec<SharedSpace> =
        by_device.into_values().map(|shared| shared.foretold(now)).collect();
    problems.extend(file_systems.iter().filter_map(|shared| health::shared_space(shared, now)));
    let worst = archives.iter().map(|checked| checked.health.level);
    let level = worst.chain(problems.iter().map(|problem| problem.level)).max();
    let level = level.unwrap_or(Level::Unknown);
    let summary = summary(&archives, &problems);
    HostReport {
        schema: CHECK_SCHEMA,
        checked: now,
        level,
        summary,
        archives,
        file_systems,
        problems,
    }
}

/// `3 archives: 1 ok, 1 warning, 1 critical; /srv/backup/x: there is no backup yet`
fn summary(archives: &[Checked], problems: &[Problem]) -> String {
    let count = |level| archives.iter().filter(|checked| checked.health.level == level).count();
    let levels = [
        (Level::Ok, "ok"),
        (Level::Warning, "warning"),
        (Level::Unknown, "unknown"),
        (Level::Critical, "critical"),
    ];
    let counts = levels.map(|(level, word)| (count(level), word));
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let total = match archives.len() {
        0 => return "no archive was found".to_owned(),
        1 => "1 archive".to_owned(),
        count => format!("{count} archives"),
    };
    let worst = archives.first().filter(|checked| checked.health.level > Level::Ok);
    let worst = worst.map(|checked| format!("; {}: {}", checked.archive, checked.health.summary));
    // These are named in any case, even after critical ones.
    let unknown = archives.iter().skip(1).filter(|checked| checked.health.level == Level::Unknown);
    let unknown: Vec<&str> = unknown.map(|checked| checked.archive.as_str()).collect();
    let more = match unknown.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let unknown = match unknown.get(..MAX_NAMED.min(unknown.len())) {
        None | Some([]) => String::new(),
        Some(named) => format!("; also unknown: {}{more}", named.join(", ")),
    };
    let shared = problems.iter().max_by_key(|problem| problem.level);
    let shared = shared.map(|problem| format!("; {}", problem.message));
    let (worst, shared) = (worst.unwrap_or_default(), shared.unwrap_or_default());
    format!("{total}: {}{worst}{unknown}{shared}", counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SystemClock;
    use crate::base::progress::{Event, Silent};

    struct Stopping;

    impl Observer for Stopping {
        fn event(&self, _event: &Event) {}

        fn cancelled(&self) -> bool {
            true
        }
    }

    /// A check of many archives can be stopped between two of them, and then gives no verdict on the rest.
    #[test]
    fn a_check_can_be_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = [folder.path().to_path_buf()];
        let stopped = look_at_all(&folders, false, &SystemClock, &Stopping).expect_err("stopped");
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        assert!(look_at_all(&folders, false, &SystemClock, &Silent).is_ok());
    }
}
