//! Another archive of the same disk, from which revisions come: the origin of a copy.
//!
//! An [`Origin`] lists its revisions, gives the digests of their blocks, and then the blocks that the copy asks for.
//! Whoever asks believes nothing: a block is right if its digest is, a table of digests if the digest of the revision
//! is. `doc/decisions/35-copies.md` has the reasons.

pub mod address;
mod local;
mod runs;
mod ssh;
pub mod wire;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::base::digest::{Digest, TableEntry};
use crate::base::error::Result;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::{BlockRange, Revision, Statistics};
use crate::storage::Trust;

pub use address::{Address, SshAddress};
pub use local::LocalOrigin;
pub(crate) use runs::Runs;
pub use ssh::{Lines, SshOptions};
pub(crate) use ssh::{SshChild, SshOrigin};

/// An archive to copy from. One thread uses it at a time.
pub trait Origin: Send {
    /// What it is called in messages: a path or a URL.
    fn name(&self) -> String;

    /// What it has now.
    fn listing(&mut self) -> Result<Listing>;

    /// Digests of the blocks of `revision`, from block `from` on, in ascending order. With `since`, another revision
    /// of this origin, only those of blocks that differ from it: another entry, or another length.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`](crate::Error::NoSuchRevision) if it has been deleted meanwhile.
    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece>;

    /// Reads blocks of `revision`: calls `take` once for each block of `wanted`, in that order, which is ascending.
    /// An error of `take` ends it.
    ///
    /// # Errors
    /// As for [`Origin::table`].
    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()>;
}

/// Opens the origin at an address. It stops waiting for another machine soon after `stopped` has become true.
///
/// # Errors
/// As those of [`Archive::open`] for a folder; [`Error::Origin`](crate::Error::Origin) if another machine cannot be
/// reached.
pub fn open_origin<'a>(
    address: &Address,
    ssh: &SshOptions,
    stopped: &'a (dyn Fn() -> bool + Sync),
) -> Result<Box<dyn Origin + 'a>> {
    Ok(match address {
        Address::Folder(folder) => {
            Box::new(LocalOrigin::new(Archive::open_with(folder, Trust::Given)?))
        }
        Address::Ssh(address) => Box::new(SshOrigin::open(address, ssh, stopped)?),
    })
}

/// What an origin has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// Its block size in bytes.
    pub block_size: BlockSize,
    /// Its revisions, newest first.
    pub revisions: Vec<Offered>,
}

/// A revision of an origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offered {
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// When its backup was committed.
    pub finished: Timestamp,
    /// Exact size in bytes.
    pub size_bytes: u64,
    /// Its digest; never changes.
    pub digest: Digest,
    /// Digest over the entries of its table as they are, where blocks have been lost since the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_digest: Option<Digest>,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// Those of them that were given by hand.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pinned_tags: BTreeSet<Tag>,
    /// Those pinned tags that the schedule had given before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub scheduled_tags: BTreeSet<Tag>,
    /// Blocks that the origin knows to be bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_blocks: Vec<BlockRange>,
}

impl From<&Revision> for Offered {
    fn from(revision: &Revision) -> Self {
        Offered {
            uuid: revision.uuid,
            started: revision.started,
            finished: revision.finished,
            size_bytes: revision.size_bytes,
            digest: revision.digest,
            table_digest: revision.table_digest,
            tags: revision.tags.clone(),
            pinned_tags: revision.pinned_tags.clone(),
            scheduled_tags: revision.scheduled_tags.clone(),
            bad_blocks: (&revision.findings.bad_blocks).into_iter().copied().collect(),
        }
    }
}

impl Offered {
    /// What the entries of its table give.
    pub fn expected_digest(&self) -> Digest {
        self.table_digest.unwrap_or(self.digest)
    }

    /// The revision as a new one of an archive, with its tags.
    pub(crate) fn as_revision(&self) -> Revision {
        let (uuid, started, finished) = (self.uuid, self.started, self.finished);
        let (size_bytes, digest) = (self.size_bytes, self.digest);
        let figures = Statistics::default();
        let mut revision = Revision::newest(uuid, started, finished, size_bytes, digest, figures);
        revision.tags.clone_from(&self.tags);
        revision.pinned_tags.clone_from(&self.pinned_tags);
        revision.scheduled_tags.clone_from(&self.scheduled_tags);
        revision
    }
}

/// A piece of the table of a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct TablePiece {
    /// Entries, ascending; they do not overlap.
    pub runs: Vec<TableRun>,
    /// The block that the next piece begins with; the end of the revision if this one is the last. Blocks before it
    /// that are in no run are the same in both revisions.
    pub next: BlockIndex,
}

/// Entries of consecutive blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRun {
    /// The first of them.
    pub first: BlockIndex,
    /// Their entries.
    pub entries: Entries,
}

/// Entries of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Entries {
    /// So many blocks of zeros.
    Zero(u64),
    /// One for each block; at least one. In all runs of a piece there are at most [`PIECE_ENTRIES`] of them.
    Each(Vec<TableEntry>),
}

/// The most entries in a piece of a table, so that neither side needs more than a few MiB for it.
pub const PIECE_ENTRIES: usize = 1 << 16;

/// The most runs in a piece of a table.
pub const PIECE_RUNS: usize = 1 << 16;

/// A block that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched<'a> {
    /// Its bytes. Nobody has checked them on this side.
    Data(&'a [u8]),
    /// The origin cannot read it, or it does not match its digest there.
    Bad,
}
