//! What all requests that change an archive have in common: who makes them, how long they wait for the lock, and who
//! watches.

use std::time::Duration;

use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::{Event, Observer};
use crate::base::revision::{OperationId, RevisionId};
use crate::storage::holder_note;

/// Who changes an archive, and under which conditions.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The program that others find in the note of a held lock; `None` for the command.
    pub program: Option<&'a str>,
    /// How long to wait while somebody else changes the archive.
    pub wait: Duration,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// Watches the operation and may stop it.
    pub observer: &'a dyn Observer,
}

impl Caller<'_> {
    /// Takes the lock of an archive for `verb`, and recovers the archive if an operation was interrupted.
    ///
    /// # Errors
    /// As those of [`ArchiveWriter::open_within`].
    pub fn writer(&self, archive: Archive, verb: &str) -> Result<ArchiveWriter> {
        ArchiveWriter::open_within(archive, &self.holder(verb), self.wait, self.observer)
    }

    /// The same for an operation on these revisions.
    ///
    /// # Errors
    /// Also [`Error::NoSuchRevision`] when somebody deleted one before this caller had the lock.
    pub(crate) fn writer_for(
        &self,
        archive: Archive,
        verb: &str,
        chosen: &[RevisionId],
    ) -> Result<ArchiveWriter> {
        let writer = self.writer(archive, verb)?;
        writer.archive().check_there(chosen)?;
        Ok(writer)
    }

    /// The note that others read while `verb` holds the lock.
    pub fn holder(&self, verb: &str) -> String {
        let who = match self.program {
            None => format!("'{verb}'"),
            Some(program) => format!("'{verb}' of {program}"),
        };
        holder_note(&who, self.clock.now())
    }
}

/// For `map_err`: an interruption says what state it leaves. An error that already says so stays as it is.
pub(crate) fn interrupted(state: &str) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Interrupted => Error::Besides { first: error.into(), also: state.to_owned() },
        error => error,
    }
}

/// Passes on everything but findings, for an operation whose report lists them.
pub(crate) struct WithoutFindings<'a>(pub &'a dyn Observer);

impl Observer for WithoutFindings<'_> {
    fn event(&self, event: &Event) {
        if !matches!(event, Event::Finding(_)) {
            self.0.event(event);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }

    fn hold_back(&self, held: bool) {
        self.0.hold_back(held);
    }

    fn operation(&self) -> Option<OperationId> {
        self.0.operation()
    }
}
