//! Changes to the files of an archive behind its back.

use arbitrary::Arbitrary;
use backy_lib::Digest;
use backy_lib::storage::sim::SimStorage;
use backy_lib::storage::{FileName, Storage};

const SECTOR: usize = 512;
const CHECKSUM_KEY: &[u8] = b"\"checksum\": \"";
const CHECKSUM_DIGITS: usize = 64;
/// Of the header of a digest file, before the identity; the checksum is the second half of it.
const FIXED_BYTES: usize = 64;
/// What JSON consists of besides words.
const PUNCTUATION: &[u8] = b" \n\t\",:[]{}";

/// A change of one file.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Edit {
    /// One bit flips.
    Flip {
        /// Which byte, modulo the length.
        at: u16,
        /// Which bit, modulo 8.
        bit: u8,
    },
    /// Four bytes change.
    Put {
        /// Which bytes, modulo the length.
        at: u16,
        /// What they are.
        bytes: [u8; 4],
    },
    /// A big-endian number changes, as in headers and tables.
    Number {
        /// Which, in units of its size and modulo the length.
        at: u16,
        /// Has 8 bytes, not 4.
        long: bool,
        /// What it is.
        value: Value,
    },
    /// A sector becomes zero.
    Zero {
        /// Which, modulo the length.
        at: u8,
    },
    /// Two sectors are exchanged.
    Swap {
        /// One of them, modulo the length.
        a: u8,
        /// The other.
        b: u8,
    },
    /// The end is missing.
    Truncate {
        /// From where on, modulo the length.
        at: u16,
    },
    /// Bytes are added behind the end.
    Extend {
        /// How much, in bytes.
        bytes: u16,
        /// What it is.
        byte: u8,
    },
    /// Another file of the archive replaces it.
    Replace {
        /// Which, modulo their number.
        by: u8,
    },
    /// It is missing.
    Delete,
    /// A word of JSON, such as a name or a number, is replaced by another existing one.
    Word {
        /// Which, modulo their number.
        at: u16,
        /// The other.
        by: u16,
    },
    /// A number in JSON changes.
    Count {
        /// Which word, modulo their number; if it is none, the next that is.
        at: u16,
        /// What it is.
        value: Value,
    },
    /// A line of text is replaced by another existing one.
    Line {
        /// Which, modulo their number.
        at: u8,
        /// The other; itself to remove it.
        by: u8,
    },
}

/// A number that a program may not expect.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Value {
    /// Any.
    Any(u64),
    /// A power of two and a little.
    Power(u8, i8),
    /// The length of the file and a little.
    Length(i8),
}

impl Value {
    fn of(self, len: usize) -> u64 {
        let near = |number: u64, add: i8| number.wrapping_add_signed(add.into());
        match self {
            Value::Any(number) => number,
            Value::Power(power, add) => near(1 << (power % 64), add),
            Value::Length(add) => near(len as u64, add),
        }
    }
}

impl Edit {
    /// Changes one of the files that are not empty, `file` modulo their number.
    pub fn apply(self, disk: &SimStorage, file: u8) {
        let mut files = disk.files();
        files.retain(|_, content| !content.is_empty());
        let contents: Vec<_> = files.into_iter().collect();
        let chosen = |number: u8| {
            usize::from(number).checked_rem(contents.len()).and_then(|n| contents.get(n))
        };
        let Some((name, content)) = chosen(file) else { return };
        match self {
            Edit::Delete => {
                Storage::remove(disk, *name).expect("remove a file");
                disk.sync_folder().expect("sync the folder");
            }
            Edit::Replace { by } => {
                let other = chosen(by).map_or(content, |(_, other)| other);
                disk.tamper(*name, |bytes| bytes.clone_from(other));
            }
            edit => disk.tamper(*name, |bytes| edit.change(bytes)),
        }
    }

    /// Changes the content of a file that is not empty.
    fn change(self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        let index = |at: u16| usize::from(at) % len;
        match self {
            Edit::Flip { at, bit } => bytes[index(at)] ^= 1 << (bit % 8),
            Edit::Put { at, bytes: new } => put(bytes, index(at), &new),
            Edit::Number { at, long, value } => {
                let value = value.of(len);
                let size = if long { 8 } else { 4 };
                let at = usize::from(at) % len.div_ceil(size) * size;
                match long {
                    true => put(bytes, at, &value.to_be_bytes()),
                    false => put(bytes, at, &(value as u32).to_be_bytes()),
                }
            }
            Edit::Zero { at } => bytes[sector(at, len)].fill(0),
            Edit::Swap { a, b } => {
                let (a, b) = (sector(a, len), sector(b, len));
                for (a, b) in a.zip(b) {
                    bytes.swap(a, b);
                }
            }
            Edit::Truncate { at } => bytes.truncate(index(at)),
            Edit::Extend { bytes: more, byte } => bytes.resize(len + usize::from(more), byte),
            Edit::Word { at, by } => {
                let words = pieces(bytes, |byte| !PUNCTUATION.contains(byte));
                copy_piece(bytes, &words, at.into(), by.into());
            }
            Edit::Count { at, value } => {
                let mut words = pieces(bytes, |byte| !PUNCTUATION.contains(byte));
                let first = usize::from(at) % words.len().max(1);
                words.rotate_left(first);
                let is_number = |word: &Piece| bytes[word.clone()].iter().all(u8::is_ascii_digit);
                if let Some(word) = words.into_iter().find(is_number) {
                    let number = value.of(len).to_string();
                    bytes.splice(word, number.bytes());
                }
            }
            Edit::Line { at, by } => {
                let lines = pieces(bytes, |byte| *byte != b'\n');
                if at == by && !lines.is_empty() {
                    bytes.drain(lines[usize::from(at) % lines.len()].clone());
                } else {
                    copy_piece(bytes, &lines, at.into(), by.into());
                }
            }
            Edit::Replace { .. } | Edit::Delete => {}
        }
    }
}

type Piece = std::ops::Range<usize>;

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..].iter_mut().zip(new).for_each(|(byte, new)| *byte = *new);
}

fn sector(at: u8, len: usize) -> Piece {
    let start = usize::from(at) % len.div_ceil(SECTOR) * SECTOR;
    start..(start + SECTOR).min(len)
}

/// The extents of bytes for which `belongs` is true.
fn pieces(bytes: &[u8], belongs: impl Fn(&u8) -> bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(skip) = bytes[at..].iter().position(&belongs) {
        let start = at + skip;
        let run = bytes[start..].iter().position(|byte| !belongs(byte));
        at = run.map_or(bytes.len(), |run| start + run);
        pieces.push(start..at);
    }
    pieces
}

fn copy_piece(bytes: &mut Vec<u8>, pieces: &[Piece], at: usize, by: usize) {
    if let [_, ..] = pieces {
        let (at, by) = (pieces[at % pieces.len()].clone(), pieces[by % pieces.len()].clone());
        let other = bytes[by].to_vec();
        bytes.splice(at, other);
    }
}

/// Makes the checksums of the manifest and of the headers of digest files right, as a forger does.
pub(super) fn forge(disk: &SimStorage) {
    for name in disk.files().into_keys() {
        match name {
            FileName::MANIFEST => disk.tamper(name, |bytes| forge_manifest(bytes)),
            FileName::Digests(..) => disk.tamper(name, |bytes| forge_header(bytes)),
            _ => {}
        }
    }
}

fn forge_manifest(bytes: &mut [u8]) {
    let key = bytes.windows(CHECKSUM_KEY.len()).position(|window| window == CHECKSUM_KEY);
    let start = key.map_or(bytes.len(), |key| key + CHECKSUM_KEY.len());
    let Some(digits) = bytes.get_mut(start..start + CHECKSUM_DIGITS) else { return };
    digits.fill(b'0');
    let checksum = Digest::of(bytes).to_string();
    put(bytes, start, checksum.as_bytes());
}

fn forge_header(bytes: &mut [u8]) {
    let Some((fixed, rest)) = bytes.split_at_mut_checked(FIXED_BYTES) else { return };
    let (fields, checksum) = fixed.split_at_mut(FIXED_BYTES / 2);
    let len = u32::from_be_bytes([fields[24], fields[25], fields[26], fields[27]]);
    let Some(identity) = rest.get(..len as usize) else { return };
    let guarded = [fields, identity].concat();
    checksum.copy_from_slice(&Digest::of(&guarded).0);
}
