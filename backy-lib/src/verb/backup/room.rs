//! Whether there is space for a backup: the figures for the estimate, and the message when it does not fit.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Context, ImageUpdate};
use crate::archive::left_overs;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::progress::{Event, Observer};
use crate::base::units::display_size;
use crate::format::manifest::{Manifest, SourceIdentity};
use crate::image::taken;
use crate::policy::room::{Estimate, Newest, Situation, estimate};
use crate::source::Source;
use crate::storage::manifest;
use crate::storage::{Access, FileName, Storage};
use crate::verb::maintenance::{self, MaintenanceOptions};

/// The most stretches of a source to look at; everything after them counts in full.
const MAX_EXTENTS: usize = 100_000;

/// The most files to name one by one.
const MAX_NAMED: usize = 5;

/// The estimate for a backup of `source`; without one, of a source as large as the newest revision.
pub(crate) fn estimate_for(
    storage: &dyn Storage,
    manifest: &Manifest,
    source: Option<&dyn Source>,
    update: ImageUpdate,
) -> Result<Estimate> {
    let newest = match manifest.revisions.first() {
        None => None,
        Some(newest) => {
            let image_bytes = taken::image_bytes(storage, newest, manifest.block_size)?;
            Some(Newest { size_bytes: newest.size_bytes, image_bytes })
        }
    };
    let old_bytes = newest.map_or(0, |newest| newest.size_bytes);
    let source_bytes = source.map_or(old_bytes, |source| source.size_bytes());
    let same = old_bytes.min(source_bytes);
    let data_bytes = match source {
        None => source_bytes,
        Some(source) => sum(source_bytes, |offset| source.next_data(offset))?,
    };
    let changed_bytes = match source {
        Some(source) if same > 0 => {
            let block = manifest.block_size.bytes();
            let whole_blocks = |extent: Extent| {
                let end = extent.end().checked_next_multiple_of(block).unwrap_or(u64::MAX);
                Extent::between(extent.offset / block * block, end.min(same))
            };
            let next = |offset| Ok(source.next_changed(offset)?.map(whole_blocks));
            Some(sum(same, next)?).filter(|&bytes| bytes < same)
        }
        _ => None,
    };
    // Tested with a small file, because that is cheap: whether it works does not depend on the size.
    let clones = update == ImageUpdate::Auto
        && newest.is_some()
        && storage.clone_unnamed(FileName::MANIFEST).is_ok_and(|clone| clone.is_some());
    let situation = Situation {
        block_size: manifest.block_size,
        source_bytes,
        data_bytes,
        knows_holes: source.is_some_and(|source| source.knows_holes()),
        changed_bytes,
        newest,
        clones,
    };
    // Not knowing is no reason not to try. Some network file systems report 0 for everything.
    let found = storage.file_system().unwrap_or(None).filter(|found| found.size_bytes > 0);
    let free_bytes = found.map(|found| found.free_bytes);
    Ok(estimate(&situation, &manifest.revisions, free_bytes))
}

/// A source of which only the size is known.
pub(super) struct Outline<'a>(pub &'a dyn Source);

impl Source for Outline<'_> {
    fn identity(&self) -> SourceIdentity {
        self.0.identity()
    }

    fn place(&self) -> SourceIdentity {
        self.0.place()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.0.current_size_bytes()
    }

    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<usize> {
        Ok(0)
    }

    fn knows_holes(&self) -> bool {
        self.0.knows_holes()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.next_changed(offset)
    }
}

/// Bytes up to `end` in the stretches that `next` returns.
fn sum(end: u64, next: impl Fn(u64) -> Result<Option<Extent>>) -> Result<u64> {
    let (mut bytes, mut offset) = (0_u64, 0);
    for _ in 0..MAX_EXTENTS {
        let Some(extent) = next(offset)?.filter(|extent| extent.offset < end) else {
            return Ok(bytes);
        };
        let (first, last) = (extent.offset.max(offset), extent.end().min(end));
        bytes = bytes.saturating_add(last.saturating_sub(first));
        offset = last.max(offset.saturating_add(1));
        if offset >= end {
            return Ok(bytes);
        }
    }
    Ok(bytes.saturating_add(end.saturating_sub(offset)))
}

/// Checks that there is the space that the backup probably needs. Too little for the worst case is only worth a note.
///
/// # Errors
/// [`Error::Room`], which says what is missing and what would free it.
pub(super) fn check(context: &Context<'_>, manifest: &Manifest, estimate: &Estimate) -> Result<()> {
    let Some(free) = estimate.free_bytes else { return Ok(()) };
    if let (Some(missing), Some(expected)) = (estimate.missing_bytes(), estimate.expected_bytes) {
        let message = format!(
            "{} more free space needed: the backup is expected to take about {}, and {} are free; {}",
            display_size(missing),
            display_size(expected),
            display_size(free),
            what_frees(context, manifest, missing)
        );
        return Err(Error::Room { path: context.storage.folder(), message });
    }
    if estimate.most_bytes > free {
        context.observer.event(&Event::Note(format!(
            "if everything changed, this backup needs {}, and {} are free",
            display_size(estimate.most_bytes),
            display_size(free)
        )));
    }
    Ok(())
}

/// Adds to the error of a full disk how much is missing and what would free it. The backup had read `done_bytes` of
/// the `total_bytes` of the source by then.
pub(super) fn explain(
    context: &Context<'_>,
    manifest: &Manifest,
    estimate: &Estimate,
    (done_bytes, total_bytes): (u64, u64),
    error: Error,
) -> Error {
    // A quota, or a file that becomes too long, is another matter.
    let is_full =
        matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
    let Some(free) = estimate.free_bytes.filter(|_| is_full) else {
        return error;
    };
    // This much was enough for the part that was done.
    let in_proportion = (u128::from(free) * u128::from(total_bytes))
        .checked_div(u128::from(done_bytes))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(u64::MAX);
    let expected = estimate.expected_bytes.unwrap_or(0);
    let needed = in_proportion.max(expected).min(estimate.most_bytes);
    let missing = needed.saturating_sub(free);
    let also = match missing {
        // It was almost done.
        0 => format!("it needs a little more; {}", what_frees(context, manifest, 1)),
        _ => {
            let frees = what_frees(context, manifest, missing);
            format!("it needs about {} more; {frees}", display_size(missing))
        }
    };
    Error::Besides { first: error.into(), also }
}

/// What would free this many bytes, in words: first files in the archive that are no part of it.
fn what_frees(context: &Context<'_>, manifest: &Manifest, missing: u64) -> String {
    let frees = what_of_it_frees(context, manifest, missing);
    match strangers(context.storage.as_ref()) {
        Some(strangers) => format!("{strangers}; {frees}"),
        None => frees,
    }
}

/// Files that the manifest on disk does not know, and the space that they take. That manifest lists what a backup
/// makes while it is running.
fn strangers(storage: &dyn Storage) -> Option<String> {
    let manifest = manifest::read(storage).ok()?;
    let named: Vec<String> = left_overs::unknown(storage, &manifest)
        .ok()?
        .into_iter()
        .filter_map(|name| {
            let bytes = storage.open(name, Access::Read).ok()?.allocated_bytes().ok()?;
            (bytes > 0).then(|| format!("{name} ({})", display_size(bytes)))
        })
        .collect();
    let (shown, more) = named.split_at_checked(MAX_NAMED).unwrap_or((&named, &[]));
    let more = match more.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    (!named.is_empty()).then(|| {
        format!("files that do not belong to the archive take space: {}{more}", shown.join(", "))
    })
}

fn what_of_it_frees(context: &Context<'_>, manifest: &Manifest, missing: u64) -> String {
    let wanted = i64::try_from(missing).unwrap_or(i64::MAX);
    let storage = context.storage;
    let (options, observer) = (MaintenanceOptions::default(), context.observer);
    let plan = maintenance::plan(
        storage,
        manifest,
        context.config,
        &options,
        context.clock.now(),
        observer,
    );
    if let Some(frees) = plan.ok().map(|plan| plan.frees_bytes).filter(|&frees| frees >= wanted) {
        return format!("'backy maintenance' would free about {}", display(frees));
    }
    // The oldest first; not the newest, and not those that somebody wants to keep.
    let numbered = manifest.revisions.iter().enumerate().skip(1).rev();
    let candidates = numbered.filter(|(_, revision)| revision.pinned_tags.is_empty());
    let candidates: Vec<usize> = candidates.map(|(number, _)| number).collect();
    match enough(storage, manifest, &candidates, wanted, observer) {
        None => "nothing can be deleted: only the newest and pinned revisions are left".to_owned(),
        Some((numbers, frees)) if frees >= wanted => {
            format!("'backy rm {numbers}' would free about {}", display(frees))
        }
        Some((numbers, frees)) => {
            format!("even 'backy rm {numbers}' would free only about {}", display(frees))
        }
    }
}

fn display(bytes: i64) -> String {
    display_size(u64::try_from(bytes).unwrap_or(0))
}

/// The fewest of `candidates`, from the first on, whose deletion frees enough, or all of them; also returns what that
/// frees.
fn enough(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    candidates: &[usize],
    wanted: i64,
    observer: &dyn Observer,
) -> Option<(String, i64)> {
    let frees = |count: usize| {
        let numbers = candidates.get(..count)?.iter();
        let ids = numbers.filter_map(|&number| Some(manifest.revisions.get(number)?.uuid));
        let plan = maintenance::plan_removal(storage, manifest, &ids.collect(), observer);
        plan.ok().map(|plan| plan.frees_bytes)
    };
    let all = candidates.len();
    let (mut too_few, mut count) = (0, all);
    if frees(all).filter(|_| all > 0)? >= wanted {
        while too_few + 1 < count {
            let middle = too_few.midpoint(count);
            match frees(middle)? >= wanted {
                true => count = middle,
                false => too_few = middle,
            }
        }
    }
    let mut numbers = candidates.get(..count)?.to_vec();
    numbers.sort_unstable();
    Some((as_specification(&numbers), frees(count)?))
}

/// Ascending numbers as the command takes them: `3`, `2..5`, `1,3..4`.
fn as_specification(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).filter_map(|run| {
        let (first, last) = (run.first()?, run.last()?);
        Some(match first == last {
            true => first.to_string(),
            false => format!("{first}..{last}"),
        })
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts a stretch once, even if stretches overlap or extend past the end.
    #[test]
    fn stretches_are_counted_once() {
        let extents = [Extent::new(10, 10), Extent::new(15, 10), Extent::new(90, 100)];
        let next = |offset: u64| Ok(extents.iter().copied().find(|extent| extent.end() > offset));
        assert_eq!(sum(100, next).unwrap(), 25);
        assert_eq!(sum(12, next).unwrap(), 2);
        assert_eq!(sum(0, next).unwrap(), 0);
    }

    #[test]
    fn numbers_are_given_as_the_command_takes_them() {
        for (numbers, text) in
            [(&[3][..], "3"), (&[1, 2, 3], "1..3"), (&[1, 3, 4, 9], "1,3..4,9"), (&[], "")]
        {
            assert_eq!(as_specification(numbers), text);
        }
    }
}
