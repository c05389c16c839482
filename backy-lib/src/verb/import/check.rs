//! Proves which parts of an old archive are correct.
//!
//! All images are assembled at once, old block by old block, so that each position of each data file is read
//! once: its MD5 is compared with the recorded one, and its bytes are added to the MD5 of every image that
//! contains it. A revision is imported
//!
//! - whole, if the MD5 of its image is the recorded one, or none is recorded and those of all its old blocks
//!   are correct;
//! - in part, if some of its old blocks are known to be wrong: the MD5 of the image then proves nothing;
//! - not at all, if its old blocks seem correct but the image is not, or if less than half of it exists.

use md5::{Digest, Md5};

use super::old::{DataFile, OldArchive, Place, State};
use crate::base::error::{Error, Result, limit};
use crate::base::extent::Extent;
use crate::base::progress::{self, Event, Observer, Phase};
use crate::format::legacy::{Md5Sum, OldRevision};
use crate::storage::dir::read_full;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// How many lengths of a short block are tried between two polls of the observer.
const TRIED_LENGTHS: usize = 1 << 12;

/// How many runs of wrong old blocks in a file are listed one by one.
const MAX_NAMED_RUNS: u64 = 1000;

/// What to do with a revision.
pub(super) enum Verdict {
    /// Import it; the extents are the parts of its image with unknown content.
    Import { size_bytes: u64, lost: Vec<Extent> },
    /// Leave it out, for this reason.
    Skip(String),
}

/// Reads the whole archive and judges each revision, in the order of its data files.
pub(super) fn check(
    old: &mut OldArchive,
    observer: &dyn Observer,
) -> Result<Vec<(usize, Verdict)>> {
    settle_short_blocks(old, observer)?;
    let mut images = images(old);
    let total = old.files.iter().fold(0u64, |sum, data| sum.saturating_add(data.len));
    let counters = progress::begin_work(observer, Phase::CheckOldArchive, total)?;
    let mut users: Vec<(Place, usize)> = Vec::new();
    let mut piece = Vec::new();
    for number in numbers(old) {
        users.clear();
        for (at, image) in images.iter().enumerate().filter(|(_, i)| number < i.blocks) {
            progress::check(observer)?;
            let place = old.place(image.file, number).filter(|place| old.len(*place) > 0);
            users.extend(place.map(|place| (place, at)));
        }
        users.sort_unstable();
        for group in users.chunk_by(|a, b| a.0 == b.0) {
            let Some((place, _)) = group.first() else { continue };
            counters.add(old.len(*place));
            let state = read_slot(old, *place, &mut piece, |bytes| {
                group.iter().try_for_each(|(_, at)| {
                    progress::check(observer)?;
                    if let Some(whole) = images.get_mut(*at).and_then(|image| image.whole.as_mut())
                    {
                        whole.update(bytes);
                    }
                    Ok(())
                })
            })?;
            for (_, at) in group {
                if let Some(image) = images.get_mut(*at) {
                    image.count(state, number, old.len(*place), old.block_bytes);
                }
            }
        }
    }
    for image in images.iter_mut().filter(|image| image.present < image.blocks) {
        image.whole = None;
    }
    name_wrong_blocks(old, observer);
    let judged = |image: Image| Ok((image.file, judge(old, image, observer)?));
    images.into_iter().map(judged).collect()
}

/// The numbers of all existing old blocks, ascending; further ones that a `.rev` claims cost nothing.
fn numbers(old: &OldArchive) -> Vec<u64> {
    let slots = old.files.iter().flat_map(|data| &data.slots);
    let mut numbers: Vec<u64> = slots.map(|slot| slot.sum.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// An image being assembled.
struct Image {
    file: usize,
    blocks: u64,
    /// How many of its old blocks exist, correct or not, and how many are correct.
    present: u64,
    right: u64,
    /// Its MD5 so far, as long as no block is known to be wrong.
    whole: Option<Md5>,
}

impl Image {
    fn count(&mut self, state: State, number: u64, len: u64, block_bytes: u64) {
        // Only the last block of an image may be short.
        let fits = number + 1 == self.blocks || len == block_bytes;
        self.present += 1;
        self.right += u64::from(fits && state == State::Right);
        if !fits || state == State::Wrong {
            self.whole = None;
        }
    }
}

fn images(old: &OldArchive) -> Vec<Image> {
    let of_revision = |(file, data): (usize, &DataFile)| {
        let blocks = data.revision.as_ref()?.blocks;
        Some(Image { file, blocks, present: 0, right: 0, whole: Some(Md5::new()) })
    };
    old.files.iter().enumerate().filter_map(of_revision).collect()
}

/// Reads an old block, passes its bytes to `take`, and records its state.
///
/// # Errors
/// Only errors of `take`.
fn read_slot(
    old: &mut OldArchive,
    place: Place,
    piece: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<State> {
    let (len, offset) = (old.len(place), old.offset(place));
    let Some(data) = old.files.get_mut(place.0) else { return Ok(State::Wrong) };
    let Some(slot) = data.slots.get_mut(place.1) else { return Ok(State::Wrong) };
    let Some(file) = data.file.as_ref().filter(|_| slot.state != State::Wrong) else {
        return Ok(State::Wrong);
    };
    let mut hasher = Md5::new();
    let mut done = 0;
    while done < len {
        let step = (len - done).min(PIECE_BYTES);
        piece.resize(step as usize, 0);
        let read = read_full(file, piece, offset + done);
        let read = match read {
            Err(error) if limit(&error).is_some() => {
                let uuid = data.uuid.to_string();
                return Err(Error::io(old.folder.file_path(&uuid), "read it")(error));
            }
            read => read.unwrap_or(0),
        };
        if read as u64 != step {
            slot.state = State::Wrong;
            return Ok(State::Wrong);
        }
        hasher.update(&*piece);
        take(piece)?;
        done += step;
    }
    let found = Md5Sum(hasher.finalize().into());
    slot.state = match slot.sum.md5 {
        Some(expected) if expected == found => State::Right,
        Some(_) => State::Wrong,
        None => State::Unproven,
    };
    slot.sum.md5.get_or_insert(found);
    Ok(slot.state)
}

/// Finds the length of the last old block of each image that contains it itself. If the source grew, that
/// block is padded with zeros, or other blocks follow it; then its MD5 shows where it ends.
///
/// # Errors
/// Only if the observer asks to stop: trying every length takes seconds for each image.
pub(super) fn settle_short_blocks(old: &mut OldArchive, observer: &dyn Observer) -> Result<()> {
    for file in 0..old.files.len() {
        progress::check(observer)?;
        let Some(data) = old.files.get(file) else { continue };
        let Some((place, len)) = settle(old, file, data, observer)? else { continue };
        let path = old.path(file);
        old.notes.push(format!("{}: the last block of the image has {len} bytes", path.display()));
        if let Some(data) = old.files.get_mut(file) {
            data.short = Some((place.1, len));
        }
    }
    Ok(())
}

/// Place and length of the last old block if it is shorter than its place.
fn settle(
    old: &OldArchive,
    file: usize,
    data: &DataFile,
    observer: &dyn Observer,
) -> Result<Option<(Place, u64)>> {
    let Some((place, expected)) = last_block(old, file, data) else { return Ok(None) };
    let mut bytes = vec![0; old.len(place) as usize];
    let Some(Ok(found)) = data.file.as_ref().map(|f| read_full(f, &mut bytes, old.offset(place)))
    else {
        return Ok(None);
    };
    bytes.truncate(found);
    if Md5::digest(&bytes)[..] == expected.0 {
        return Ok(None);
    }
    let mut hasher = Md5::new();
    let mut len = 0;
    for part in bytes.chunks(TRIED_LENGTHS) {
        progress::check(observer)?;
        for byte in part {
            hasher.update([*byte]);
            len += 1;
            if hasher.clone().finalize()[..] == expected.0 {
                return Ok(Some((place, len)));
            }
        }
    }
    Ok(None)
}

/// Place and recorded MD5 of the last old block of an image, if the image's own file contains it.
fn last_block(old: &OldArchive, file: usize, data: &DataFile) -> Option<(Place, Md5Sum)> {
    let last = data.revision.as_ref()?.blocks.checked_sub(1)?;
    let place = old.place(file, last).filter(|place| place.0 == file)?;
    Some((place, data.slots.get(place.1)?.sum.md5?))
}

fn judge(old: &mut OldArchive, image: Image, observer: &dyn Observer) -> Result<Verdict> {
    progress::check(observer)?;
    let skip = |why: String| Ok(Verdict::Skip(why));
    let Some(revision) = old.files.get(image.file).and_then(|data| data.revision.clone()) else {
        return skip("it has no .rev".to_owned());
    };
    let (blocks, present) = (image.blocks, image.present);
    let found = image.whole.map(|whole| Md5Sum(whole.finalize().into()));
    let on_raw = old.base_without_rev(image.file);
    let proven = match (found, revision.checksum) {
        (Some(found), Some(expected)) if found != expected => {
            let why = match on_raw {
                None => "though each of its blocks is right".to_owned(),
                Some(base) => format!("and it reads through to {base}, which has no .rev"),
            };
            return skip(format!("image: found the MD5 {found}, expected {expected}, {why}"));
        }
        (Some(_), Some(_)) => true,
        (Some(_), None) => image.right == blocks,
        (None, _) => false,
    };
    if proven {
        let size_bytes = size_bytes(old, image.file, &revision);
        return Ok(Verdict::Import { size_bytes, lost: Vec::new() });
    }
    if let Some(base) = on_raw {
        return skip(format!("it reads through to {base}, which has no .rev to prove it by"));
    }
    if present.saturating_mul(2) < blocks {
        return skip(format!("only {present} of its {blocks} blocks are there"));
    }
    if image.right == 0 {
        return skip(format!("none of its {blocks} blocks has the MD5 recorded for it"));
    }
    let size_bytes = size_bytes(old, image.file, &revision);
    let lost = lost(old, image.file, &revision, size_bytes, observer)?;
    Ok(Verdict::Import { size_bytes, lost })
}

/// Size of an image. If its last old block is not stored, it counts as a whole one, and a note says so.
fn size_bytes(old: &mut OldArchive, file: usize, revision: &OldRevision) -> u64 {
    let (size_bytes, is_known) = old.size_bytes(file, revision.blocks);
    if !is_known {
        let path = old.path(file);
        let what = "its last block is not there, and counts as a whole one";
        old.notes.push(format!("{}: {what}", path.display()));
    }
    size_bytes
}

/// The parts of an image that are not known to be correct.
fn lost(
    old: &OldArchive,
    file: usize,
    revision: &OldRevision,
    size_bytes: u64,
    observer: &dyn Observer,
) -> Result<Vec<Extent>> {
    let mut lost: Vec<Extent> = Vec::new();
    for number in 0..revision.blocks {
        progress::check(observer)?;
        let start = number.saturating_mul(old.block_bytes);
        let extent = Extent::between(start, size_bytes.min(start.saturating_add(old.block_bytes)));
        let place = old.place(file, number);
        let right = place.is_some_and(|p| old.state(p) == State::Right && old.len(p) == extent.len);
        match lost.last_mut() {
            _ if right => {}
            Some(last) if last.end() == start => *last = Extent::between(last.offset, extent.end()),
            _ => lost.push(extent),
        }
    }
    Ok(lost)
}

/// Lists the wrong old blocks, with adjacent ones combined.
fn name_wrong_blocks(old: &OldArchive, observer: &dyn Observer) {
    for (file, data) in old.files.iter().enumerate() {
        let Some(revision) = &data.revision else { continue };
        let path = old.path(file);
        let mut named = 0_u64;
        let mut name = |run: &WrongRun| {
            named += 1;
            if named <= MAX_NAMED_RUNS {
                let blocks = match run.first == run.last {
                    true => format!("block {}", run.first),
                    false => format!("blocks {} to {}", run.first, run.last),
                };
                observer.event(&Event::Finding(format!(
                    "{}: {blocks}: {}; lost for each revision that reads it here",
                    path.display(),
                    run.flaw
                )));
            }
        };
        let mut run: Option<WrongRun> = None;
        for (at, slot) in data.slots.iter().enumerate() {
            let flaw = match slot.state {
                _ if slot.sum.number >= revision.blocks => None,
                _ if old.len((file, at)) == 0 => Some("not in the file"),
                State::Wrong if slot.sum.md5.is_none() => Some("marked as bad"),
                State::Wrong => {
                    Some("found with another MD5 than the one recorded, or not readable")
                }
                _ => None,
            };
            let number = slot.sum.number;
            match (&mut run, flaw) {
                (Some(run), Some(flaw)) if run.flaw == flaw && run.last + 1 == number => {
                    run.last = number;
                }
                (_, flaw) => {
                    run.iter().for_each(&mut name);
                    run = flaw.map(|flaw| WrongRun { first: number, last: number, flaw });
                }
            }
        }
        run.iter().for_each(&mut name);
        if let Some(more) = named.checked_sub(MAX_NAMED_RUNS).filter(|more| *more > 0) {
            let path = path.display();
            observer.event(&Event::Finding(format!("{path}: {more} more stretches like these")));
        }
    }
}

/// Adjacent old blocks with the same problem.
struct WrongRun {
    first: u64,
    last: u64,
    flaw: &'static str,
}
