//! `check`: the verdicts on many archives of one machine. One that cannot be opened has a verdict as well, and hides no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::archive::folders;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Silent};
use crate::base::report_path::ReportPath;
use crate::policy::health::{self, Cause, Health, Level, Problem, SharedSpace};
use crate::verdict::status::{StatusReport, status};

/// Version of the JSON that a [`HostReport`] serializes to; `doc/scripting.md` has the promise.
pub const CHECK_SCHEMA: u32 = 1;

/// So many that cannot be looked at are named in the summary.
const MAX_NAMED: usize = 3;

/// The verdicts on many archives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostReport {
    /// Version of this structure: fields may be added within a version, never removed or changed.
    pub schema: u32,
    /// When all this was so.
    pub checked: Timestamp,
    /// The worst there is.
    pub level: Level,
    /// One line: how many are well, and what is worst.
    pub summary: String,
    /// The archives, worst first, then by folder.
    pub archives: Vec<Checked>,
    /// The file systems that they are on.
    pub file_systems: Vec<SharedSpace>,
    /// What is wrong with several of them together.
    pub problems: Vec<Problem>,
}

/// The verdict on one archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    /// Its folder, without symbolic links, however it was named; or the path that cannot be looked at.
    pub archive: ReportPath,
    /// The verdict; its level is `unknown` when the archive cannot be looked at.
    pub health: Health,
    /// What is behind it, only after [`inventory`] with the revisions; null when the archive cannot be looked at.
    pub status: Option<StatusReport>,
}

/// The archive in a folder.
///
/// # Errors
/// Those of the process, which say nothing about the archive.
pub fn check_one(folder: &Path, clock: &dyn Clock) -> Result<Checked> {
    look_at(folder, false, clock)
}

fn look_at(folder: &Path, with_revisions: bool, clock: &dyn Clock) -> Result<Checked> {
    let judge = |archive: Archive| {
        let count = if with_revisions { archive.revisions().len() } else { 0 };
        status(&archive, &(0..count).collect::<Vec<_>>(), clock)
    };
    Ok(match judged(Archive::open(folder).and_then(judge))? {
        Ok(status) => Checked::of(status),
        Err(error) => Checked::unreadable(folder, &error),
    })
}

impl Checked {
    /// The verdict of a status.
    pub fn of(status: StatusReport) -> Self {
        let (archive, health) = (status.archive.clone(), status.health.clone());
        Checked { archive, health, status: Some(status) }
    }

    /// That of what cannot be looked at.
    pub fn unreadable(folder: &Path, error: &Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::Damaged => "run 'backy scrub --rebuild' there",
            ErrorKind::Unsupported => "use the version of backy that wrote it",
            ErrorKind::Permission => "ask as a user who may read it, such as root",
            _ => "check the path, and that its disk is mounted",
        };
        let health =
            Health::of(vec![Cause::Unreadable.problem(error.to_string(), advice)], String::new);
        Checked { archive: folders::label(folder), health, status: None }
    }
}

/// All archives that are given: each path is one, or a folder with some right below it, or a pattern such as `/srv/*/backup`. Each is
/// looked at once, however often and by whatever names it is given. What cannot be looked at has a verdict as well: a folder without
/// permission or on a dead disk, a link to nothing, an empty folder, a pattern that fits nothing.
///
/// # Errors
/// Those of the process: one that may not open another file knows nothing of any archive, and gives no verdicts.
pub fn check(folders: &[PathBuf], clock: &dyn Clock) -> Result<HostReport> {
    survey(folders, false, clock, &Silent)
}

/// As [`check`], until the observer wants to stop.
pub fn check_watched(
    folders: &[PathBuf],
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<HostReport> {
    survey(folders, false, clock, observer)
}

/// The same with every revision of each archive.
pub fn inventory(folders: &[PathBuf], clock: &dyn Clock) -> Result<HostReport> {
    survey(folders, true, clock, &Silent)
}

fn survey(
    folders: &[PathBuf],
    with_revisions: bool,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<HostReport> {
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
    Ok(judge(archives, clock.now()))
}

fn judge(mut archives: Vec<Checked>, now: Timestamp) -> HostReport {
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
    let problems: Vec<Problem> =
        file_systems.iter().filter_map(|shared| health::shared_space(shared, now)).collect();
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
    // These are named in any case, also behind what is critical.
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
    use crate::base::progress::Event;

    struct Stopping;

    impl Observer for Stopping {
        fn event(&self, _event: &Event) {}

        fn cancelled(&self) -> bool {
            true
        }
    }

    /// A check of many archives ends between two of them, and gives no verdict on the rest.
    #[test]
    fn a_check_can_be_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = [folder.path().to_path_buf()];
        let stopped = check_watched(&folders, &SystemClock, &Stopping).expect_err("a wish to stop");
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        assert!(check(&folders, &SystemClock).is_ok());
    }
}
