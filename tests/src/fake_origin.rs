//! An origin in memory, for tests of what is asked of one.

use std::collections::{BTreeMap, BTreeSet};

use backy_lib::digest::{Digest, RevisionHasher, TableEntry};
use backy_lib::origin::{
    Entries, Fetched, Listing, Offered, Origin, PIECE_ENTRIES, TablePiece, TableRun,
};
use backy_lib::units::BlockIndex;
use backy_lib::{BlockSize, Error, Result, RevisionId};
use jiff::Timestamp;

/// Revisions in memory.
#[derive(Clone, Default)]
pub struct FakeOrigin {
    /// The revisions, oldest first, with their bytes.
    pub revisions: Vec<(RevisionId, Vec<u8>)>,
    /// Blocks that cannot be read.
    pub bad: BTreeSet<(RevisionId, u64)>,
    /// The size of its blocks, if not the smallest.
    pub block_size: Option<BlockSize>,
    /// The most entries in a piece of a table, if not as many as may be.
    pub piece_entries: Option<usize>,
}

impl FakeOrigin {
    /// An origin with these states, oldest first. Names and times are always the same.
    pub fn with(states: &[Vec<u8>]) -> Self {
        let name =
            |number: usize| RevisionId::from(uuid::Uuid::from_u128(0x1000_0000 + number as u128));
        let revisions = states.iter().enumerate().map(|(at, state)| (name(at), state.clone()));
        FakeOrigin { revisions: revisions.collect(), ..FakeOrigin::default() }
    }

    /// The size of its blocks.
    pub fn block_size(&self) -> BlockSize {
        self.block_size.unwrap_or(BlockSize::MIN)
    }

    /// The bytes of a revision.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`].
    pub fn bytes(&self, id: RevisionId) -> Result<&[u8]> {
        let found = self.revisions.iter().find(|(known, _)| *known == id);
        let missing = || Error::NoSuchRevision { message: format!("no revision {id} here") };
        found.map(|(_, bytes)| bytes.as_slice()).ok_or_else(missing)
    }

    /// The entries of a revision.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`].
    pub fn entries(&self, id: RevisionId) -> Result<Vec<TableEntry>> {
        let blocks = self.bytes(id)?.chunks(self.block_size().len());
        Ok(blocks.map(TableEntry::of_block).collect())
    }

    fn offered(&self, number: usize, id: RevisionId, bytes: &[u8]) -> Offered {
        let time = |second: i64| {
            Timestamp::from_second(1_800_000_000 + 100 * number as i64 + second).expect("a time")
        };
        let mut hasher = RevisionHasher::new(self.block_size(), bytes.len() as u64);
        self.entries(id).expect("it is there").into_iter().for_each(|entry| hasher.push(entry));
        let digest: Digest = hasher.finish();
        Offered {
            uuid: id,
            started: time(0),
            finished: time(5),
            size_bytes: bytes.len() as u64,
            digest,
            table_digest: None,
            tags: BTreeSet::from(["daily".parse().expect("a tag")]),
            pinned_tags: BTreeSet::new(),
            scheduled_tags: BTreeSet::new(),
            bad_blocks: Vec::new(),
        }
    }
}

impl Origin for FakeOrigin {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn listing(&mut self) -> Result<Listing> {
        let all = self.revisions.iter().enumerate().rev();
        let revisions = all.map(|(number, (id, bytes))| self.offered(number, *id, bytes)).collect();
        Ok(Listing { block_size: self.block_size(), revisions })
    }

    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece> {
        let entries = self.entries(revision)?;
        let before = since.map(|since| self.entries(since)).transpose()?;
        let size_of = |id: RevisionId, block: usize| {
            let size_bytes = self.bytes(id).map_or(0, <[u8]>::len) as u64;
            self.block_size().extent(BlockIndex(block as u64), size_bytes).len
        };
        let is_same = |block: usize| match (&before, since) {
            (Some(before), Some(since)) => {
                before.get(block) == entries.get(block)
                    && size_of(since, block) == size_of(revision, block)
            }
            _ => false,
        };
        let mut runs: Vec<TableRun> = Vec::new();
        let (mut left, mut next) = (self.piece_entries.unwrap_or(PIECE_ENTRIES), from.0 as usize);
        while let Some(&entry) = entries.get(next).filter(|_| left > 0) {
            if !is_same(next) {
                left -= 1;
                let index = BlockIndex(next as u64);
                match runs.last_mut() {
                    Some(TableRun { first, entries: Entries::Zero(count) })
                        if entry.is_zero_block() && first.plus(*count) == index =>
                    {
                        *count += 1;
                    }
                    Some(TableRun { first, entries: Entries::Each(all) })
                        if !entry.is_zero_block() && first.plus(all.len() as u64) == index =>
                    {
                        all.push(entry);
                    }
                    _ if entry.is_zero_block() => {
                        runs.push(TableRun { first: index, entries: Entries::Zero(1) });
                    }
                    _ => runs.push(TableRun { first: index, entries: Entries::Each(vec![entry]) }),
                }
            }
            next += 1;
        }
        Ok(TablePiece { runs, next: BlockIndex(next as u64) })
    }

    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        let block_size = self.block_size();
        let bytes = self.bytes(revision)?;
        for &block in wanted {
            let extent = block_size.extent(block, bytes.len() as u64);
            let data = &bytes[extent.offset as usize..extent.end() as usize];
            match self.bad.contains(&(revision, block.0)) {
                true => take(block, Fetched::Bad)?,
                false => take(block, Fetched::Data(data))?,
            }
        }
        Ok(())
    }
}

/// Everything that an origin gives: of each revision, oldest first, all entries since the previous one, and all blocks.
///
/// # Errors
/// The first one.
pub fn everything(origin: &mut dyn Origin) -> Result<Vec<Taken>> {
    let listing = origin.listing()?;
    let mut all = Vec::new();
    let mut since = None;
    for offered in listing.revisions.iter().rev() {
        let end = BlockIndex(listing.block_size.count(offered.size_bytes));
        let (mut runs, mut from) = (Vec::new(), BlockIndex(0));
        while from < end {
            let piece = origin.table(offered.uuid, since, from)?;
            runs.extend(piece.runs);
            from = piece.next;
        }
        let wanted: Vec<BlockIndex> = (0..end.0).map(BlockIndex).collect();
        let mut blocks = BTreeMap::new();
        origin.fetch(offered.uuid, &wanted, &mut |block, fetched| {
            let bytes = match fetched {
                Fetched::Data(bytes) => Some(bytes.to_vec()),
                Fetched::Bad => None,
            };
            blocks.insert(block.0, bytes);
            Ok(())
        })?;
        all.push(Taken { offered: offered.clone(), runs, blocks });
        since = Some(offered.uuid);
    }
    Ok(all)
}

/// What an origin gave of a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// From its list.
    pub offered: Offered,
    /// Entries that differ from those of the previous revision.
    pub runs: Vec<TableRun>,
    /// Blocks; `None` if the origin has no right bytes.
    pub blocks: BTreeMap<u64, Option<Vec<u8>>>,
}
