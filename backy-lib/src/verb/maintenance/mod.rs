//! `maintenance` and `rm`: delete revisions that the schedule no longer keeps, or that somebody names.
//!
//! The manifest, the config and the known damage determine a plan. Then its steps are executed, and each publishes a
//! manifest of its own. Steps that free space without needing any come first. On a full disk, backy deletes a reserve
//! file to make space for the manifest.

mod appending;
mod confirm;
mod execute;
mod plan;
mod request;
mod roll_back;
mod run;

use serde::{Deserialize, Serialize};

use crate::archive::operation::Context;
use crate::format::manifest::Manifest;
use crate::policy::health::Freeze;
use crate::policy::plan::Step;
use crate::policy::retention::Verdict;

use confirm::confirm;

pub(crate) use plan::{plan, plan_removal};
pub use request::{MaintenanceRequest, RemovalRequest};

/// How to maintain.
#[derive(Debug, Clone, Default)]
pub struct MaintenanceOptions {
    /// Keep this many of the newest revisions instead of following the schedule.
    pub keep: Option<u32>,
    /// First confirm that somebody has dealt with every alarm and all known damage, so that revisions expire again.
    pub confirm: bool,
    /// Threads that compress; `None` for one per core.
    pub threads: Option<usize>,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MaintenancePlan {
    /// For each revision, newest first, whether it stays, and why.
    pub verdicts: Vec<Verdict>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Bytes on disk that this frees; negative when standalone revisions take more.
    pub frees_bytes: i64,
    /// Why nothing expires although the schedule would let it.
    pub frozen: Vec<Freeze>,
    /// Why far more revisions stay than the schedule keeps, as a sentence; null if they do not.
    pub excess: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// The plan, which was executed in full.
    #[serde(flatten)]
    pub plan: MaintenancePlan,
    /// Bytes on disk that were freed.
    pub freed_bytes: i64,
    /// What was confirmed first.
    pub confirmed: Vec<Freeze>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Executes plans. The archive has been recovered; `manifest` is the one on disk and is kept up to date.
struct Maintainer<'a> {
    context: &'a Context<'a>,
    manifest: &'a mut Manifest,
}
