//! What a run would do: the jobs in the order in which they would start, and what it leaves alone.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::declared::Expected;
use super::job::Job;
use super::lanes::Limits;
use super::look::{Looking, NO_ANSWER};
use super::pool::{self, Answer};
use super::{FLEET_SCHEMA, queue};
use crate::archive::folders;
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::pipeline;
use crate::base::report_path::ReportPath;
use crate::policy::config::FleetSettings;
use crate::storage::Trust;

/// How many jobs run at a time where nothing else is set: as many as there are cores, and at most this many.
const DEFAULT_JOBS: usize = 4;

/// Archives, and how a run treats them.
#[derive(Debug, Clone, Default)]
pub struct FleetRequest {
    /// Archives, folders that hold archives, or patterns. If empty, those of the settings.
    pub folders: Vec<PathBuf>,
    /// What `fleet.toml` says.
    pub settings: FleetSettings,
    /// How many jobs run at a time; `None` for the settings' number, or one for each core, at most four.
    pub jobs: Option<NonZeroUsize>,
    /// Nothing starts later.
    pub until: Option<Timestamp>,
    /// Whether to act on archives that others can change.
    pub trust: Trust,
}

/// What a run would do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FleetPlan {
    /// Version of this structure: fields may be added within a version, but never removed or changed.
    pub schema: u32,
    /// When the plan was made.
    pub planned: Timestamp,
    /// Nothing starts later; null without a limit.
    pub until: Option<Timestamp>,
    /// How many jobs run at a time, and how many of each group.
    pub limits: Limits,
    /// The jobs, in the order in which they would start if each took as long as expected.
    pub jobs: Vec<Job>,
    /// Archives in which nothing is due.
    pub idle: Vec<Idle>,
    /// What cannot be worked on, and expectations that are not met.
    pub problems: Vec<Obstacle>,
}

/// An archive in which nothing is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Idle {
    /// Its folder, without symbolic links.
    pub archive: ReportPath,
    /// Why nothing is due, without a full stop.
    pub why: String,
    /// When the next backup is due; null if none is scheduled.
    pub next_due: Option<Timestamp>,
}

/// Something that keeps a run from its work on one archive, or from a whole list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Obstacle {
    /// The archive's folder, or what else is concerned, such as a pattern or `fleet.toml`.
    pub archive: ReportPath,
    /// What was found, in one line.
    pub message: String,
}

impl Obstacle {
    pub(super) fn new(archive: ReportPath, message: String) -> Self {
        Obstacle { archive, message }
    }
}

/// One line, with the archive.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Obstacle { archive, message } = self;
        match message.contains(archive.as_str()) {
            true => f.write_str(message),
            false => write!(f, "{archive}: {message}"),
        }
    }
}

impl FleetRequest {
    /// What a run would do now. Changes nothing, and takes no lock.
    ///
    /// # Errors
    /// Only errors of the process. An archive that cannot be worked on is one of the problems of the plan.
    pub fn plan(&self, clock: &Arc<dyn Clock>) -> Result<FleetPlan> {
        self.planned(clock, false)
    }

    pub(super) fn planned(&self, clock: &Arc<dyn Clock>, notes: bool) -> Result<FleetPlan> {
        let looking = Looking { trust: self.trust, clock: Arc::clone(clock), notes };
        let limits = self.limits();
        let mut plan = FleetPlan {
            schema: FLEET_SCHEMA,
            planned: clock.now(),
            until: self.until,
            limits: limits.clone(),
            jobs: Vec::new(),
            idle: Vec::new(),
            problems: Vec::new(),
        };
        let expected = Expected::of(self, &mut plan.problems)?;
        let mut there = BTreeSet::new();
        let found = found(&expected, &mut plan.problems)?;
        for (folder, looked) in looking.look_at_all(found)? {
            let label = folders::label(&folder);
            plan.problems.extend(expected.difference(&label, &looked));
            there.insert(label);
            plan.jobs.extend(looked.jobs);
            plan.idle.extend(looked.idle);
            plan.problems.extend(looked.problem);
        }
        expected.missing(&there, &looking, &mut plan);
        plan.idle.sort_by(|a, b| a.archive.cmp(&b.archive));
        plan.jobs = queue::order(&limits, plan.jobs);
        Ok(plan)
    }

    pub(super) fn limits(&self) -> Limits {
        let cores = pipeline::threads(None).min(DEFAULT_JOBS);
        let default = NonZeroUsize::new(cores).unwrap_or(NonZeroUsize::MIN);
        let jobs = self.jobs.or(self.settings.jobs).unwrap_or(default);
        Limits { jobs, groups: self.settings.groups.clone() }
    }
}

/// The archives that are there. What cannot be read becomes a problem.
fn found(expected: &Expected, problems: &mut Vec<Obstacle>) -> Result<Vec<PathBuf>> {
    let given = vec![expected.given()];
    let answers = pool::ask(given, |given: &Vec<PathBuf>| Ok(folders::archives(given)))?;
    let mut all = Vec::new();
    for (given, answer) in answers {
        let Answer::Got(found) = answer else {
            let given = given.iter().map(|path| path.display().to_string());
            let message = format!("cannot list them: {NO_ANSWER}");
            problems.push(Obstacle::new(given.collect::<Vec<_>>().join(", ").into(), message));
            continue;
        };
        for found in found {
            match found {
                Ok(folder) => all.push(folder),
                Err((_, error)) if error.is_of_process() => return Err(error),
                // It is about to be made.
                Err((path, _)) if expected.explains(&path) => {}
                Err((path, error)) => {
                    problems.push(Obstacle::new(folders::label(&path), error.to_string()));
                }
            }
        }
    }
    Ok(all)
}
