//! A revision of an old archive as a source: its image, assembled on demand.
//!
//! Every old block is checked again when it is read: the result is the content that was found correct, or an error.

use std::sync::{Mutex, PoisonError};

use md5::{Digest, Md5};

use super::old::{OldArchive, Place, State};
use crate::base::error::{Error, Result, limit};
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;
use crate::source::Source;
use crate::storage::dir::read_full;

/// The kind of source that the manifest records for an archive of 2014.
pub(super) const KIND: &str = "archive of 2014";

/// How many old blocks are searched for one answer.
const MAX_SEARCHED: u64 = 1 << 12;

/// The image of an old revision.
pub(super) struct OldImage<'a> {
    old: &'a OldArchive,
    file: usize,
    size_bytes: u64,
    lost: &'a [Extent],
    before: Option<Before>,
    /// The old block that was read last. Workers read adjacent parts of the same one.
    block: Mutex<Option<(Place, Vec<u8>)>>,
}

/// The revision of the previous backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    pub file: usize,
    pub size_bytes: u64,
}

impl<'a> OldImage<'a> {
    /// The image that begins with file `file`. Parts that it shares with the one `before` are not read.
    pub(super) fn new(
        old: &'a OldArchive,
        file: usize,
        size_bytes: u64,
        lost: &'a [Extent],
        before: Option<Before>,
    ) -> Self {
        OldImage { old, file, size_bytes, lost, before, block: Mutex::new(None) }
    }

    /// Where old block `number` lies in an image of `size_bytes`.
    fn extent(&self, number: u64, size_bytes: u64) -> Extent {
        let start = number.saturating_mul(self.old.block_bytes).min(size_bytes);
        Extent::new(start, (size_bytes - start).min(self.old.block_bytes))
    }

    fn is_changed(&self, before: Before, number: u64) -> bool {
        let place = self.old.place(self.file, number);
        let same_len =
            self.extent(number, self.size_bytes) == self.extent(number, before.size_bytes);
        place.is_none() || !same_len || place != self.old.place(before.file, number)
    }

    /// Copies a part of an old block to `part`; missing bytes become zeros.
    fn read_part(&self, number: u64, from: usize, part: &mut [u8]) -> Result<()> {
        part.fill(0);
        let Some(place) = self.old.place(self.file, number) else { return Ok(()) };
        let mut block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, bytes) = block.get_or_insert_with(|| (place, Vec::new()));
        if *found != place || bytes.is_empty() {
            *found = place;
            self.read_block(place, bytes)?;
        }
        let bytes = bytes.get(from..).unwrap_or_default();
        let count = bytes.len().min(part.len());
        if let (Some(part), Some(bytes)) = (part.get_mut(..count), bytes.get(..count)) {
            part.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn read_block(&self, place: Place, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.clear();
        bytes.resize(self.old.len(place) as usize, 0);
        let data = self.old.files.get(place.0);
        let file = data.and_then(|data| data.file.as_ref());
        let read = file.map(|file| read_full(file, bytes, self.old.offset(place)));
        let expected = data.and_then(|data| data.slots.get(place.1)).and_then(|slot| slot.sum.md5);
        let known = matches!(self.old.state(place), State::Right | State::Unproven);
        if known && expected.is_none_or(|md5| Md5::digest(&*bytes)[..] != md5.0) {
            bytes.clear();
            let message = match read {
                Some(Err(error)) if limit(&error).is_some() => {
                    return Err(Error::io(self.old.path(place.0), "read it")(error));
                }
                Some(Err(error)) => crate::base::error::describe_io(&error),
                _ => "it changed while it was read: found bytes with another MD5 than before"
                    .to_owned(),
            };
            return Err(Error::Source { path: self.old.path(place.0), message });
        }
        Ok(())
    }
}

impl Source for OldImage<'_> {
    fn identity(&self) -> SourceIdentity {
        let path = self.old.folder.path.display().to_string();
        SourceIdentity::new(path, KIND)
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let count = self.size_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut rest = buffer.get_mut(..count).unwrap_or_default();
        let mut at = offset;
        while !rest.is_empty() {
            let (number, from) = (at / self.old.block_bytes, at % self.old.block_bytes);
            let step = (self.old.block_bytes - from).min(rest.len() as u64);
            let (part, after) = rest.split_at_mut_checked(step as usize).unwrap_or_default();
            self.read_part(number, from as usize, part)?;
            rest = after;
            at += step;
        }
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size_bytes).then(|| Extent::between(offset, self.size_bytes)))
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let Some(before) = self.before else { return self.next_data(offset) };
        let blocks = self.size_bytes.div_ceil(self.old.block_bytes);
        let from = offset / self.old.block_bytes;
        let mut numbers = from..blocks;
        // An equal block that counts as changed only costs a comparison, and the caller gets a chance to stop.
        let changed =
            |number: &u64| number - from >= MAX_SEARCHED || self.is_changed(before, *number);
        let Some(first) = numbers.find(changed) else { return Ok(None) };
        let mut numbers = numbers.take(MAX_SEARCHED as usize);
        let end = numbers.find(|number| !self.is_changed(before, *number));
        let end = end.unwrap_or_else(|| blocks.min(first.saturating_add(1 + MAX_SEARCHED)));
        let start = self.extent(first, self.size_bytes).offset.max(offset);
        Ok(Some(Extent::between(start, self.extent(end, self.size_bytes).offset)))
    }

    fn lost(&self) -> &[Extent] {
        self.lost
    }
}
