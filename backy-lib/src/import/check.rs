//! What of an old archive is provably right.
//!
//! All images are put together at once, old block by old block, so that each place of each data file is read once: its MD5 is
//! compared with the recorded one, and its bytes go into the MD5 of every image that has it there. A revision comes over
//!
//! - whole, when the MD5 of its image is the recorded one, or none is recorded and those of all its old blocks are right;
//! - with what is right of it, when old blocks of it are known to be wrong: then the MD5 of the image proves nothing any more;
//! - not at all, when its old blocks seem right and the image is not, or when less than half of it is there.

use md5::{Digest, Md5};

use super::old::{DataFile, OldArchive, Place, Slot, State};
use crate::error::Result;
use crate::extent::Extent;
use crate::format::legacy::{Md5Sum, OldRevision};
use crate::progress::{self, Event, Observer, Phase};
use crate::storage::dir::read_full;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// What is to be done with a revision.
pub(super) enum Verdict {
    /// It comes over; the extents are those of its image whose right content is not known.
    Import { size_bytes: u64, lost: Vec<Extent> },
    /// It does not.
    Skip(String),
}

/// Reads the whole archive and judges each of its revisions, in the order of its data files.
pub(super) fn check(
    old: &mut OldArchive,
    observer: &dyn Observer,
) -> Result<Vec<(usize, Verdict)>> {
    settle_short_blocks(old);
    let mut images = images(old);
    let total = old.files.iter().fold(0u64, |sum, data| sum.saturating_add(data.len));
    let counters = progress::begin(observer, Phase::CheckOldArchive, total);
    let mut users: Vec<(Place, usize)> = Vec::new();
    let mut piece = Vec::new();
    for number in numbers(old) {
        users.clear();
        for (at, image) in images.iter().enumerate().filter(|(_, i)| number < i.blocks) {
            let place = old.place(image.file, number).filter(|place| old.len(*place) > 0);
            users.extend(place.map(|place| (place, at)));
        }
        users.sort_unstable();
        for group in users.chunk_by(|a, b| a.0 == b.0) {
            progress::check(observer)?;
            let Some((place, _)) = group.first() else { continue };
            counters.add(old.len(*place));
            let state = read_slot(old, *place, &mut piece, |bytes| {
                for (_, at) in group {
                    if let Some(whole) = images.get_mut(*at).and_then(|image| image.whole.as_mut())
                    {
                        whole.update(bytes);
                    }
                }
            });
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
    Ok(images.into_iter().map(|image| (image.file, judge(old, image))).collect())
}

/// The numbers of all old blocks that there are, ascending; what a `.rev` claims besides costs nothing.
fn numbers(old: &OldArchive) -> Vec<u64> {
    let slots = old.files.iter().flat_map(|data| &data.slots);
    let mut numbers: Vec<u64> = slots.map(|slot| slot.sum.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// An image that is being put together.
struct Image {
    file: usize,
    blocks: u64,
    /// How many of its old blocks are there, right or wrong, and how many are right.
    present: u64,
    right: u64,
    /// Its MD5 so far, while nothing is known to be wrong.
    whole: Option<Md5>,
}

impl Image {
    fn count(&mut self, state: State, number: u64, len: u64, block_bytes: u64) {
        // Only the last one of an image may be short.
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

/// Reads an old block, gives its bytes to `take`, and keeps what is found out about it.
fn read_slot(
    old: &mut OldArchive,
    place: Place,
    piece: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
) -> State {
    let (len, offset) = (old.len(place), old.offset(place));
    let Some(data) = old.files.get_mut(place.0) else { return State::Wrong };
    let Some(slot) = data.slots.get_mut(place.1) else { return State::Wrong };
    let Some(file) = data.file.as_ref().filter(|_| slot.state != State::Wrong) else {
        return State::Wrong;
    };
    let mut hasher = Md5::new();
    let mut done = 0;
    while done < len {
        let step = (len - done).min(PIECE_BYTES);
        piece.resize(step as usize, 0);
        if !matches!(read_full(file, piece, offset + done), Ok(found) if found as u64 == step) {
            slot.state = State::Wrong;
            return State::Wrong;
        }
        hasher.update(&*piece);
        take(piece);
        done += step;
    }
    let found = Md5Sum(hasher.finalize().into());
    slot.state = match slot.sum.md5 {
        Some(expected) if expected == found => State::Right,
        Some(_) => State::Wrong,
        None => State::Unproven,
    };
    slot.sum.md5.get_or_insert(found);
    slot.state
}

/// Finds out how long the last old block of each image is that holds it itself. A source that grew left it padded with zeros,
/// or with others behind it; then its MD5 tells where it ends.
pub(super) fn settle_short_blocks(old: &mut OldArchive) {
    for file in 0..old.files.len() {
        let Some((place, len)) = old.files.get(file).and_then(|data| settle(old, file, data))
        else {
            continue;
        };
        let path = old.path(file);
        old.notes.push(format!("{}: the last block of the image has {len} bytes", path.display()));
        if let Some(data) = old.files.get_mut(file) {
            data.short = Some((place.1, len));
        }
    }
}

/// Place and length of the last old block when it is shorter than its place.
fn settle(old: &OldArchive, file: usize, data: &DataFile) -> Option<(Place, u64)> {
    let last = data.revision.as_ref()?.blocks.checked_sub(1)?;
    let place = old.place(file, last).filter(|place| place.0 == file)?;
    let expected = data.slots.get(place.1)?.sum.md5?;
    let mut bytes = vec![0; old.len(place) as usize];
    let found = read_full(data.file.as_ref()?, &mut bytes, old.offset(place)).ok()?;
    bytes.truncate(found);
    if Md5::digest(&bytes)[..] == expected.0 {
        return None;
    }
    let mut hasher = Md5::new();
    let ends = (1..).zip(&bytes).find(|(_, byte)| {
        hasher.update([**byte]);
        hasher.clone().finalize()[..] == expected.0
    });
    ends.map(|(len, _)| (place, len))
}

fn judge(old: &mut OldArchive, image: Image) -> Verdict {
    let Some(revision) = old.files.get(image.file).and_then(|data| data.revision.clone()) else {
        return Verdict::Skip("it has no .rev".to_owned());
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
            return Verdict::Skip(format!(
                "image: found the MD5 {found}, expected {expected}, {why}"
            ));
        }
        (Some(_), Some(_)) => true,
        (Some(_), None) => image.right == blocks,
        (None, _) => false,
    };
    if proven {
        return Verdict::Import {
            size_bytes: size_bytes(old, image.file, &revision),
            lost: Vec::new(),
        };
    }
    if let Some(base) = on_raw {
        return Verdict::Skip(format!(
            "it reads through to {base}, which has no .rev to prove it by"
        ));
    }
    if present.saturating_mul(2) < blocks {
        return Verdict::Skip(format!("only {present} of its {blocks} blocks are there"));
    }
    if image.right == 0 {
        return Verdict::Skip(format!("none of its {blocks} blocks has the MD5 recorded for it"));
    }
    let size_bytes = size_bytes(old, image.file, &revision);
    Verdict::Import { size_bytes, lost: lost(old, image.file, &revision, size_bytes) }
}

/// Size of an image. Its last old block counts as a whole one where it is not stored: that is said in a note.
fn size_bytes(old: &mut OldArchive, file: usize, revision: &OldRevision) -> u64 {
    let (size_bytes, is_known) = old.size_bytes(file, revision.blocks);
    if !is_known {
        let path = old.path(file);
        let what = "its last block is not there, and counts as a whole one";
        old.notes.push(format!("{}: {what}", path.display()));
    }
    size_bytes
}

/// What of an image is not known to be right.
fn lost(old: &OldArchive, file: usize, revision: &OldRevision, size_bytes: u64) -> Vec<Extent> {
    let mut lost: Vec<Extent> = Vec::new();
    for number in 0..revision.blocks {
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
    lost
}

/// Says which old blocks are wrong, neighbours together.
fn name_wrong_blocks(old: &OldArchive, observer: &dyn Observer) {
    for (file, data) in old.files.iter().enumerate() {
        let Some(revision) = &data.revision else { continue };
        let flaw = |(at, slot): (usize, &Slot)| {
            let flaw = match slot.state {
                _ if slot.sum.number >= revision.blocks => None,
                _ if old.len((file, at)) == 0 => Some("not in the file"),
                State::Wrong if slot.sum.md5.is_none() => Some("marked as bad"),
                State::Wrong => {
                    Some("found with another MD5 than the one recorded, or not readable")
                }
                _ => None,
            };
            (slot.sum.number, flaw)
        };
        let flaws: Vec<(u64, Option<&str>)> = data.slots.iter().enumerate().map(flaw).collect();
        for run in flaws.chunk_by(|a, b| a.1 == b.1 && a.0 + 1 == b.0) {
            let (Some((first, Some(flaw))), Some((last, _))) = (run.first(), run.last()) else {
                continue;
            };
            let blocks = match first == last {
                true => format!("block {first}"),
                false => format!("blocks {first} to {last}"),
            };
            observer.event(&Event::Finding(format!(
                "{}: {blocks}: {flaw}; lost for each revision that reads it here",
                old.path(file).display()
            )));
        }
    }
}
