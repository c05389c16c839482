//! Payloads: requests and answers as bytes, and back. Big-endian, as in the archive's own files.
//!
//! Reading checks everything that can be checked without the archive: lengths, order, limits. Errors are sentences
//! without the place, which the caller knows.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::BATCH_BYTES;
use crate::base::block_ranges::BlockRange;
use crate::base::digest::{DIGEST_BYTES, TableEntry};
use crate::base::error::{Error, ErrorKind};
use crate::base::escape;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::origin::{Entries, PIECE_ENTRIES, PIECE_RUNS, TablePiece, TableRun};

type Parsed<T> = std::result::Result<T, String>;

/// The longest piece of a table: its head, and as many runs and entries as it may have.
pub(super) const MOST_PIECE_BYTES: usize =
    PIECE_HEAD_BYTES + PIECE_RUNS * RUN_BYTES + PIECE_ENTRIES * DIGEST_BYTES;
const PIECE_HEAD_BYTES: usize = 4 + 8 + 4;
const RUN_BYTES: usize = 8 + 8 + 1;

/// The longest request for blocks: no two of the smallest ones are neighbours.
pub(super) const MOST_REQUEST_BYTES: usize =
    4 + 16 + 12 * (BATCH_BYTES / BlockSize::MIN.bytes()) as usize;

/// The longest text of an error, in characters.
const MOST_ERROR_CHARS: usize = 2000;

/// How many blocks of this size a request may name.
pub(super) fn most_blocks(block_size: BlockSize) -> u64 {
    (BATCH_BYTES / block_size.bytes()).max(1)
}

/// Reads a payload from its start to its end.
struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    fn bytes(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let left = self.0.len();
        let (bytes, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| format!("{left} bytes at the end of the payload, expected {count}"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| format!("no {N} bytes"))
    }

    fn u8(&mut self) -> Parsed<u8> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn revision(&mut self) -> Parsed<RevisionId> {
        Ok(RevisionId::from(Uuid::from_bytes(self.array()?)))
    }

    fn end(&self) -> Parsed<()> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(format!("{more} more bytes after the end of the payload, expected none")),
        }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    List,
    Table { revision: RevisionId, since: Option<RevisionId>, from: BlockIndex },
    Blocks { revision: RevisionId, blocks: Vec<BlockIndex> },
}

/// The payload of a request for the list.
pub(super) fn list_request(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// The payload of a request for a piece of a table.
pub(super) fn table_request(
    number: u32,
    revision: RevisionId,
    since: Option<RevisionId>,
    from: BlockIndex,
) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    out.extend_from_slice(&revision.to_bytes());
    out.extend_from_slice(&since.map_or([0; 16], RevisionId::to_bytes));
    out.extend_from_slice(&from.0.to_be_bytes());
    out
}

/// The payload of a request for blocks, which ascend and are at most [`most_blocks`].
pub(super) fn blocks_request(number: u32, revision: RevisionId, blocks: &[BlockIndex]) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    out.extend_from_slice(&revision.to_bytes());
    let mut ranges: Vec<BlockRange> = Vec::new();
    for &block in blocks {
        match ranges.last_mut() {
            Some(last) if last.end() == block => last.count += 1,
            _ => ranges.push(BlockRange::one(block)),
        }
    }
    for range in ranges {
        out.extend_from_slice(&range.first.0.to_be_bytes());
        // There are at most 256.
        out.extend_from_slice(&(range.count as u32).to_be_bytes());
    }
    out
}

impl Request {
    pub(super) fn list(payload: &[u8]) -> Parsed<(u32, Self)> {
        let mut payload = Payload(payload);
        let number = payload.u32()?;
        payload.end()?;
        Ok((number, Request::List))
    }

    pub(super) fn table(payload: &[u8]) -> Parsed<(u32, Self)> {
        let mut payload = Payload(payload);
        let (number, revision) = (payload.u32()?, payload.revision()?);
        let since = payload.revision()?;
        let since = (since.to_bytes() != [0; 16]).then_some(since);
        let from = BlockIndex(payload.u64()?);
        payload.end()?;
        Ok((number, Request::Table { revision, since, from }))
    }

    pub(super) fn blocks(payload: &[u8], block_size: BlockSize) -> Parsed<(u32, Self)> {
        let mut payload = Payload(payload);
        let (number, revision) = (payload.u32()?, payload.revision()?);
        let most = most_blocks(block_size);
        let mut blocks = Vec::new();
        let mut next = BlockIndex(0);
        while !payload.0.is_empty() {
            let (first, count) = (BlockIndex(payload.u64()?), u64::from(payload.u32()?));
            let range = BlockRange { first, count };
            let total = (blocks.len() as u64).saturating_add(count);
            if total > most {
                return Err(format!("a request for {total} blocks, expected at most {most}"));
            }
            if first < next || count == 0 || first.0.checked_add(count).is_none() {
                return Err(format!(
                    "{count} blocks from {first} on, expected some from {next} on"
                ));
            }
            blocks.extend((first.0..range.end().0).map(BlockIndex));
            next = range.end();
        }
        if blocks.is_empty() {
            return Err("a request for no blocks, expected one block at least".to_owned());
        }
        Ok((number, Request::Blocks { revision, blocks }))
    }
}

/// The payload of a piece of a table.
pub(super) fn piece(number: u32, piece: &TablePiece) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    out.extend_from_slice(&piece.next.0.to_be_bytes());
    out.extend_from_slice(&(piece.runs.len() as u32).to_be_bytes());
    for run in &piece.runs {
        out.extend_from_slice(&run.first.0.to_be_bytes());
        match &run.entries {
            Entries::Zero(count) => {
                out.extend_from_slice(&count.to_be_bytes());
                out.push(0);
            }
            Entries::Each(entries) => {
                out.extend_from_slice(&(entries.len() as u64).to_be_bytes());
                out.push(1);
                entries.iter().for_each(|entry| out.extend_from_slice(&entry.0));
            }
        }
    }
    out
}

/// Reads the payload of a piece that begins at `from`, of a revision that ends at `end`.
pub(super) fn read_piece(
    payload: &[u8],
    from: BlockIndex,
    end: BlockIndex,
) -> Parsed<(u32, TablePiece)> {
    let mut payload = Payload(payload);
    let number = payload.u32()?;
    let next = BlockIndex(payload.u64()?);
    // Without progress the table would never end.
    if next > end || next < from || next == from && from < end {
        return Err(format!(
            "a next piece at block {next}, expected one after {from}, up to {end}"
        ));
    }
    let count = payload.u32()? as usize;
    if count > PIECE_RUNS {
        return Err(format!("{count} runs, expected at most {PIECE_RUNS}"));
    }
    let mut runs = Vec::with_capacity(count.min(payload.0.len() / RUN_BYTES));
    let (mut free, mut total) = (from, 0usize);
    for _ in 0..count {
        let (first, length) = (BlockIndex(payload.u64()?), payload.u64()?);
        let range = BlockRange { first, count: length };
        if first < free || length == 0 || length > next.0 || range.end() > next {
            return Err(format!(
                "entries of {length} blocks from {first} on, expected some from {free} to {next}"
            ));
        }
        free = range.end();
        let entries = match payload.u8()? {
            0 => Entries::Zero(length),
            1 => {
                let most = PIECE_ENTRIES.saturating_sub(total);
                let length = usize::try_from(length).ok().filter(|length| *length <= most);
                let length = length.ok_or_else(|| {
                    format!("{} entries, expected at most {PIECE_ENTRIES}", range.count)
                })?;
                total += length;
                let bytes = payload.bytes(length * DIGEST_BYTES)?;
                let (entries, _) = bytes.as_chunks::<DIGEST_BYTES>();
                Entries::Each(entries.iter().copied().map(TableEntry).collect())
            }
            kind => return Err(format!("entries of kind {kind}, expected 0 or 1")),
        };
        runs.push(TableRun { first, entries });
    }
    payload.end()?;
    Ok((number, TablePiece { runs, next }))
}

/// What an answer says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its bytes are in the answer.
    Data,
    /// All its bytes are zero.
    Zero,
    /// The origin has no right bytes.
    Bad,
}

/// How the bytes of an answer are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are.
    Plain,
    /// As one zstd frame.
    Zstd,
}

/// The payload of an answer with blocks.
pub(super) fn batch(number: u32, states: &[State], packing: Packing, packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + states.len() + packed.len());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(states.len() as u32).to_be_bytes());
    out.extend(states.iter().map(|state| match state {
        State::Data => 0u8,
        State::Zero => 1,
        State::Bad => 2,
    }));
    out.push(match packing {
        Packing::Plain => 0,
        Packing::Zstd => 1,
    });
    out.extend_from_slice(packed);
    out
}

/// An answer with blocks as it was read.
pub(super) struct Batch<'a> {
    pub(super) states: Vec<State>,
    pub(super) packing: Packing,
    pub(super) packed: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Reads the payload of an answer to a request for `expected` blocks, whose number the caller has checked.
    pub(super) fn read(payload: &'a [u8], expected: usize) -> Parsed<Self> {
        let mut payload = Payload(payload);
        payload.u32()?;
        let count = payload.u32()? as usize;
        if count != expected {
            return Err(format!("an answer with {count} blocks, expected {expected}"));
        }
        let state = |state: &u8| match state {
            0 => Ok(State::Data),
            1 => Ok(State::Zero),
            2 => Ok(State::Bad),
            state => Err(format!("state {state} of a block, expected 0, 1 or 2")),
        };
        let states = payload.bytes(count)?.iter().map(state).collect::<Parsed<Vec<State>>>()?;
        let packing = match payload.u8()? {
            0 => Packing::Plain,
            1 => Packing::Zstd,
            packing => return Err(format!("packing {packing}, expected 0 or 1")),
        };
        Ok(Batch { states, packing, packed: payload.0 })
    }
}

/// The number that an answer begins with.
pub(super) fn number_of(payload: &[u8]) -> Parsed<u32> {
    Payload(payload).u32()
}

/// The payload at the end of a list.
pub(super) fn listed(number: u32, block_size: BlockSize, revisions: u32) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    // At most 2 MiB.
    out.extend_from_slice(&(block_size.bytes() as u32).to_be_bytes());
    out.extend_from_slice(&revisions.to_be_bytes());
    out
}

/// Reads the same: the number, the block size, and how many revisions there are.
pub(super) fn read_listed(payload: &[u8]) -> Parsed<(u32, BlockSize, u32)> {
    let mut payload = Payload(payload);
    let (number, size_bytes, revisions) = (payload.u32()?, payload.u32()?, payload.u32()?);
    payload.end()?;
    Ok((number, BlockSize::try_from(u64::from(size_bytes))?, revisions))
}

/// Why something failed, for the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reason {
    kind: String,
    message: String,
}

/// How the message begins of an error that the other side has sent.
pub(crate) const REPORTS: &str = "reports: ";

/// The number of an error that is about no request.
pub(super) const NO_REQUEST: u32 = 0;

impl Reason {
    pub(super) fn of(error: &Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NoSuchRevision => "no-such-revision",
            ErrorKind::NoArchive => "no-archive",
            ErrorKind::Damaged | ErrorKind::NotFound => "damaged",
            _ => "other",
        };
        Reason::new(kind, &error.to_string())
    }

    pub(super) fn new(kind: &str, message: &str) -> Self {
        let message = message.chars().take(MOST_ERROR_CHARS).collect();
        Reason { kind: kind.to_owned(), message }
    }

    /// The error on this side. What is on the other side is no damage here, and no limit of this process.
    pub(super) fn into_error(self, name: &str) -> Error {
        let message = self.message();
        match self.kind.as_str() {
            "no-such-revision" => Error::NoSuchRevision { message: format!("{name}: {message}") },
            "damaged" => Error::Damaged { path: name.into(), flaw: message, costs: None },
            "no-archive" => Error::NoArchive { path: name.into() },
            _ => Error::Origin { name: name.to_owned(), message: format!("{REPORTS}{message}") },
        }
    }

    /// The text of the error, on one line.
    pub(super) fn message(&self) -> String {
        let message: String = self.message.chars().take(MOST_ERROR_CHARS).collect();
        // An error is one line, whoever has written it.
        escape::line(&message).into_owned()
    }

    pub(super) fn payload(&self, number: u32) -> Vec<u8> {
        let mut out = number.to_be_bytes().to_vec();
        // Strings always have a JSON form.
        out.extend(serde_json::to_vec(self).unwrap_or_default());
        out
    }

    pub(super) fn read(payload: &[u8]) -> Parsed<(u32, Self)> {
        let mut payload = Payload(payload);
        let number = payload.u32()?;
        let reason = serde_json::from_slice(payload.0)
            .map_err(|error| format!("an error that is not JSON: {error}"))?;
        Ok((number, reason))
    }
}
