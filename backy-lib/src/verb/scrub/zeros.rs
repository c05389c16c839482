//! Zero blocks of the image where the file system does not report holes.
//!
//! As a rule a scrub reads whatever of the image the file system reports as data, also where the digests say that a
//! block is zero: other bytes there are damage. CephFS and NFS report everything as data, and reading all of it would
//! make the cost follow the size of the disk. What nobody ever wrote is not stored there, so it cannot rot. So a scrub
//! reads only the zero blocks that backy has written, or that somebody else may have:
//!
//! - blocks that an older revision holds: they had other content, and backy cleared them;
//! - blocks that backy has written since a scrub last read them;
//! - blocks that are known to be bad;
//! - all of them if the time of `last.raw` is not the one in the manifest, because then somebody else may have written
//!   to it, or if the digests of any revision do not match, because then they do not prove what is zero.

use std::sync::Arc;

use super::Scrub;
use crate::base::canary::{Bug, planted};
use crate::base::error::{ErrorKind, Result};
use crate::format::manifest::{BlockRange, BlockRanges};
use crate::storage::{Access, FileName};

impl Scrub<'_> {
    /// The zero blocks of the image to read; `None` for those that the file system reports as data. `emptied` are those
    /// that an older revision holds, if all digests match. `is_ours`: the image has the time that the manifest records.
    pub(super) fn find_written_zeros(
        &self,
        emptied: Option<Vec<BlockRange>>,
        is_ours: bool,
    ) -> Result<Option<Arc<BlockRanges>>> {
        let (Some(newest), Some(emptied)) = (self.manifest.revisions.first(), emptied) else {
            return Ok(None);
        };
        let image = match self.context.storage.open(FileName::IMAGE, Access::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            image => image?,
        };
        if !is_ours || image.len()? != newest.size_bytes || !image.hides_holes()? {
            return Ok(None);
        }
        let mut written = BlockRanges::default();
        let rewritten = newest.rewritten.iter().map(|range| range.blocks);
        let bad = newest.findings.bad_blocks.iter().copied();
        written.add_all(rewritten.chain(bad));
        if !planted(Bug::UnreadZeros) {
            written.add_all(emptied);
        }
        Ok(Some(Arc::new(written)))
    }
}
