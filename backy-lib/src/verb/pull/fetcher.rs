//! Asks an origin for tables and blocks, and checks what it answers.

use super::spool::Spool;
use super::table::{Own, Table, Wish};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, Result};
use crate::base::progress::{self, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::Revision;
use crate::origin::{Fetched, Offered, Origin, TablePiece};
use crate::storage::Storage;

/// How much of what has arrived before is looked through before the rest is asked for.
const LOOK_BYTES: u64 = 4 << 20;

/// How much is checked and delivered together: digests of many blocks cost less than the same ones one by one.
const GROUP_BYTES: usize = 1 << 20;

/// The revision to pull.
#[derive(Clone, Copy)]
pub(super) struct Pulling<'a> {
    pub origin: &'a str,
    pub revision: &'a Offered,
    /// The newest revision here, if the origin has it, too, with the same table.
    pub since: Option<RevisionId>,
    pub newest: Option<&'a Revision>,
    pub block_size: BlockSize,
    /// Whether what arrives is kept for the next attempt.
    pub spools: bool,
    pub storage: &'a dyn Storage,
    pub observer: &'a dyn Observer,
}

impl Pulling<'_> {
    pub(super) fn open_table(&self) -> Result<Table> {
        let (size, size_bytes) = (self.block_size, self.revision.size_bytes);
        let own = self.newest.map(|newest| Own::open(self.storage, newest, size, size_bytes));
        Ok(Table::new(own.transpose()?, size.count(size_bytes)))
    }

    /// From which block on the origin has to name all.
    pub(super) fn complete_from(&self, table: &Table) -> BlockIndex {
        if self.since.is_some() { table.same_end() } else { BlockIndex(0) }
    }

    pub(super) fn len(&self, block: BlockIndex) -> usize {
        self.block_size.extent(block, self.revision.size_bytes).len as usize
    }

    /// Checks that blocks are what they have to be.
    fn check(&self, group: &[(Wish, Brought)]) -> Result<()> {
        for (Wish { block, .. }, bytes) in group {
            let expected = self.len(*block);
            if let Some(found) = bytes.as_ref().map(Vec::len).filter(|found| *found != expected) {
                let flaw = format!("block {block}: found {found} bytes, expected {expected}");
                return Err(self.error(&flaw));
            }
        }
        let data = || group.iter().filter_map(|(wish, bytes)| Some((wish, bytes.as_deref()?)));
        let matching = TableEntry::matching(data().map(|(wish, bytes)| (wish.entry, bytes)))?;
        match data().zip(matching).find(|(_, is_right)| !is_right) {
            None => Ok(()),
            Some(((Wish { block, .. }, _), _)) => {
                let flaw = "found bytes with another digest than in its table; pull again";
                Err(self.error(&format!("block {block}: {flaw}")))
            }
        }
    }

    pub(super) fn error(&self, message: &str) -> Error {
        let uuid = self.revision.uuid;
        let message = format!("revision {uuid}: {message}; this revision was not stored");
        Error::Source { path: self.origin.into(), message }
    }
}

/// What comes of a block: its bytes, which match its entry; `None` if the origin has lost it.
pub(super) type Brought = Option<Vec<u8>>;

/// Takes what comes of some blocks.
pub(super) type Deliver<'d> = &'d mut dyn FnMut(Vec<(Wish, Brought)>) -> Result<()>;

/// The origin, and what has arrived before.
pub(super) struct Fetcher<'a> {
    pulling: Pulling<'a>,
    origin: &'a mut dyn Origin,
    /// Opened with the first question: it may be the image that the engine makes.
    spool: Option<Spool<'a>>,
    /// Bytes of blocks that the origin sent.
    pub received_bytes: u64,
    /// Bytes of blocks that had arrived before.
    pub reused_bytes: u64,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(pulling: Pulling<'a>, origin: &'a mut dyn Origin) -> Self {
        Fetcher { pulling, origin, spool: None, received_bytes: 0, reused_bytes: 0 }
    }

    /// The piece of the table that begins with block `known`.
    pub(super) fn ask(
        &mut self,
        known: BlockIndex,
        end: BlockIndex,
        complete: BlockIndex,
    ) -> Result<TablePiece> {
        let pulling = &self.pulling;
        progress::check(pulling.observer)?;
        let piece = self.origin.table(pulling.revision.uuid, pulling.since, known)?;
        let checked = piece.check(known, end, complete);
        checked.map_err(|flaw| pulling.error(&format!("its table of digests: found {flaw}")))?;
        Ok(piece)
    }

    /// Brings blocks, in any order: what has arrived before, and the rest from the origin.
    pub(super) fn bring(&mut self, wishes: &[Wish], deliver: Deliver<'_>) -> Result<()> {
        let Pulling { block_size, storage, newest, spools, .. } = self.pulling;
        let spool = match self.spool.take() {
            None if spools => Some(Spool::open(storage, newest.is_none())?),
            spool => spool,
        };
        let first = wishes.first().map_or(0, |wish| block_size.offset(wish.block));
        let has_content = spool.as_ref().map_or(Ok(false), |spool| spool.has_content(first))?;
        self.spool = spool;
        if !has_content {
            return self.fetch(wishes, deliver);
        }
        for part in wishes.chunks((LOOK_BYTES / block_size.bytes()).max(1) as usize) {
            let mut missing = Vec::new();
            for wish in part {
                let mut bytes = vec![0; self.pulling.len(wish.block)];
                let offset = block_size.offset(wish.block);
                let taken = self.spool.as_ref().map(|spool| spool.take(*wish, offset, &mut bytes));
                if taken.transpose()? == Some(true) {
                    self.reused_bytes += bytes.len() as u64;
                    deliver(vec![(*wish, Some(bytes))])?;
                } else {
                    missing.push(*wish);
                }
            }
            self.fetch(&missing, deliver)?;
        }
        Ok(())
    }

    /// Fetches blocks from the origin, checks each, and keeps it for the next attempt.
    fn fetch(&mut self, wishes: &[Wish], deliver: Deliver<'_>) -> Result<()> {
        if wishes.is_empty() {
            return Ok(());
        }
        let Fetcher { pulling, origin, spool, received_bytes, .. } = self;
        let blocks: Vec<BlockIndex> = wishes.iter().map(|wish| wish.block).collect();
        let mut left = wishes.iter();
        let (mut group, mut group_bytes) = (Vec::new(), 0);
        let mut check = |group: &mut Vec<(Wish, Brought)>| {
            pulling.check(group)?;
            for (wish, bytes) in &*group {
                let Some(bytes) = bytes else { continue };
                *received_bytes += bytes.len() as u64;
                if let Some(spool) = spool {
                    spool.add(bytes, pulling.block_size.offset(wish.block))?;
                }
            }
            deliver(std::mem::take(group))
        };
        let mut take = |block: BlockIndex, fetched: Fetched<'_>| {
            progress::check(pulling.observer)?;
            let Some(&wish) = left.next().filter(|next| next.block == block) else {
                return Err(pulling.error(&format!("found block {block}, which nobody asked for")));
            };
            let bytes = match fetched {
                Fetched::Data(bytes) => Some(bytes.to_vec()),
                _ => None,
            };
            group_bytes += bytes.as_ref().map_or(0, Vec::len);
            group.push((wish, bytes));
            if group_bytes < GROUP_BYTES {
                return Ok(());
            }
            group_bytes = 0;
            check(&mut group)
        };
        let fetched = origin.fetch(pulling.revision.uuid, &blocks, &mut take);
        // What came before an error is as good as the rest.
        let checked = check(&mut group);
        fetched.and(checked)?;
        match left.next() {
            None => Ok(()),
            Some(next) => Err(pulling.error(&format!("found no answer for block {}", next.block))),
        }
    }
}
