//! A disk of a virtual machine that runs, read as it is at one moment: at a backup point, from whose beginning to its
//! end something serves it by NBD while the guest writes on.

use std::sync::{Arc, OnceLock};

use super::identity::add_content;
use super::nbd::NbdSource;
use super::served::{Served, Server};
use super::{Source, check_not_empty};
use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};
use crate::base::escape;
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;

/// What makes backup points of a disk.
pub(super) trait Machine: Send + Sync + 'static {
    /// What it is called in the manifest.
    const KIND: &'static str;

    type Point: Point;

    /// The disk, as it is written in `backy.toml`.
    fn address(&self) -> String;

    /// Begins a point that is no mark, with which it is not known what has changed.
    ///
    /// # Errors
    /// A sentence.
    fn begin(&self) -> std::result::Result<Self::Point, String>;
}

/// A point that has begun. It ends when it is dropped.
pub(super) trait Point: Server + Send + Sync {
    /// Fails if what the guest overwrites may soon have no space: then the guest could not write any more.
    ///
    /// # Errors
    /// A sentence.
    fn check_space(&self) -> std::result::Result<(), String>;

    /// Fails if what was served may not have been the disk as it was at the beginning.
    ///
    /// # Errors
    /// A sentence.
    fn check_whole(&self) -> std::result::Result<(), String>;
}

/// A disk, which the source and its tracker share.
pub(super) struct Running<M: Machine> {
    pub machine: M,
    pub served: Served<M::Point>,
    /// When it was opened.
    size_bytes: u64,
    identity: OnceLock<SourceIdentity>,
}

impl<M: Machine> Running<M> {
    /// # Errors
    /// [`Error::Source`] if it is empty.
    pub(super) fn open(machine: M, size_bytes: u64) -> Result<Arc<Self>> {
        let served = Served::not_yet();
        let disk = Arc::new(Running { machine, served, size_bytes, identity: OnceLock::new() });
        check_not_empty(&RunningSource(Arc::clone(&disk)))?;
        Ok(disk)
    }

    pub(super) fn source(self: &Arc<Self>) -> Box<dyn Source> {
        Box::new(RunningSource(Arc::clone(self)))
    }

    pub(super) fn error(&self, why: &str) -> Error {
        error(self.machine.address(), why)
    }

    /// Lets something read the disk as it was at the point, which begins now at the latest.
    fn read<T>(&self, read: impl FnOnce(&NbdSource) -> Result<T>) -> Result<T> {
        let open = || self.machine.begin().map_err(|why| self.error(&why));
        self.served.read(open, |nbd| read(nbd).map_err(|error| self.of_server(error)))
    }

    /// The address of the export says nothing to anybody.
    fn of_server(&self, failure: Error) -> Error {
        match failure {
            Error::Source { message, .. } => self.error(&format!("QEMU: {message}")),
            other => other,
        }
    }

    fn look(&self, look: impl FnOnce(&M::Point) -> std::result::Result<(), String>) -> Result<()> {
        self.served.look(look).unwrap_or(Ok(())).map_err(|why| self.error(&why))
    }
}

pub(super) fn error(address: String, why: &str) -> Error {
    let message = escape::line(why).into_owned();
    Error::Source { path: address.into(), message }
}

struct RunningSource<M: Machine>(Arc<Running<M>>);

impl<M: Machine> Source for RunningSource<M> {
    fn identity(&self) -> SourceIdentity {
        let read = || {
            let mut identity = self.place();
            add_content(&mut identity, self);
            identity
        };
        self.0.identity.get_or_init(read).clone()
    }

    fn place(&self) -> SourceIdentity {
        SourceIdentity::new(self.0.machine.address(), M::KIND)
    }

    fn size_bytes(&self) -> u64 {
        let served = self.0.served.look(|point| point.nbd().map(NbdSource::size_bytes));
        served.flatten().unwrap_or(self.0.size_bytes)
    }

    /// Fails as well if what was read may not be the disk as it was at one moment.
    fn current_size_bytes(&self) -> Result<u64> {
        if !planted(Bug::EndedPoint) {
            self.0.look(Point::check_whole)?;
        }
        self.0.read(|nbd| nbd.current_size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.0.look(Point::check_space)?;
        self.0.read(|nbd| nbd.read_at(buffer, offset))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.0.read(|nbd| nbd.next_data(offset))
    }

    fn knows_holes(&self) -> bool {
        true
    }

    fn gives_hints(&self) -> bool {
        self.0.served.is_tracked()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        self.0.read(|nbd| nbd.next_dirty(offset))
    }
}

impl<M: Machine> Drop for RunningSource<M> {
    /// The guest does not write twice any longer than the disk is read.
    fn drop(&mut self) {
        self.0.served.replace(None, false);
    }
}
