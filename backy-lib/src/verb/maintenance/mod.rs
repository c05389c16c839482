//! `maintenance` and `rm`: what the schedule no longer keeps, or somebody wants gone, goes.
//!
//! A plan is made first, from the manifest, the config and what is known to be damaged; then its steps are executed, each
//! committed by itself with a manifest of its own. What frees room without needing any comes first, and a
//! file kept in reserve gives way when there is none left even for the manifest.

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
    /// Keep this many of the newest instead of what the schedule says.
    pub keep: Option<u32>,
    /// Confirm first that every alarm and all damage that is known are seen to, so that revisions expire again.
    pub confirm: bool,
    /// Threads that compress; `None` for one a core.
    pub threads: Option<usize>,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaintenancePlan {
    /// For each revision, newest first, whether it stays, and why.
    pub verdicts: Vec<Verdict>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Bytes on disk that come free; negative when standalone revisions take more.
    pub frees_bytes: i64,
    /// Why nothing expires, although the rule would let it.
    pub frozen: Vec<Freeze>,
    /// Why far more revisions stay than the schedule keeps, as a sentence; null when they do not.
    pub excess: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaintenanceReport {
    /// The plan, all of which was executed.
    #[serde(flatten)]
    pub plan: MaintenancePlan,
    /// Bytes on disk that came free.
    pub freed_bytes: i64,
    /// What was confirmed before.
    pub confirmed: Vec<Freeze>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Executes plans. The archive has been recovered; `manifest` is the one on disk and is kept up to date.
struct Maintainer<'a> {
    context: &'a Context<'a>,
    manifest: &'a mut Manifest,
}
