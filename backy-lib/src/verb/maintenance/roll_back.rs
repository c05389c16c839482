//! Deleting the newest revision: the next older one becomes the image.

use super::Maintainer;
use crate::archive::left_overs::{self, sweep};
use crate::archive::moment;
use crate::archive::proof;
use crate::archive::recover::{recover, room};
use crate::archive::reserve;
use crate::base::error::{ErrorKind, Result};
use crate::base::progress::{self, Event};
use crate::base::units::BlockIndex;
use crate::format::digests::DigestsHeader;
use crate::format::manifest::{BlockRange, InProgress, Manifest, Operation};
use crate::image::chain::Chain;
use crate::image::damage;
use crate::image::digests::DigestWriter;
use crate::image::walk::Walk;
use crate::storage::manifest;
use crate::storage::{DigestsKind, FileName};

impl Maintainer<'_> {
    /// Makes the next older revision the newest. Once the manifest is published, this is the undoing of a backup: it
    /// continues by itself, here or in the next writer.
    pub(super) fn roll_back(&mut self) -> Result<()> {
        let Some(newest) = self.manifest.revisions.first().map(|newest| newest.uuid) else {
            return Ok(());
        };
        moment::check_image(self.context.storage, self.manifest, self.context.observer)?;
        // Undoing writes to holes of the image, and must find space there once it can no longer be called off.
        let room = self.with_reserve(|this| room::make(&**this.context.storage, this.manifest))?;
        let entered = self.with_reserve(|this| this.enter_digests());
        let after = entered.and_then(|()| self.with_reserve(|this| this.rolled_back()));
        let after = after.inspect_err(|_| {
            // Deletes half-written digests and frees the space; the next writer deletes what remains.
            let _ = sweep(&**self.context.storage, self.manifest);
            room.give_back(&**self.context.storage);
        })?;
        // If this fails, either manifest may be in place, so the files that the new one needs stay.
        reserve::publish(&**self.context.storage, &after)?;
        *self.manifest = after;
        self.with_reserve(|this| {
            recover(this.context.storage, this.manifest, this.context.observer)
        })
        .inspect_err(|_| {
            let note =
                format!("revision {newest} is deleted; the next backup brings the image back");
            self.context.observer.event(&Event::Note(note));
        })
    }

    /// Does something that needs little space; if the disk is full, deletes the reserve and tries once more.
    fn with_reserve<T>(&mut self, act: impl Fn(&mut Self) -> Result<T>) -> Result<T> {
        match act(self) {
            Err(error)
                if error.kind() == ErrorKind::NoSpace
                    && reserve::release(&**self.context.storage)? =>
            {
                act(self)
            }
            done => done,
        }
    }

    /// Lists the digest file of the new image as one to delete if the operation does not complete.
    fn enter_digests(&mut self) -> Result<()> {
        let mut after = self.manifest.clone();
        let Some(older) = self.manifest.revisions.get(1) else { return Ok(()) };
        let name = FileName::Digests(older.uuid, DigestsKind::Image);
        if !after.removable.contains(&name) {
            left_overs::check_vacant(&**self.context.storage, &[name])?;
            after.removable.push(name);
        }
        manifest::publish(&**self.context.storage, &after)?;
        *self.manifest = after;
        Ok(())
    }

    /// Writes the digests of the new image; returns the new manifest.
    fn rolled_back(&mut self) -> Result<Manifest> {
        let storage = &**self.context.storage;
        // Only correct digests show what the delta reads from the image.
        proof::prove_newest(self.context.storage, self.manifest, self.context.observer)?;
        let mut after = self.manifest.clone();
        let (Some(newest), Some(older)) =
            (self.manifest.revisions.first(), self.manifest.revisions.get(1))
        else {
            return Ok(after);
        };
        let chain = Chain::open(self.context.storage, self.manifest, 1)?;
        chain.verify_digests(self.context.observer)?;
        let kind = DigestsKind::Image;
        storage.remove(FileName::Digests(older.uuid, kind))?;
        let mut digests = DigestWriter::create(storage, (older.uuid, kind), chain.blocks())?;
        let mut walk = Walk::new(&chain);
        while let Some(piece) = walk.next_window()? {
            progress::check(self.context.observer)?;
            piece.iter().try_for_each(|(block, located)| digests.push(block, located.entry))?;
        }
        digests.finish(&DigestsHeader::new(kind, older, self.manifest.block_size))?;
        storage.sync_folder()?;
        // Bad blocks of the image stay bad where the older revision reads through to it.
        let unreadable = damage::unreadable(storage, self.manifest)?;
        after.remove(newest.uuid);
        if let (Some(revision), Some(bad)) =
            (after.revisions.first_mut(), unreadable.into_iter().nth(1))
        {
            let count = self.manifest.block_size.count(revision.size_bytes);
            let all = BlockRange { first: BlockIndex(0), count };
            revision.findings.replace(&[all], bad.bad_blocks);
            revision.findings.inherit(&newest.findings);
            revision.forget_verified();
        }
        let (operation, revision) = (Operation::Remove, newest.uuid);
        left_overs::enter(
            &mut after,
            InProgress { operation, revision, started: self.context.clock.now() },
        );
        Ok(after)
    }
}
