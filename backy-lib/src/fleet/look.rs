//! What is due in one archive.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::job::{Job, Operation};
use super::plan::{Idle, Obstacle};
use super::pool::{self, Answer};
use crate::archive::history::{self, Filled};
use crate::archive::{Archive, folders};
use crate::base::clock::{Clock, latest};
use crate::base::error::{Result, judged};
use crate::base::report_path::ReportPath;
use crate::policy::config::Config;
use crate::policy::health::{self, OriginStatus, Run};
use crate::policy::schedule::Past;
use crate::storage::{Trust, holder_note};
use crate::verb::backup::BackupOptions;

/// Why nothing is known of an archive that hangs.
pub(super) const NO_ANSWER: &str =
    "no answer within a minute; its disk, or the server of its file system, hangs";

/// What there is to do in one archive.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) jobs: Vec<Job>,
    /// Without jobs: why.
    pub(super) idle: Option<Idle>,
    pub(super) problem: Option<Obstacle>,
    /// The source in its `backy.toml`, if that can be read.
    pub(super) source: Option<ReportPath>,
    /// The origin there.
    pub(super) origin: Option<String>,
}

impl Looked {
    fn problem(folder: &Path, message: String) -> Self {
        let archive = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Looked { problem: Some(Obstacle::new(archive.into(), message)), ..Looked::default() }
    }
}

/// How to look at archives.
#[derive(Clone)]
pub(super) struct Looking {
    pub(super) trust: Trust,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether to record that somebody asked, as a backup does that is not due.
    pub(super) notes: bool,
}

impl Looking {
    /// Looks at the archives in many folders.
    ///
    /// # Errors
    /// Only errors of the process, which say nothing about the archives.
    pub(super) fn look_at_all(&self, folders: Vec<PathBuf>) -> Result<Vec<(PathBuf, Looked)>> {
        let looking = self.clone();
        let answers = pool::ask(folders, move |folder: &PathBuf| looking.look(folder))?;
        let looked = |(folder, answer): (PathBuf, Answer<Looked>)| {
            let looked = match answer {
                Answer::Got(looked) => looked,
                Answer::None => Looked::problem(&folder, NO_ANSWER.to_owned()),
            };
            (folder, looked)
        };
        Ok(answers.into_iter().map(looked).collect())
    }

    fn look(&self, folder: &Path) -> Result<Looked> {
        let opened = Archive::open_with(folder, self.trust).and_then(|archive| self.jobs(&archive));
        Ok(judged(opened)?.unwrap_or_else(|error| Looked::problem(folder, error.to_string())))
    }

    fn jobs(&self, archive: &Archive) -> Result<Looked> {
        let config = archive.config()?;
        let label = folders::label(&archive.folder());
        let source = config.source.as_ref().map(|source| (&*source.written()).into());
        let mut jobs = Vec::new();
        let filled = match archive.origin_status(&config, &*self.clock)? {
            Some(origin) => self.pull(archive, &origin),
            None => self.backup(archive, &config)?,
        };
        let idle = match filled {
            Filling::Due(job) => {
                jobs.push(*job);
                None
            }
            Filling::Not(why) => Some(why),
        };
        jobs.extend(self.maintenance(archive, &config)?);
        jobs.extend(self.scrub(archive, &config));
        if !jobs.is_empty() {
            let (filled, latest) = (Filled::of(&config), latest(self.clock.now()));
            let runs = history::recent(archive.storage(), filled, Timestamp::MAX, latest)?;
            for job in &mut jobs {
                job.archive = label.clone();
                job.group.clone_from(&config.group);
                job.machine = machine(job.operation, &config);
                job.expected_seconds = expected_seconds(job.operation, archive, &runs.runs);
                job.command = self.command(job);
            }
        }
        let idle = idle.filter(|_| jobs.is_empty());
        let idle = idle.map(|(why, next_due)| Idle { archive: label, why, next_due });
        let origin = config.origin.map(|origin| origin.url);
        Ok(Looked { jobs, idle, problem: None, source, origin })
    }

    fn pull(&self, archive: &Archive, origin: &OriginStatus) -> Filling {
        let now = self.clock.now();
        if !origin.is_due(now) {
            return Filling::Not(("no pull is due".to_owned(), origin.due_at));
        }
        let why = match (origin.due_at, archive.revisions().is_empty()) {
            (Some(_), _) => "a pull is due",
            (None, true) => "nothing has been pulled yet",
            (None, false) => "no pull is recorded",
        };
        let overdue = origin.due_at.map(|due| overdue(due, origin.interval_seconds, now));
        Filling::Due(Box::new(job(Operation::Pull, why.to_owned(), origin.due_at, overdue)))
    }

    fn backup(&self, archive: &Archive, config: &Config) -> Result<Filling> {
        let not = |why: &str| Ok(Filling::Not((why.to_owned(), None)));
        if archive.manifest().is_undo() {
            return not("an undo archive takes no backups");
        }
        if config.source.is_none() {
            return not("no source is set in backy.toml");
        }
        let now = self.clock.now();
        let plan = archive.plan_backup_by(config, &BackupOptions::default(), &*self.clock)?;
        if !plan.due {
            if self.notes {
                archive.note_asked_by(config, &holder_note("'run'", now), &*self.clock);
            }
            let why = match &plan.next_tag {
                Some(tag) => format!("the next backup is {tag}"),
                None => "no backup is due".to_owned(),
            };
            return Ok(Filling::Not((why, plan.next_due)));
        }
        let past = Past::of_manifest(archive.manifest(), self.clock.zone());
        let tags = health::tags(&past, config, now);
        let due = tags.iter().filter(|tag| plan.tags.contains(&tag.tag));
        let overdue = due.filter_map(|tag| {
            let since = tag.due_at?;
            Some((overdue(since, tag.interval_seconds, now), since, &tag.tag))
        });
        let worst = overdue.max_by(|a, b| a.0.total_cmp(&b.0));
        let has_backup = !archive.revisions().is_empty();
        let (overdue, due_since, why) = match worst {
            Some((overdue, since, tag)) => (Some(overdue), Some(since), format!("{tag} is due")),
            None if !has_backup => (None, None, "there is no backup yet".to_owned()),
            None if config.schedule.is_empty() => (Some(0.0), None, "there is no schedule".into()),
            None => {
                let tags: Vec<&str> = plan.tags.iter().map(|tag| tag.as_str()).collect();
                (Some(1.0), None, format!("no revision has the tag {} yet", tags.join(", ")))
            }
        };
        Ok(Filling::Due(Box::new(job(Operation::Backup, why, due_since, overdue))))
    }

    fn maintenance(&self, archive: &Archive, config: &Config) -> Result<Option<Job>> {
        Ok(archive.maintenance_due(config, &*self.clock)?.map(|work| {
            let why = match (work.deletions, work.standalone) {
                (0, 0) => "tags expire".to_owned(),
                (0, some) => format!("{} to make standalone", revisions(some)),
                (some, _) => format!("{} to delete", revisions(some)),
            };
            job(Operation::Maintenance, why, None, Some(0.0))
        }))
    }

    fn scrub(&self, archive: &Archive, config: &Config) -> Option<Job> {
        let now = self.clock.now();
        archive.scrub_due(config, &*self.clock).map(|due| {
            let age = now.as_second() - due.unverified_since.as_second();
            let why = format!("some data was last verified {} ago", health::display_age(age));
            let overdue = due.since.map(|since| overdue(since, due.interval.as_secs(), now));
            job(Operation::Scrub, why, due.since, overdue)
        })
    }

    /// The command that does a job.
    pub(super) fn command(&self, job: &Job) -> Vec<ReportPath> {
        let mut words: Vec<ReportPath> = vec!["backy".to_owned().into()];
        if self.trust == Trust::Given {
            words.push("--trust".to_owned().into());
        }
        words.extend(["-b".to_owned().into(), job.archive.clone()]);
        words.push(job.operation.name().to_owned().into());
        if matches!(job.operation, Operation::Pull | Operation::Scrub) {
            words.push("--when-due".to_owned().into());
        }
        words
    }
}

/// Whether a backup or a pull is due.
enum Filling {
    Due(Box<Job>),
    Not((String, Option<Timestamp>)),
}

/// A job of which the rest is filled in by whoever knows it.
pub(super) fn job(
    operation: Operation,
    why: String,
    due_since: Option<Timestamp>,
    overdue: Option<f64>,
) -> Job {
    Job {
        archive: ReportPath::default(),
        operation,
        why,
        due_since,
        overdue,
        group: None,
        machine: None,
        expected_seconds: None,
        command: Vec::new(),
    }
}

/// The virtual machine whose disks can have one backup point; a snapshot that hooks make is none of its disks.
fn machine(operation: Operation, config: &Config) -> Option<String> {
    let is_disk = operation == Operation::Backup && config.hooks.snapshot.is_none();
    config.source.as_ref().filter(|_| is_disk)?.machine()
}

/// How many intervals ago something was due.
fn overdue(since: Timestamp, interval_seconds: i64, now: Timestamp) -> f64 {
    let late = (now.as_second() - since.as_second()).max(0);
    late as f64 / interval_seconds.max(1) as f64
}

/// As long as the last time.
fn expected_seconds(operation: Operation, archive: &Archive, runs: &[Run]) -> Option<f64> {
    let run = runs.iter().find(|run| run.operation == operation.name() && run.result == "ok");
    let run = run.map(|run| run.finished.duration_since(run.started).as_secs_f64());
    let newest = archive.revisions().first().filter(|_| operation == Operation::Backup);
    run.or_else(|| newest.map(|newest| newest.statistics.seconds)).map(|seconds| seconds.max(0.0))
}

fn revisions(count: usize) -> String {
    if count == 1 { "1 revision".to_owned() } else { format!("{count} revisions") }
}
