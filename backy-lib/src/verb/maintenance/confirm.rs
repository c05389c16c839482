//! `maintenance --confirm`: somebody has looked at the alarms and the damage, and revisions may expire again.

use crate::archive::reserve;
use crate::base::clock::{Clock, latest};
use crate::base::error::Result;
use crate::base::revision::RevisionId;
use crate::format::manifest::{Findings, Manifest};
use crate::image::damage;
use crate::policy::health::{self, Freeze};
use crate::storage::Storage;

/// Records that somebody has looked at all alarms and at all known damage; returns the reasons for a freeze that
/// nobody had confirmed yet. Publishes one manifest, so that either everything is confirmed or nothing.
pub(super) fn confirm(
    storage: &dyn Storage,
    manifest: &mut Manifest,
    clock: &dyn Clock,
) -> Result<Vec<Freeze>> {
    let unreadable = damage::unreadable(storage, manifest)?;
    let bad_blocks: Vec<u64> = unreadable.iter().map(Findings::bad_block_count).collect();
    let now = clock.now();
    let known = health::as_of(manifest, now).0;
    let open = health::freezes(&known, &bad_blocks);
    if open.is_empty() {
        return Ok(open);
    }
    let revisions = manifest.revisions.iter().map(|revision| revision.uuid);
    let damage: Vec<(RevisionId, u64)> =
        revisions.zip(bad_blocks).filter(|&(_, bad)| bad > 0).collect();
    let mut after = manifest.clone();
    after.forget_confirmations_after(latest(now));
    after.confirm(&damage, now);
    reserve::publish(storage, &after)?;
    *manifest = after;
    Ok(open)
}
