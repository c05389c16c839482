//! Steps that append blocks to a delta: merges, and revisions that become standalone.

use super::Maintainer;
use crate::archive::proof;
use crate::archive::recover::recover;
use crate::archive::reserve;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::progress::Event;
use crate::base::revision::RevisionId;
use crate::base::units::display_size;
use crate::format::manifest::{BlockRange, InProgress, Operation};
use crate::storage::FileName;
use crate::storage::manifest;
use crate::verb::merge::{self, Appended};

impl Maintainer<'_> {
    pub(super) fn merge(&mut self, ids: &[RevisionId], into: RevisionId) -> Result<()> {
        let number = self.number(into)?;
        for id in ids.iter().chain([&into]) {
            self.check_flaws(*id)?;
        }
        let (storage, observer) = (self.context.storage, self.context.observer);
        let needed = merge::needed_bytes(storage, self.manifest, ids, into, observer);
        let appended = self.append(into, needed, |this| {
            merge::absorb(this.context.storage, this.manifest, ids, into, this.context.observer)
        })?;
        let (lost, is_unproved) = (appended.bad_blocks.len() as u64, appended.is_unproved);
        self.note_appended(number, appended);
        let mut after = self.without(ids, None);
        if is_unproved {
            self.report_unproved(into, lost);
            if let Some(number) = after.number_of(into) {
                proof::accept_older(
                    self.context.storage,
                    &mut after,
                    number,
                    self.context.observer,
                )?;
            }
        }
        self.commit(after, ids)
    }

    fn report_unproved(&self, into: RevisionId, lost: u64) {
        self.context.observer.event(&Event::Finding(format!(
            "{}: {lost} blocks of revision {into} are lost: a file of a revision that it read through to is \
             missing or damaged",
            self.context.storage.path(FileName::Delta(into)).display()
        )));
    }

    /// A delta with a flaw may hold more than its tables show. A merge would believe the tables and delete the rest,
    /// so it waits until somebody has confirmed the damage.
    fn check_flaws(&self, id: RevisionId) -> Result<()> {
        let number = self.number(id)?;
        let Some(revision) = self.manifest.revisions.get(number) else { return Ok(()) };
        match revision.open_flaws().next() {
            // Nothing can be recovered from a file that does not exist.
            Some(flaw) if self.context.storage.list()?.contains(&revision.file()) => {
                let path = self.context.storage.folder().join(&flaw.file);
                Err(Error::flawed(path)(format!(
                    "{}, found {}; a merge would delete what may still be recovered of revision {id}: \
                     'backy maintenance --confirm' allows it",
                    flaw.message, flaw.found
                )))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn make_standalone(&mut self, id: RevisionId) -> Result<()> {
        let number = self.number(id)?;
        let (level, threads) = (self.context.config.compression_level, self.context.threads);
        let (storage, observer) = (self.context.storage, self.context.observer);
        let needed = merge::standalone_bytes(storage, self.manifest, number, observer);
        let appended = self.append(id, needed, |this| {
            let (storage, observer) = (this.context.storage, this.context.observer);
            merge::make_standalone(storage, this.manifest, number, level, threads, observer)
        })?;
        self.note_appended(number, appended);
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            revision.base = None;
        }
        self.commit_without(&[])
    }

    fn note_appended(&mut self, number: usize, appended: Appended) {
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            revision.findings.add_all(appended.bad_blocks.into_iter().map(BlockRange::one));
            revision.note_rewritten(appended.blocks);
        }
    }

    /// Lets `append` change the delta of a revision, and undoes the change if it fails. Does not begin if there is
    /// not enough space, including the reserve, for `needed` bytes.
    fn append<T>(
        &mut self,
        revision: RevisionId,
        needed: Result<u64>,
        append: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let bytes = needed?;
        reserve::claim(&**self.context.storage, bytes)
            .map_err(|error| self.explained(error, revision, bytes))?;
        let started = self.context.clock.now();
        self.manifest.in_progress =
            Some(InProgress { operation: Operation::Merge, revision, started });
        let published = manifest::publish(&**self.context.storage, self.manifest);
        let error = match published.and_then(|()| append(self)) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        match recover(self.context.storage, self.manifest, self.context.observer) {
            Ok(()) => Err(error),
            Err(second) => Err(Error::UndoFailed { first: error.into(), second: second.into() }),
        }
    }

    /// The error for too little space, with the amount that has to fit.
    fn explained(&self, error: Error, revision: RevisionId, bytes: u64) -> Error {
        if error.kind() != ErrorKind::NoSpace {
            return error;
        }
        let Error::Io { source, .. } = error else { return error };
        let path = self.context.storage.path(FileName::Delta(revision));
        let bytes = display_size(bytes);
        Error::io(path, format!("append about {bytes} that it reads from newer revisions"))(source)
    }
}
