//! A fleet: many archives, what is due in each, and one run that does it.
//!
//! [`FleetRequest::plan`] looks at every archive and lists the jobs that are due, most urgent first. A
//! [`run`](FleetRequest::run) starts each job as a process of its own, at most so many at a time, so that the crash,
//! the memory or the hang of one archive does not reach another. Whether a job is due is decided once more under the
//! archive's lock, so several runs at once, also of several hosts, do each job once.

mod check;
mod child;
mod declared;
mod ended;
mod job;
mod lanes;
mod listing;
mod look;
mod meeting;
mod plan;
mod pool;
mod queue;
mod report;
mod run;
mod settings;
mod textfile;
mod until;

pub use child::{JOB_MARK, JobMark, PROGRESS, Severity};
pub use job::{Job, Operation};
pub use lanes::Limits;
pub use plan::{FleetPlan, FleetRequest, Idle, Obstacle};
pub use report::{Done, FleetReport, JobReport, JobResult};
pub use run::{FleetEvent, FleetObserver, Running};
pub use textfile::fleet_metrics;
pub use until::parse_until;

/// Version of the JSON of a [`FleetPlan`] and of a [`FleetReport`]; `doc/scripting.md` has the promise.
pub const FLEET_SCHEMA: u32 = 1;
