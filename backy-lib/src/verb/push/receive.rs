//! The called side of a push.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::base::error::{Error, Result};
use crate::origin::wire::{Accepted, FdReader, FdWriter, Pipes, ServeOptions, WireOrigin, accept};
use crate::origin::{Address, SshOptions};
use crate::policy::select::RevisionsSpec;
use crate::storage::Trust;
use crate::verb::caller::Caller;
use crate::verb::pull::{PullOptions, PullReport, PullRequest};

/// The longest that a caller may let this side wait for the lock.
const MOST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes the push of a caller.
#[derive(Debug, Clone)]
pub struct ReceiveRequest {
    /// The archive that the caller names is in this folder, or is this folder.
    pub root: PathBuf,
    /// Whether to act on an archive that others can change.
    pub trust: Trust,
    /// How to take the call.
    pub options: ServeOptions,
}

type Asking<'a> = WireOrigin<FdReader<'a>, FdWriter>;

impl ReceiveRequest {
    /// Pulls from the caller what it offers, into the archive that it names, and sends it the report. `None` after a
    /// dry run.
    ///
    /// # Errors
    /// As those of a pull; the caller gets them, too.
    pub fn run(&self, pipes: Pipes, caller: &Caller<'_>) -> Result<Option<PullReport>> {
        let stopped = || caller.observer.cancelled();
        let streams = pipes.streams(&self.options, stopped);
        let accepted = accept(&self.root, streams, &self.options)?;
        let (push, folder) = (accepted.push.clone(), accepted.folder.clone());
        let revisions = push.revisions.as_deref().map(RevisionsSpec::of);
        let request = PullRequest {
            origin: Address::Folder(PathBuf::new()),
            ssh: SshOptions::default(),
            folder,
            trust: self.trust,
            options: PullOptions { revisions, ..PullOptions::default() },
        };
        let wait = Duration::from_secs(push.wait_seconds).min(MOST_WAIT).max(caller.wait);
        let caller = Caller { wait, ..*caller };
        match push.dry_run {
            true => within(accepted, |origin| request.plan_from(origin, &caller)).map(|_| None),
            false => within(accepted, |origin| request.run_from(origin, &caller)).map(Some),
        }
    }
}

/// Does something with the archive of the caller, and sends the outcome there.
fn within<'a, Report: Serialize>(
    accepted: Accepted<FdReader<'a>, FdWriter>,
    act: impl FnOnce(&mut Asking<'a>) -> Result<Report>,
) -> Result<Report> {
    let mut origin = accepted.begin()?;
    match act(&mut origin) {
        Ok(report) => {
            let text = serde_json::to_string(&report).map_err(|error| Error::Panic {
                message: format!("no JSON of a report: {error}"),
            })?;
            origin.finish_with(text)?;
            Ok(report)
        }
        Err(error) => {
            // What failed may be the connection.
            let _ = origin.finish_failed(&error);
            Err(error)
        }
    }
}
