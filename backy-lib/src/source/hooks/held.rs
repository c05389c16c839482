//! A held source: opened after `before`, closed before `after`, which runs in any case.

use std::time::Instant;

use super::{Ended, Hooks, Occasion, Outcome};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::fork::Maker;
use crate::base::progress::{Event, Observer};
use crate::source::Source;

/// A source between its hooks. Dropping it, as when a thread panics, releases it as well.
pub(crate) struct Held<'a> {
    // Drop it first: an open snapshot cannot be deleted.
    source: Box<dyn Source + 'a>,
    around: Around<'a>,
}

/// Hooks whose `before` has run.
struct Around<'a> {
    hooks: &'a mut dyn Hooks,
    observer: &'a dyn Observer,
    /// Whether `after` still has to run.
    pending: bool,
    maker: Maker,
}

impl<'a> Held<'a> {
    /// Runs `before`, then opens the source.
    pub(crate) fn open(
        hooks: &'a mut dyn Hooks,
        occasion: Occasion<'_>,
        observer: &'a dyn Observer,
        open: impl FnOnce() -> Result<Box<dyn Source + 'a>>,
    ) -> Result<Self> {
        let around = Around { hooks, observer, pending: true, maker: Maker::this() };
        let opened = around.hooks.before(occasion, observer).and_then(|()| open());
        match opened {
            Ok(source) => Ok(Held { source, around }),
            Err(error) => Err(around.failed(error)),
        }
    }

    /// The open source.
    pub(crate) fn source(&self) -> &(dyn Source + 'a) {
        &*self.source
    }

    /// Continues after success; releases the source after an error.
    pub(crate) fn checked<T>(self, result: Result<T>) -> Result<(Self, T)> {
        match result {
            Ok(done) => Ok((self, done)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Releases the source, read or not. Data that was read may be committed even if `after` failed; its
    /// error is returned as well.
    pub(crate) fn finish<T>(self, result: Result<T>) -> Result<(T, Option<Error>)> {
        let overdue = self.deadline().is_some_and(|deadline| Instant::now() > deadline);
        let done = match result {
            Ok(_) if overdue => return Err(self.failed(too_long())),
            Ok(done) => done,
            // Only the observer below has stopped it.
            Err(Error::Interrupted) if overdue && !self.around.observer.cancelled() => {
                return Err(self.failed(too_long()));
            }
            Err(error) => return Err(self.failed(error)),
        };
        match self.release(Outcome::Ok) {
            Ended::Well => Ok((done, None)),
            Ended::Failed(error) => Ok((done, Some(error))),
            Ended::TooEarly(error) => Err(error),
        }
    }

    /// The observer, which also stops the work when the source has been held for too long.
    pub(crate) fn observer(&self) -> Impatient<'a> {
        Impatient { observer: self.around.observer, deadline: self.deadline() }
    }

    fn deadline(&self) -> Option<Instant> {
        self.around.hooks.deadline()
    }

    fn failed(self, error: Error) -> Error {
        let Held { source, around } = self;
        drop(source);
        around.failed(error)
    }

    fn release(self, outcome: Outcome) -> Ended {
        let Held { source, mut around } = self;
        drop(source);
        around.end(outcome)
    }
}

fn too_long() -> Error {
    let message = "it had to run before the source had been read, because max_hold in backy.toml had passed; \
                   set a longer time there, or \"none\", if reading the source takes longer; the archive is as it \
                   was before";
    Error::Hook { hook: "after", message: message.to_owned() }
}

impl Around<'_> {
    fn end(&mut self, outcome: Outcome) -> Ended {
        match std::mem::take(&mut self.pending) {
            true => self.hooks.after(outcome, self.observer),
            false => Ended::Well,
        }
    }

    /// Releases the source after an error, and adds the error of `after`, if any.
    fn failed(mut self, error: Error) -> Error {
        let outcome = match error.kind() {
            ErrorKind::Interrupted => Outcome::Interrupted,
            _ => Outcome::Failed,
        };
        match self.end(outcome) {
            Ended::Well => error,
            Ended::Failed(also) | Ended::TooEarly(also) => {
                Error::Besides { first: error.into(), also: also.to_string() }
            }
        }
    }
}

impl Drop for Around<'_> {
    fn drop(&mut self) {
        // A child must not run it while the parent still reads the source.
        if !self.maker.is_this() {
            return;
        }
        if let Ended::Failed(error) | Ended::TooEarly(error) = self.end(Outcome::Failed) {
            self.observer.event(&Event::Note(error.to_string()));
        }
    }
}

/// Stops the work when the caller asks to, or when the source has been held for too long.
pub(crate) struct Impatient<'a> {
    observer: &'a dyn Observer,
    deadline: Option<Instant>,
}

impl Observer for Impatient<'_> {
    fn event(&self, event: &Event) {
        self.observer.event(event);
    }

    fn cancelled(&self) -> bool {
        self.observer.cancelled() || self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }
}
