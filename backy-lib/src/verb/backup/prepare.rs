//! Everything that may stop a backup before it writes anything.

use std::collections::BTreeSet;

use super::{Context, ImageUpdate, Order, SpaceCheck, estimate_for, room, scan, tags};
use crate::archive::left_overs;
use crate::archive::moment;
use crate::archive::proof;
use crate::archive::recover;
use crate::archive::reserve;
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::mark::ArchiveId;
use crate::base::progress::Event;
use crate::base::revision::Tag;
use crate::base::units::BlockSize;
use crate::format::manifest::{InProgress, Manifest, Operation, Spool};
use crate::format::qcow2::Layout;
use crate::image::delta::Delta;
use crate::policy::room::Estimate;
use crate::source::Source;
use crate::storage::manifest::{self, publish};
use crate::storage::{Access, FileName, Storage};

/// A longer name is not that of a source: the path of a file has at most this many bytes.
const MAX_NAME_BYTES: usize = 4096;

/// Everything that may stop a backup before it writes anything, and then the manifest that lists it as under way.
pub(super) fn prepare(
    context: &Context<'_>,
    manifest: &mut Manifest,
    source: &dyn Source,
    is_tracked: bool,
    order: &Order<'_>,
) -> Result<(Option<scan::OldImage>, Option<Estimate>)> {
    let storage = &**context.storage;
    check_limits(source, manifest.block_size, &order.tags)?;
    manifest::check_room(storage, manifest)?;
    moment::check_image(context.storage, manifest, context.observer)?;
    check_table(context, manifest)?;
    let old = open_old(context, manifest)?;
    if old.is_some() {
        check_image_is_free(storage, order.options.update)?;
    }
    let estimate = match order.options.space {
        SpaceCheck::Off => None,
        _ => Some(estimated(context, manifest, source, order)?),
    };
    if let (Some(estimate), SpaceCheck::Require) = (&estimate, order.options.space) {
        room::check(context, manifest, estimate)?;
    }
    let (started, mut begun) = (context.clock.now(), manifest.clone());
    let operation = InProgress { operation: Operation::Backup, revision: order.uuid, started };
    left_overs::check_vacant(storage, &left_overs::made_by(manifest, &operation))?;
    if order.spools() {
        if begun.spool.is_none() {
            left_overs::check_vacant(storage, &[FileName::Spool])?;
        }
        begun.spool = Some(Spool::new(order.uuid, started));
    }
    if is_tracked {
        begun.archive.get_or_insert_with(|| ArchiveId::new(started));
    }
    left_overs::enter(&mut begun, operation);
    // Nothing has changed yet; either manifest fits the files that the next writer finds.
    publish(storage, &begun)?;
    *manifest = begun;
    Ok((old, estimate))
}

/// The space that the backup takes. If there is too little, what has arrived of an incomplete revision is deleted,
/// unless it becomes the image.
fn estimated(
    context: &Context<'_>,
    manifest: &mut Manifest,
    source: &dyn Source,
    order: &Order<'_>,
) -> Result<Estimate> {
    let storage = &**context.storage;
    let outline = room::Outline(source);
    // What another archive has comes piece by piece, and only once.
    let source = if order.stamp.is_some() { &outline } else { source };
    let again =
        |manifest: &Manifest| estimate_for(storage, manifest, Some(source), order.options.update);
    let mut estimate = again(manifest)?;
    if estimate.missing_bytes().is_none() || !manifest.has_spool() {
        return Ok(estimate);
    }
    if order.spools() && manifest.revisions.is_empty() {
        let spool = judged(storage.open(FileName::Spool, Access::Read))?;
        let bytes = spool.and_then(|spool| spool.allocated_bytes()).unwrap_or(0);
        estimate.free_bytes = estimate.free_bytes.map(|free| free.saturating_add(bytes));
        return Ok(estimate);
    }
    left_overs::delete_spool(storage, manifest)?;
    again(manifest)
}

/// Checks that the digests of the newest revision are those that were recorded, because they decide what has changed
/// and what was right. If they are not, repairs them and stops: somebody has to learn of the problem. The next backup
/// then works.
fn check_table(context: &Context<'_>, manifest: &mut Manifest) -> Result<()> {
    let storage = &**context.storage;
    let mut after = manifest.clone();
    let (verdict, flaw) = proof::prove_silently(context.storage, &mut after, context.observer)?;
    let Some(flaw) = flaw else { return Ok(()) };
    reserve::publish(storage, &after)?;
    *manifest = after;
    let (outcome, undone) = (verdict.outcome(), "no backup was made");
    Err(Error::PutInOrder { flaw: flaw.into(), outcome, undone })
}

/// Opens the newest image, to compare the source with it. Damage that would stop the backup later is an error here,
/// before anything is written. A damaged older delta is not: it is lost with or without the backup.
fn open_old(context: &Context<'_>, manifest: &Manifest) -> Result<Option<scan::OldImage>> {
    let (storage, block_size) = (&**context.storage, manifest.block_size);
    if let Some(older) = manifest.revisions.get(1).filter(|older| !older.is_standalone()) {
        match Delta::open(storage, older.uuid, block_size, older.size_bytes) {
            Err(error) if error.is_damage() => {
                context.observer.event(&Event::Finding(error.to_string()));
            }
            opened => _ = opened?,
        }
    }
    let Some(newest) = manifest.revisions.first() else { return Ok(None) };
    match scan::OldImage::open(storage, newest, block_size) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(recover::image_is_missing(storage, newest))
        }
        opened => opened.map(Some),
    }
}

/// Checks that nobody uses the image as it is, if it is going to be updated in place.
fn check_image_is_free(storage: &dyn Storage, update: ImageUpdate) -> Result<()> {
    let Some(holder) = storage.image_user()? else { return Ok(()) };
    let clones = update == ImageUpdate::Auto && storage.clone_unnamed(FileName::IMAGE)?.is_some();
    let path = storage.path(FileName::IMAGE);
    if clones { Ok(()) } else { Err(Error::Locked { path, holder }) }
}

fn check_limits(source: &dyn Source, block_size: BlockSize, tags: &BTreeSet<Tag>) -> Result<()> {
    let limit = Layout::max_image_bytes(block_size);
    if source.size_bytes() > limit {
        let message = format!(
            "its size is {} bytes; with blocks of {} the limit is {limit}",
            source.size_bytes(),
            block_size.bytes()
        );
        return Err(Error::Source { path: source.place().path.into(), message });
    }
    let name_bytes = source.place().path.len();
    if name_bytes > MAX_NAME_BYTES {
        let message = format!(
            "the name of the source is {name_bytes} bytes long, expected at most {MAX_NAME_BYTES}"
        );
        return Err(Error::Specification { message });
    }
    tags::check_count(tags)
}
