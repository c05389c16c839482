//! What a server knows of ranges of the export: sections "`base:allocation` metadata context" and "Structured reply
//! types" of the protocol.

use super::handshake::Agreed;
use super::incoming::{Incoming, split};
use super::{Fault, LEAST_STATUS_BYTES, MOST_STATUS_BYTES, wrong};
use crate::base::extent::{Extent, rest_after};

/// `NBD_STATE_ZERO`: reads as zero. `NBD_STATE_HOLE` alone says nothing about what is read.
const ZERO: u32 = 2;

/// `NBD_STATE_DIRTY` of QEMU's bitmaps.
const DIRTY: u32 = 1;

/// Bytes of a chunk that are read at once.
const READ_BYTES: u32 = 32 << 10;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Where data may be.
    Data,
    /// Where QEMU's bitmap is set.
    Dirty,
}

impl Question {
    /// Whether an extent with these flags counts.
    fn counts(self, flags: u32) -> bool {
        match self {
            Question::Data => flags & ZERO == 0,
            Question::Dirty => flags & DIRTY != 0,
        }
    }

    /// Which question a context of this number answers.
    fn of(number: u32, agreed: &Agreed) -> Option<Question> {
        match Some(number) {
            number if number == agreed.allocation => Some(Question::Data),
            number if number == agreed.bitmap => Some(Question::Dirty),
            _ => None,
        }
    }
}

/// The answer to a question about the beginning of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// What the answer is about.
    pub(super) covered: Extent,
    /// Where it is yes, ascending.
    pub(super) marked: Vec<Extent>,
}

impl Known {
    /// Yes for all of a range.
    pub(super) fn all(range: Extent) -> Self {
        Known { covered: range, marked: vec![range] }
    }

    /// The first part at or after `offset` for which the answer is yes.
    pub(super) fn next(&self, offset: u64) -> Option<Extent> {
        rest_after(&self.marked, offset)
    }

    fn mark(&mut self, extent: Extent) {
        match self.marked.last_mut() {
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => self.marked.push(extent),
        }
    }
}

/// The reply to a request for block status, as far as it has come.
#[derive(Debug)]
pub(super) struct Replied {
    range: Extent,
    data: Option<Known>,
    dirty: Option<Known>,
}

impl Replied {
    pub(super) fn nothing(range: Extent) -> Self {
        Replied { range, data: None, dirty: None }
    }

    fn slot(&mut self, question: Question) -> &mut Option<Known> {
        match question {
            Question::Data => &mut self.data,
            Question::Dirty => &mut self.dirty,
        }
    }

    pub(super) fn take(&mut self, question: Question) -> Option<Known> {
        self.slot(question).take()
    }

    /// Whether every context that was agreed on has answered.
    pub(super) fn is_whole(&self, agreed: &Agreed) -> bool {
        agreed.allocation.is_none_or(|_| self.data.is_some())
            && agreed.bitmap.is_none_or(|_| self.dirty.is_some())
    }

    /// Reads the payload of a chunk of type `NBD_REPLY_TYPE_BLOCK_STATUS`.
    pub(super) fn chunk(
        &mut self,
        incoming: &mut Incoming,
        length: u32,
        agreed: &Agreed,
    ) -> Result<(), Fault> {
        let what = "a chunk of block status";
        let is_possible = length >= 12 && length % 8 == 4 && length <= MOST_STATUS_BYTES;
        if !is_possible {
            let expected = format!("4 bytes and 1 to {} extents of 8", MOST_STATUS_BYTES / 8);
            return Err(wrong(what, format!("{length} bytes"), expected));
        }
        let number = incoming.u32(what)?;
        let Some(question) = Question::of(number, agreed) else {
            return Err(wrong(what, format!("the context {number}"), "one that was agreed on"));
        };
        if self.slot(question).is_some() {
            return Err(wrong(what, format!("the context {number} twice"), "it once"));
        }
        let known = self.extents(incoming, question, length - 4)?;
        *self.slot(question) = Some(known);
        Ok(())
    }

    fn extents(
        &self,
        incoming: &mut Incoming,
        question: Question,
        mut left: u32,
    ) -> Result<Known, Fault> {
        let what = "an extent of block status";
        let (range, start) = (self.range, self.range.offset);
        let mut known = Known { covered: Extent { offset: start, len: 0 }, marked: Vec::new() };
        while left > 0 {
            let bytes = incoming.bytes(left.min(READ_BYTES), what)?;
            left -= bytes.len() as u32;
            for entry in bytes.chunks_exact(8) {
                let mut entry = entry;
                let [length, flags] =
                    [(); 2].map(|()| split(&mut entry).map_or(0, u32::from_be_bytes));
                let length = u64::from(length);
                let offset = known.covered.end();
                if length == 0 || offset >= range.end() {
                    let found = format!("{length} bytes at offset {offset}");
                    let expected = format!("at least one, before offset {}", range.end());
                    return Err(wrong(what, found, expected));
                }
                // Only the last one may be longer than the request.
                let extent = Extent { offset, len: length.min(range.end() - offset) };
                known.covered.len += extent.len;
                if question.counts(flags) {
                    known.mark(extent);
                }
            }
        }
        let least = range.len.min(LEAST_STATUS_BYTES);
        if let Some(missing) = least.checked_sub(known.covered.len).filter(|&missing| missing > 0) {
            known.mark(Extent { offset: known.covered.end(), len: missing });
            known.covered.len = least;
        }
        Ok(known)
    }
}
