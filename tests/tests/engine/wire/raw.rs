//! The protocol by hand: frames that no honest side sends. Shares no code with the library.

use std::io::{Read, Write};

use backy_lib::RevisionId;
use backy_lib::origin::{Entries, Listing, Origin, TablePiece};
use backy_lib::units::BlockIndex;
use backy_tests::fake_origin::FakeOrigin;
use backy_tests::link::Streams;

pub(super) const MAGIC: &[u8] = b"\x89backy\r\n";

pub(super) const LIST: u8 = 3;
pub(super) const TABLE: u8 = 6;
pub(super) const BLOCKS: u8 = 8;

/// A frame.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes().to_vec();
    out.extend([kind, 0, 0, 0]);
    out.extend(payload);
    out
}

/// Payloads one after the other.
pub(super) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The two frames of a list.
pub(super) fn list(number: u32, listing: &Listing) -> Vec<u8> {
    let text = serde_json::to_vec(&listing.revisions).expect("JSON");
    list_of(number, &text, listing.block_size.bytes() as u32, listing.revisions.len() as u32)
}

pub(super) fn list_of(number: u32, text: &[u8], block_size: u32, count: u32) -> Vec<u8> {
    let number = number.to_be_bytes();
    let end = join(&[&number, &block_size.to_be_bytes(), &count.to_be_bytes()]);
    join(&[&frame(4, &join(&[&number, text])), &frame(5, &end)])
}

/// A run of a piece: its first block, its length, its kind, its entries.
pub(super) fn run(first: u64, length: u64, kind: u8, entries: &[u8]) -> Vec<u8> {
    join(&[&first.to_be_bytes(), &length.to_be_bytes(), &[kind], entries])
}

pub(super) fn piece_of(number: u32, next: u64, count: u32, runs: &[u8]) -> Vec<u8> {
    frame(7, &join(&[&number.to_be_bytes(), &next.to_be_bytes(), &count.to_be_bytes(), runs]))
}

/// The frame of a piece.
pub(super) fn piece(number: u32, piece: &TablePiece) -> Vec<u8> {
    let runs: Vec<Vec<u8>> = piece
        .runs
        .iter()
        .map(|one| match &one.entries {
            Entries::Zero(count) => run(one.first.0, *count, 0, &[]),
            Entries::Each(entries) => {
                let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.0).collect();
                run(one.first.0, entries.len() as u64, 1, &bytes)
            }
        })
        .collect();
    piece_of(number, piece.next.0, piece.runs.len() as u32, &runs.concat())
}

/// The frame of an answer with blocks.
pub(super) fn batch(number: u32, states: &[u8], packing: u8, bytes: &[u8]) -> Vec<u8> {
    let count = (states.len() as u32).to_be_bytes();
    frame(9, &join(&[&number.to_be_bytes(), &count, states, &[packing], bytes]))
}

/// A request as the other side reads it.
pub(super) struct Asked {
    pub(super) kind: u8,
    pub(super) number: u32,
    pub(super) payload: Vec<u8>,
}

impl Asked {
    pub(super) fn blocks(&self) -> Vec<u64> {
        let (ranges, _) = self.payload[20..].as_chunks::<12>();
        let of = |range: &[u8; 12]| {
            let first = u64::from_be_bytes(range[..8].try_into().expect("8 bytes"));
            let count = u32::from_be_bytes(range[8..].try_into().expect("4 bytes"));
            first..first + u64::from(count)
        };
        ranges.iter().flat_map(of).collect()
    }

    fn revision(&self) -> RevisionId {
        RevisionId::from(uuid::Uuid::from_slice(&self.payload[4..20]).expect("16 bytes"))
    }

    /// What an honest side answers out of a fake origin.
    pub(super) fn honest(&self, origin: &mut FakeOrigin) -> Vec<u8> {
        match self.kind {
            LIST => list(self.number, &origin.listing().expect("a list")),
            TABLE => {
                let from = u64::from_be_bytes(self.payload[36..44].try_into().expect("8 bytes"));
                let found = origin.table(self.revision(), None, BlockIndex(from));
                piece(self.number, &found.expect("a piece"))
            }
            BLOCKS => {
                let bytes = origin.bytes(self.revision()).expect("it is there");
                let blocks = self.blocks();
                let of = |block: &u64| {
                    let from = 4096 * *block as usize;
                    bytes[from..bytes.len().min(from + 4096)].to_vec()
                };
                let data: Vec<u8> = blocks.iter().flat_map(of).collect();
                batch(self.number, &vec![0; blocks.len()], 0, &data)
            }
            _ => Vec::new(),
        }
    }
}

/// The next frame: its type and payload; `None` at the end.
pub(super) fn read(from: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 8];
    from.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).ok()?;
    Some((header[4], payload))
}

/// Takes a call and answers each request with what `answer` makes of it, until the caller ends.
pub(super) fn answer_by(
    (mut reader, mut writer): Streams,
    mut answer: impl FnMut(Asked) -> Vec<u8>,
) {
    let mut magic = [0; 8];
    if reader.read_exact(&mut magic).is_err() || read(&mut reader).is_none() {
        return;
    }
    let welcome = frame(2, br#"{"version":1,"program":"x"}"#);
    if writer.write_all(&join(&[MAGIC, &welcome])).is_err() {
        return;
    }
    while let Some((kind, payload)) = read(&mut reader) {
        if kind == 12 || payload.len() < 4 {
            continue;
        }
        let number = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
        // The caller may have gone.
        let _ = writer.write_all(&answer(Asked { kind, number, payload }));
    }
}

/// A line whose other side reads no more after so many frames of this side, the magic being the first.
pub(super) struct Deaf(pub(super) usize);

impl Write for Deaf {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.0 -= 1;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
