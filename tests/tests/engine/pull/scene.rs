//! An origin and its copy on simulated disks, and an origin between the two that counts, lies or breaks.

use backy_lib::archive::ArchiveWriter;
use backy_lib::format::manifest::BlockRange;
use backy_lib::origin::{Entries, Fetched, Listing, LocalOrigin, Origin, TablePiece};
use backy_lib::progress::Silent;
use backy_lib::pull::{PullOptions, PullReport};
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::units::BlockIndex;
use backy_lib::{Error, ImageUpdate, Result, RevisionId};
use backy_tests::world::{self, World, changed_state, random_state};

/// An origin and an empty copy.
pub(super) struct Scene {
    pub origin: World,
    pub copy: SimStorage,
}

impl Scene {
    /// An origin with these states, oldest first.
    pub(super) fn new(clones: bool, states: &[Vec<u8>]) -> Self {
        let origin = World::with_backups(clones, states);
        let copy = SimStorage::new(clones);
        world::init(&copy).expect("init");
        Scene { origin, copy }
    }

    /// Five revisions of odd sizes that grow and shrink.
    pub(super) fn small(clones: bool) -> Self {
        Self::new(clones, &states(3, &[16_000, 16_000, 27_000, 10_001, 20_000]))
    }

    /// The archive that is pulled from.
    pub(super) fn local(&self) -> LocalOrigin {
        LocalOrigin::new(world::open(&self.origin.disk).expect("open"))
    }

    /// Pulls everything.
    pub(super) fn pull(&self) -> Result<PullReport> {
        pull(&self.copy, &mut self.local())
    }

    /// The copy as a world that has what the origin has.
    pub(super) fn copied(&self) -> World {
        World { disk: self.copy.clone(), expected: self.origin.expected.clone() }
    }
}

/// States of these sizes, each changed from the previous one.
pub(super) fn states(seed: u64, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut states: Vec<Vec<u8>> = Vec::new();
    for size in sizes {
        states.push(match states.last() {
            None => random_state(&mut random, *size),
            Some(last) => changed_state(&mut random, last, *size),
        });
    }
    states
}

/// In one thread, so that calls come in a fixed order.
pub(super) fn options() -> PullOptions {
    PullOptions { threads: Some(1), ..PullOptions::default() }
}

/// Pulls everything.
pub(super) fn pull(copy: &SimStorage, origin: &mut dyn Origin) -> Result<PullReport> {
    pull_with(copy, origin, &options())
}

/// Pulls.
pub(super) fn pull_with(
    copy: &SimStorage,
    origin: &mut dyn Origin,
    options: &PullOptions,
) -> Result<PullReport> {
    let mut writer = ArchiveWriter::open(world::open(copy)?, "a test", &Silent)?;
    writer.pull(origin, options, &world::clock(), &Silent)
}

/// The same in place.
pub(super) fn in_place() -> PullOptions {
    PullOptions { update: ImageUpdate::InPlace, ..options() }
}

/// What to do to a call.
pub(super) type Twist<T> = Box<dyn FnMut(&mut T) -> Result<()> + Send>;

/// An origin that counts what it is asked for, breaks at a call, or changes its answers.
pub(super) struct Between {
    pub inner: LocalOrigin,
    pub calls: u64,
    /// The call that fails, counted from 1, and all after it.
    pub breaks_at: Option<u64>,
    /// What happens at a call, before it is answered.
    pub changes_at: Option<(u64, Box<dyn Fn() + Send>)>,
    /// How many blocks were given.
    pub arrived: u64,
    /// The blocks that were asked for.
    pub asked_for: Vec<(RevisionId, BlockIndex)>,
    /// How many entries of tables were sent.
    pub pieces: u64,
    pub twist_listing: Option<Twist<Listing>>,
    pub twist_table: Option<Twist<TablePiece>>,
    /// Block, and its bytes; `None` for bad.
    pub twist_block: Option<Twist<(BlockIndex, Option<Vec<u8>>)>>,
    /// The most blocks in a piece of a table.
    pub piece_blocks: Option<u64>,
    /// Blocks that it cannot read.
    pub bad: Vec<BlockRange>,
}

impl Between {
    pub(super) fn new(scene: &Scene) -> Self {
        Self::over(scene.local())
    }

    pub(super) fn over(inner: LocalOrigin) -> Self {
        Between {
            inner,
            calls: 0,
            breaks_at: None,
            changes_at: None,
            arrived: 0,
            asked_for: Vec::new(),
            pieces: 0,
            twist_listing: None,
            twist_table: None,
            twist_block: None,
            piece_blocks: None,
            bad: Vec::new(),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.calls += 1;
        if let Some((_, change)) = self.changes_at.as_ref().filter(|(at, _)| *at == self.calls) {
            change();
        }
        match self.breaks_at.is_some_and(|at| self.calls >= at) {
            false => Ok(()),
            true => {
                let message = "the connection is lost".to_owned();
                Err(Error::Source { path: "/origin".into(), message })
            }
        }
    }
}

impl Origin for Between {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn listing(&mut self) -> Result<Listing> {
        self.count()?;
        let mut listing = self.inner.listing()?;
        if let Some(twist) = &mut self.twist_listing {
            twist(&mut listing)?;
        }
        Ok(listing)
    }

    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece> {
        self.count()?;
        self.pieces += 1;
        let mut piece = self.inner.table(revision, since, from)?;
        if let Some(count) = self.piece_blocks {
            cut(&mut piece, BlockIndex(from.0 + count));
        }
        if let Some(twist) = &mut self.twist_table {
            twist(&mut piece)?;
        }
        Ok(piece)
    }

    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        self.asked_for.extend(wanted.iter().map(|block| (revision, *block)));
        let mut blocks = Vec::new();
        self.inner.fetch(revision, wanted, &mut |block, fetched| {
            let bytes = match fetched {
                Fetched::Data(bytes) => Some(bytes.to_vec()),
                Fetched::Bad => None,
            };
            blocks.push((block, bytes));
            Ok(())
        })?;
        for mut block in blocks {
            self.count()?;
            if self.bad.iter().any(|range| range.contains(block.0)) {
                block.1 = None;
            }
            if let Some(twist) = &mut self.twist_block {
                twist(&mut block)?;
            }
            match &block.1 {
                Some(bytes) => take(block.0, Fetched::Data(bytes))?,
                None => take(block.0, Fetched::Bad)?,
            }
            self.arrived += 1;
        }
        Ok(())
    }
}

/// Cuts a piece off at a block.
fn cut(piece: &mut TablePiece, end: BlockIndex) {
    if piece.next <= end {
        return;
    }
    piece.next = end;
    piece.runs.retain(|run| run.first < end);
    if let Some(last) = piece.runs.last_mut() {
        let count = end.0 - last.first.0;
        match &mut last.entries {
            Entries::Zero(zeros) => *zeros = (*zeros).min(count),
            Entries::Each(entries) => entries.truncate(count as usize),
        }
    }
}
