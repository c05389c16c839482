//! `push` and `receive`: a pull that the side with the revisions calls for.
//!
//! A push to a folder here is a pull by the archive in it. Over ssh, the other side pulls through the connection that
//! this side has made, so it believes as little as in any pull, and the caller can only add revisions.

mod receive;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::de::DeserializeOwned;

use super::pull::{PullOptions, PullPlan, PullReport, PullRequest};
use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::origin::wire::{Answering, Outcome, Push, REPORTS, answer};
use crate::origin::{Address, LocalOrigin, Origin, SshAddress, SshChild, SshOptions};
use crate::policy::select::RevisionsSpec;
use crate::storage::Trust;
use crate::verb::caller::Caller;

pub use receive::ReceiveRequest;

/// Revisions of an archive to push to its copy.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The folder of the archive.
    pub folder: PathBuf,
    /// Where the copy is, which is created if there is none.
    pub to: Address,
    /// How to reach it if it is on another machine.
    pub ssh: SshOptions,
    /// Whether to act on a copy here that others can change.
    pub trust: Trust,
    /// Which revisions; `None` for all that are newer than those of the copy and that the schedule there keeps.
    pub revisions: Option<RevisionsSpec>,
    /// The most bytes of blocks to send per second.
    pub limit_rate: Option<u64>,
}

impl PushRequest {
    /// What the push would do now. Changes nothing.
    ///
    /// # Errors
    /// As those of [`PullRequest::plan`], and [`Error::Origin`] if the other side cannot be reached or refuses.
    pub fn plan(&self, caller: &Caller<'_>) -> Result<PullPlan> {
        match &self.to {
            Address::Folder(folder) => self.pull(folder.clone()).plan(caller),
            Address::Ssh(address) => self.over(address, true, caller),
        }
    }

    /// Pushes what is missing there, oldest first.
    ///
    /// # Errors
    /// As those of [`PullRequest::run`], and [`Error::Origin`] if the other side cannot be reached or refuses.
    pub fn run(&self, caller: &Caller<'_>) -> Result<PullReport> {
        match &self.to {
            Address::Folder(folder) => self.pull(folder.clone()).run(caller),
            Address::Ssh(address) => self.over(address, false, caller),
        }
    }

    /// The pull by an archive here.
    fn pull(&self, folder: PathBuf) -> PullRequest {
        let (revisions, limit_rate) = (self.revisions.clone(), self.limit_rate);
        PullRequest {
            origin: Address::Folder(self.folder.clone()),
            ssh: self.ssh.clone(),
            folder,
            trust: self.trust,
            options: PullOptions { revisions, limit_rate, ..PullOptions::default() },
        }
    }

    /// Calls the other side, answers what it asks, and returns its report.
    fn over<Report: DeserializeOwned>(
        &self,
        address: &SshAddress,
        dry_run: bool,
        caller: &Caller<'_>,
    ) -> Result<Report> {
        let archive = Archive::open_with(&self.folder, Trust::Given)?;
        let chosen = self.revisions.as_ref().map(|spec| spec.resolve(archive.revisions()));
        let wait_seconds = caller.wait.as_secs();
        let push = Push { revisions: chosen.transpose()?, dry_run, wait_seconds };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = {
            let (stop, observer) = (Arc::clone(&stop), caller.observer);
            move || stop.load(std::sync::atomic::Ordering::Relaxed) || observer.cancelled()
        };
        let (mut child, connection) = SshChild::call(address, &self.ssh, Some(push), stopped)?;
        let origin = || -> Result<Box<dyn Origin>> {
            let (archive, _) = archive.reload()?;
            Ok(Box::new(LocalOrigin::new(archive)))
        };
        let answering = Answering {
            origin: &origin,
            block_size: archive.manifest().block_size,
            threads: None,
            limit_rate: self.limit_rate,
            patience: self.ssh.patience,
            stop,
        };
        let outcome = answer(connection, &answering);
        let failed = |message: String| Error::Origin { name: address.to_string(), message };
        match outcome {
            Ok(Outcome::Done(Some(report))) => serde_json::from_str(&report)
                .map_err(|error| failed(format!("its report is not as expected: {error}"))),
            Ok(Outcome::Failed(error)) => Err(failed(format!("{REPORTS}{error}"))),
            _ if caller.observer.cancelled() => Err(Error::Interrupted),
            Ok(Outcome::Done(None) | Outcome::HungUp) => {
                Err(child.explain(failed("the connection ended before its report".to_owned())))
            }
            Err(error) => Err(child.explain(error)),
        }
    }
}
