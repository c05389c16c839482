//! One way through every writing verb: recover, read the config, plan, run, record.
//!
//! [`ArchiveWriter::operation`] takes the steps; a verb implements [`Request`] and says only what is its own.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::heartbeat::Heartbeat;
use super::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::Observer;
use crate::policy::config::Config;
use crate::storage::Storage;

/// What every step of an operation works with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) storage: &'a Arc<dyn Storage>,
    pub(crate) config: &'a Config,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) observer: &'a dyn Observer,
    /// Threads that compute; `None` for one per core.
    pub(crate) threads: Option<usize>,
}

/// A writing verb with its arguments.
pub(crate) trait Request: Sized {
    /// What the history calls the operation.
    const NAME: &'static str;

    /// What is to be done.
    type Plan;

    /// What was done, as the history records it.
    type Report: Serialize;

    /// Threads that compute; `None` for one per core.
    fn threads(&self) -> Option<usize> {
        None
    }

    /// Since when the operation is being planned, if the history should record an interruption during planning.
    fn planned_since(&self) -> Option<Timestamp> {
        None
    }

    /// Undoes what a failed operation of this writer left behind.
    fn recover(
        &self,
        writer: &mut ArchiveWriter,
        _clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        writer.recover_from_failure(observer)
    }

    /// The config that applies.
    fn config(archive: &Archive) -> Result<Config> {
        archive.config()
    }

    /// Decides what is done.
    fn plan(&self, writer: &mut ArchiveWriter, context: &Context<'_>) -> Result<Self::Plan>;

    /// When the operation started; called once it has been planned.
    fn started(&self, clock: &dyn Clock) -> Timestamp {
        clock.now()
    }

    /// Does it.
    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        plan: Self::Plan,
        started: Timestamp,
    ) -> Result<Self::Report>;

    /// Whether the history records this outcome.
    fn is_recorded(_done: &Result<Self::Report>) -> bool {
        true
    }

    /// Runs after the history has been written.
    fn finish(_storage: &dyn Storage, _done: &Result<Self::Report>) {}
}

impl ArchiveWriter {
    /// Takes a request through all steps.
    pub(crate) fn operation<R: Request>(
        &mut self,
        request: R,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<R::Report> {
        let lock = self.shared_lock();
        let observer = &Heartbeat::begin(&*lock, observer);
        let (since, threads) = (request.planned_since(), request.threads());
        let storage = Arc::clone(self.archive().shared_storage());
        let recovered = request.recover(self, clock, observer);
        let config = recovered.and_then(|()| R::config(self.archive()));
        let planned = config.and_then(|config| {
            let context = Context { storage: &storage, config: &config, clock, observer, threads };
            let plan = request.plan(self, &context)?;
            Ok((config, plan))
        });
        if let (Some(since), Err(Error::Interrupted)) = (since, &planned) {
            let interrupted: Result<()> = Err(Error::Interrupted);
            self.record(R::NAME, since, &interrupted, clock, observer);
        }
        let (config, plan) = planned?;
        let context = Context { storage: &storage, config: &config, clock, observer, threads };
        let started = request.started(clock);
        let done = request.run(self, &context, plan, started);
        if R::is_recorded(&done) {
            self.record(R::NAME, started, &done, clock, observer);
        }
        R::finish(&*storage, &done);
        done
    }
}
