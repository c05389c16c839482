//! What `btrfs send --no-data` prints: which parts of a file differ between two subvolumes. It is not believed further
//! than its types, lengths and places go.
//!
//! Source: "Btrfs send stream format" in the developer documentation of btrfs, version 1. Numbers are little-endian.

use std::io::{self, ErrorKind, Read};

use crate::base::error::describe_io;
use crate::base::extent::Extent;
use crate::source::program::Misread;
use crate::source::reported::Extents;

/// With what a stream begins, and the version that follows.
const MAGIC: &[u8; 13] = b"btrfs-stream\0";
const VERSION: u32 = 1;

/// A command without data has some attributes of some bytes, and a path.
const MOST_COMMAND_BYTES: usize = 64 << 10;

/// Commands.
mod command {
    pub(super) const SNAPSHOT: u16 = 2;
    pub(super) const SET_XATTR: u16 = 13;
    pub(super) const REMOVE_XATTR: u16 = 14;
    pub(super) const CLONE: u16 = 16;
    pub(super) const TRUNCATE: u16 = 17;
    pub(super) const CHMOD: u16 = 18;
    pub(super) const CHOWN: u16 = 19;
    pub(super) const UTIMES: u16 = 20;
    pub(super) const END: u16 = 21;
    pub(super) const UPDATE_EXTENT: u16 = 22;
}

/// Attributes of commands.
mod attribute {
    pub(super) const SIZE: u16 = 4;
    pub(super) const PATH: u16 = 15;
    pub(super) const FILE_OFFSET: u16 = 18;
    pub(super) const CLONE_LEN: u16 = 24;
}

type Answer<T> = std::result::Result<T, Misread>;

/// Reads a stream while it is printed: what may differ in the file `file`, ascending, within its size.
///
/// # Errors
/// Of anything that is not expected of two subvolumes that have only this file.
pub(super) fn differences(
    mut printed: impl Read,
    file: &str,
    size_bytes: u64,
) -> Answer<Vec<Extent>> {
    let mut head = [0; MAGIC.len() + 4];
    fill(&mut printed, &mut head)?;
    let (magic, version) = head.split_at(MAGIC.len());
    if magic != MAGIC || version != VERSION.to_le_bytes() {
        return Err(other("no stream of version 1"));
    }
    let mut extents = Extents::new();
    let mut body = Vec::new();
    let mut is_first = true;
    loop {
        let code = next_command(&mut printed, &mut body)?;
        match code {
            command::SNAPSHOT if is_first => {}
            _ if is_first => return Err(other(&format!("command {code} at the beginning"))),
            command::UPDATE_EXTENT => {
                extents.push(place(&body, file, attribute::SIZE, size_bytes)?)
            }
            command::CLONE => extents.push(place(&body, file, attribute::CLONE_LEN, size_bytes)?),
            command::TRUNCATE
            | command::SET_XATTR
            | command::REMOVE_XATTR
            | command::CHMOD
            | command::CHOWN
            | command::UTIMES => {}
            command::END => break,
            _ => return Err(other(&format!("command {code}"))),
        }
        is_first = false;
    }
    match printed.read(&mut [0]) {
        Ok(0) => Ok(extents.finish()),
        Ok(_) => Err(other("something after its end")),
        Err(error) => Err(unreadable(&error)),
    }
}

/// The next command, and its attributes. Its checksum is for streams that are stored.
fn next_command(printed: &mut impl Read, body: &mut Vec<u8>) -> Answer<u16> {
    let mut header = [0; 10];
    fill(printed, &mut header)?;
    let [a, b, c, d, low, high, ..] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > MOST_COMMAND_BYTES {
        return Err(other(&format!("a command of {len} bytes")));
    }
    body.resize(len, 0);
    fill(printed, body)?;
    Ok(u16::from_le_bytes([low, high]))
}

/// The place that a command is about, of which one attribute has the length.
fn place(body: &[u8], file: &str, length: u16, size_bytes: u64) -> Answer<Extent> {
    let (mut path, mut offset, mut len) = (None, None, None);
    let mut rest = body;
    while !rest.is_empty() {
        let (kind, value, behind) = attribute(rest).ok_or_else(|| other("a cut command"))?;
        rest = behind;
        match kind {
            attribute::PATH => path = Some(value),
            attribute::FILE_OFFSET => offset = number(value),
            kind if kind == length => len = number(value),
            _ => {}
        }
    }
    if path != Some(file.as_bytes()) {
        return Err(other("a change of another file"));
    }
    let (Some(offset), Some(len)) = (offset, len) else {
        return Err(other("a change without a place"));
    };
    // The last block may reach beyond the end of the file.
    let end = offset.checked_add(len).map(|end| end.min(size_bytes));
    match end {
        Some(end) if offset < end => Ok(Extent::between(offset, end)),
        _ => Err(other(&format!(
            "{len} bytes at offset {offset}, expected at least one within {size_bytes}"
        ))),
    }
}

/// The first attribute: its kind, its value, and what is behind it.
fn attribute(body: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (kind, rest) = body.split_first_chunk::<2>()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (value, behind) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((u16::from_le_bytes(*kind), value, behind))
}

fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_le_bytes)
}

fn fill(printed: &mut impl Read, buffer: &mut [u8]) -> Answer<()> {
    printed.read_exact(buffer).map_err(|error| unreadable(&error))
}

fn unreadable(error: &io::Error) -> Misread {
    let is_cut = error.kind() == ErrorKind::UnexpectedEof;
    let why = match is_cut {
        true => "'btrfs send' ended within its stream".to_owned(),
        false => format!("cannot read what 'btrfs send' prints: {}", describe_io(error)),
    };
    Misread { why, is_cut }
}

fn other(found: &str) -> Misread {
    let why = format!("'btrfs send' printed something else than expected: found {found}");
    Misread { why, is_cut: false }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;
    const FILE: &str = "image";

    fn with(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_le_bytes());
            body.extend((value.len() as u16).to_le_bytes());
            body.extend(*value);
        }
        body
    }

    fn command(code: u16, body: &[u8]) -> Vec<u8> {
        let mut whole = (body.len() as u32).to_le_bytes().to_vec();
        whole.extend(code.to_le_bytes());
        whole.extend([1, 2, 3, 4]);
        whole.extend(body);
        whole
    }

    fn change(code: u16, file: &str, offset: u64, len: u64) -> Vec<u8> {
        let length = if code == command::CLONE { attribute::CLONE_LEN } else { attribute::SIZE };
        let (offset, len) = (offset.to_le_bytes(), len.to_le_bytes());
        let place =
            [(attribute::PATH, file.as_bytes()), (attribute::FILE_OFFSET, &offset), (length, &len)];
        command(code, &with(&place))
    }

    fn stream(commands: &[Vec<u8>]) -> Vec<u8> {
        let mut whole = MAGIC.to_vec();
        whole.extend(VERSION.to_le_bytes());
        whole.extend(command(command::SNAPSHOT, &with(&[(attribute::PATH, b"after")])));
        commands.iter().for_each(|command| whole.extend(command));
        whole
    }

    fn read(printed: &[u8]) -> std::result::Result<Vec<Extent>, String> {
        differences(printed, FILE, SIZE).map_err(|misread| misread.why)
    }

    /// An extent that has changed and one that was cloned both differ, in whatever order they come. Commands about the
    /// file as a whole name no difference.
    #[test]
    fn streams_are_understood() {
        let end = command(command::END, &[]);
        let printed = stream(&[
            command(command::UTIMES, &with(&[(attribute::PATH, b"")])),
            change(command::UPDATE_EXTENT, FILE, 8192, 4096),
            change(command::CLONE, FILE, 0, 4096),
            change(command::UPDATE_EXTENT, FILE, 4096, 4096),
            change(command::UPDATE_EXTENT, FILE, SIZE - 4096, 8192),
            command(command::TRUNCATE, &with(&[(attribute::PATH, b"image")])),
            end.clone(),
        ]);
        assert_eq!(read(&printed), Ok(vec![Extent::new(0, 12288), Extent::new(SIZE - 4096, 4096)]));
        assert_eq!(read(&stream(&[end])), Ok(vec![]));
    }

    /// Whatever else is printed is an error, which names it.
    #[test]
    fn other_streams_are_refused() {
        let end = || command(command::END, &[]);
        let no_place = command(command::UPDATE_EXTENT, &with(&[(attribute::PATH, b"image")]));
        let cut = command(command::UPDATE_EXTENT, &[15, 0, 9, 0, 1]);
        for (printed, part) in [
            (b"".to_vec(), "ended within its stream"),
            (b"btrfs-stream\0\x02\0\0\0".to_vec(), "no stream of version 1"),
            (stream(&[]), "ended within its stream"),
            (stream(&[end(), end()]), "something after its end"),
            (stream(&[command(command::SNAPSHOT, &[])]), "command 2"),
            (stream(&[command(3, &[]), end()]), "command 3"),
            (stream(&[no_place, end()]), "a change without a place"),
            (stream(&[cut, end()]), "a cut command"),
            (stream(&[change(command::UPDATE_EXTENT, "other", 0, 1), end()]), "another file"),
            (stream(&[change(command::UPDATE_EXTENT, FILE, 5, 0), end()]), "0 bytes at offset 5"),
            (stream(&[change(command::CLONE, FILE, SIZE, 1), end()]), "within 1048576"),
            (stream(&[change(command::CLONE, FILE, u64::MAX, 2), end()]), "within 1048576"),
            (stream(&[vec![0xff; 10]]), "a command of 4294967295 bytes"),
        ] {
            let why = read(&printed).unwrap_err();
            assert!(why.contains(part), "{why}, expected {part}");
        }
    }

    proptest! {
        /// Whatever is printed, the answer is an error, or extents within the size with gaps in between.
        #[test]
        fn any_stream_is_differences_or_an_error(
            changes in proptest::collection::vec((0u16..30, any::<u64>(), any::<u64>(), any::<bool>()), 0..8),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3),
            cut in any::<proptest::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let commands: Vec<Vec<u8>> = changes.iter().map(|&(code, offset, len, small)| {
                let (offset, len) = if small { (offset % SIZE, len % 70_000) } else { (offset, len) };
                change(code, FILE, offset, len)
            }).chain([command(command::END, &[])]).collect();
            let mut printed = stream(&commands);
            for (at, byte) in flips {
                let at = at.index(printed.len());
                printed[at] = byte;
            }
            if is_cut {
                printed.truncate(cut.index(printed.len()));
            }
            if let Ok(found) = read(&printed) {
                prop_assert!(found.windows(2).all(|pair| pair[0].end() < pair[1].offset));
                prop_assert!(found.iter().all(|extent| extent.len > 0 && extent.end() <= SIZE));
            }
        }
    }
}
