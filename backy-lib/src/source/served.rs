//! A disk that something serves by NBD for a backup: opened when it is read first, and anew for a mark.

use std::io::ErrorKind;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::nbd::NbdSource;
use crate::base::error::{Error, Result};

/// What serves the disk, if anything does at the moment.
pub(super) struct Served<S>(RwLock<State<S>>);

struct State<S> {
    /// `None` until somebody reads.
    server: Option<S>,
    /// Whether it has a bitmap of what may have changed.
    is_tracked: bool,
}

/// A server with one connection to it.
pub(super) trait Server {
    /// The connection; `None` once it is ended.
    fn nbd(&self) -> Option<&NbdSource>;
}

impl<S: Server> Served<S> {
    pub(super) fn not_yet() -> Self {
        Served(RwLock::new(State { server: None, is_tracked: false }))
    }

    /// Lets something read, with a server that `open` starts if there is none.
    pub(super) fn read<T>(
        &self,
        open: impl FnOnce() -> Result<S>,
        read: impl FnOnce(&NbdSource) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state();
        if state.server.is_none() {
            drop(state);
            let mut changed = self.changed();
            if changed.server.is_none() {
                changed.server = Some(open()?);
            }
            drop(changed);
            state = self.state();
        }
        match state.server.as_ref().and_then(Server::nbd) {
            Some(nbd) => read(nbd),
            None => Err(Error::io("the disk", "read")(ErrorKind::NotConnected.into())),
        }
    }

    /// What `look` finds at the server, if there is one.
    pub(super) fn look<T>(&self, look: impl FnOnce(&S) -> T) -> Option<T> {
        self.state().server.as_ref().map(look)
    }

    /// Ends the server, if there is one, and then has another one serve the disk, or none.
    pub(super) fn replace(&self, server: Option<S>, is_tracked: bool) {
        *self.changed() = State { server, is_tracked };
    }

    pub(super) fn is_tracked(&self) -> bool {
        self.state().is_tracked
    }

    fn state(&self) -> RwLockReadGuard<'_, State<S>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> RwLockWriteGuard<'_, State<S>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
