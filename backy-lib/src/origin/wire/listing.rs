//! The list of revisions as frames, and back. It is checked as strictly as a manifest.

use std::collections::HashSet;

use super::frame::Kind;
use super::message::listed;
use crate::base::error::{Error, Result};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::MAX_TAGS;
use crate::format::qcow2::Layout;
use crate::origin::{Listing, Offered};

/// The longest list, in bytes of JSON. A usual revision takes about 400.
pub(super) const MOST_LIST_BYTES: usize = 8 << 20;

/// A frame is full once it is as long as this; the next revision is shorter than what is left of the limit.
const FULL_FRAME_BYTES: usize = 128 << 10;

/// The most ranges of bad blocks of one revision; of more, the origin lists the first ones. They take less than
/// 800 KiB.
const MOST_BAD_RANGES: usize = 16 << 10;

/// A list as frames.
pub(super) fn frames(number: u32, listing: Listing) -> Result<Vec<(Kind, Vec<u8>)>> {
    let (mut frames, mut total) = (Vec::new(), 0);
    let count = listing.revisions.len();
    let mut frame: Vec<u8> = Vec::new();
    for mut offered in listing.revisions {
        offered.bad_blocks.truncate(MOST_BAD_RANGES);
        let text = serde_json::to_vec(&offered).unwrap_or_default();
        total += text.len() + 1;
        if total > MOST_LIST_BYTES {
            let message = format!(
                "the list of its {count} revisions is longer than {MOST_LIST_BYTES} bytes; delete some of them"
            );
            return Err(Error::Specification { message });
        }
        if frame.is_empty() {
            frame.extend_from_slice(&number.to_be_bytes());
            frame.push(b'[');
        } else {
            frame.push(b',');
        }
        frame.extend_from_slice(&text);
        if frame.len() >= FULL_FRAME_BYTES {
            frame.push(b']');
            frames.push((Kind::Revisions, std::mem::take(&mut frame)));
        }
    }
    if !frame.is_empty() {
        frame.push(b']');
        frames.push((Kind::Revisions, frame));
    }
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    frames.push((Kind::Listed, listed(number, listing.block_size, count)));
    Ok(frames)
}

/// Checks that the revisions of a list are possible.
///
/// # Errors
/// A sentence with the first problem.
pub(super) fn check(
    block_size: BlockSize,
    revisions: &[Offered],
) -> std::result::Result<(), String> {
    let mut seen = HashSet::new();
    for offered in revisions {
        let place = |field: &str| format!("revision {}, {field}", offered.uuid);
        if !seen.insert(offered.uuid) {
            return Err(format!("{} twice, expected once", place("uuid")));
        }
        let limit = Layout::max_image_bytes(block_size);
        if offered.size_bytes > limit {
            let found = offered.size_bytes;
            return Err(format!("{} {found}, expected at most {limit}", place("size_bytes")));
        }
        for (field, tags) in [
            ("tags", &offered.tags),
            ("pinned_tags", &offered.pinned_tags),
            ("scheduled_tags", &offered.scheduled_tags),
        ] {
            if tags.len() > MAX_TAGS {
                let found = tags.len();
                return Err(format!(
                    "{} with {found} values, expected at most {MAX_TAGS}",
                    place(field)
                ));
            }
        }
        let blocks = block_size.count(offered.size_bytes);
        let mut next = BlockIndex(0);
        for range in &offered.bad_blocks {
            let (first, count) = (range.first, range.count);
            let end = first.0.checked_add(count);
            if first < next || count == 0 || end.is_none_or(|end| end > blocks) {
                return Err(format!(
                    "{} with {count} from {first} on, expected blocks of the image in ascending order",
                    place("bad_blocks")
                ));
            }
            next = range.end();
        }
        if offered.bad_blocks.len() > MOST_BAD_RANGES {
            let found = offered.bad_blocks.len();
            let expected = format!("at most {MOST_BAD_RANGES}");
            return Err(format!(
                "{} with {found} ranges, expected {expected}",
                place("bad_blocks")
            ));
        }
    }
    Ok(())
}
