//! Any bytes as what the side that answers sends: this side gets errors of one line, and only answers that can be.
//!
//! An honest beginning is put before the bytes, which they would hardly ever find. They are also tried without it.

use std::io::{Cursor, sink};

use backy_lib::format::manifest::MAX_TAGS;
use backy_lib::origin::wire::{Hello, Patience, Role, WireOrigin, call};
use backy_lib::origin::{Entries, Fetched, Origin};
use backy_lib::units::BlockIndex;
use backy_lib::{Error, Result};

/// The longest of what is asked for: more would find nothing new.
const MOST_BLOCKS: u64 = 600;
const MOST_PIECES: usize = 20;

/// What an honest side begins with.
pub const BEGINNING: &[u8] =
    b"\x89backy\r\n\0\0\0\x1f\x02\0\0\0{\"version\":1,\"program\":\"backy\"}";

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    check(data);
    check(&[BEGINNING, data].concat());
}

fn check(data: &[u8]) {
    if let Err(error) = ask(data) {
        check_error(&error);
    }
}

/// An error of the protocol is one line. In others the command escapes names of files.
///
/// # Panics
/// When it is not.
pub fn check_error(error: &Error) {
    let text = error.to_string();
    let is_line =
        !matches!(error, Error::Origin { .. }) || !text.contains(|c: char| c.is_control());
    assert!(is_line, "not one line: {text:?}");
}

fn ask(data: &[u8]) -> Result<()> {
    let (archive, program) = ("a".to_owned(), "backy".to_owned());
    let hello = Hello { versions: vec![1], role: Role::Ask, archive, program, push: None };
    let patience = Patience::default();
    let connection = call((Cursor::new(data.to_vec()), sink()), "far", &hello, patience)?;
    let mut origin = WireOrigin::new(connection, "far", patience)?;
    let listing = origin.listing()?;
    let block_size = listing.block_size;
    for (number, offered) in listing.revisions.iter().enumerate().take(4) {
        assert!(offered.tags.len() <= MAX_TAGS);
        assert!(listing.revisions[..number].iter().all(|other| other.uuid != offered.uuid));
        let end = BlockIndex(block_size.count(offered.size_bytes));
        let since = listing.revisions.get(number + 1).map(|offered| offered.uuid);
        let mut from = BlockIndex(0);
        for _ in 0..MOST_PIECES {
            if from >= end {
                break;
            }
            let piece = origin.table(offered.uuid, since, from)?;
            assert!(from < piece.next && piece.next <= end, "no progress");
            let mut free = from;
            for run in &piece.runs {
                let count = match &run.entries {
                    Entries::Zero(count) => *count,
                    Entries::Each(entries) => entries.len() as u64,
                };
                assert!(run.first >= free && count > 0, "runs overlap");
                free = run.first.plus(count);
            }
            assert!(free <= piece.next, "a run behind the piece");
            from = piece.next;
        }
        let wanted: Vec<BlockIndex> = (0..end.0.min(MOST_BLOCKS)).map(BlockIndex).collect();
        let mut taken = Vec::new();
        origin.fetch(offered.uuid, &wanted, &mut |block, fetched| {
            if let Fetched::Data(bytes) = fetched {
                let length = block_size.extent(block, offered.size_bytes).len;
                assert_eq!(bytes.len() as u64, length, "block {block}");
            }
            taken.push(block);
            Ok(())
        })?;
        assert_eq!(taken, wanted);
    }
    Ok(())
}
