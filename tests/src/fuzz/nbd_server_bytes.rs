//! Any bytes as what an NBD server sends: its client gets errors of one line, and only answers that can be.
//!
//! Honest beginnings are put before the bytes, which they would hardly ever find. They are also tried without one.

use std::io::{Cursor, sink};

use backy_lib::Error;
use backy_lib::Result;
use backy_lib::extent::Extent;
use backy_lib::source::Source;
use backy_lib::source::nbd::{NbdOptions, NbdSource};

/// More extents or bytes would find nothing new.
const MOST_EXTENTS: usize = 200;
const MOST_BYTES: u64 = 1 << 20;

/// The size of the export after an honest beginning: more than one read request.
const SIZE_BYTES: u64 = 300_000;

/// What an honest server sends until it transmits.
enum Beginning {
    /// No structured replies, and no contexts.
    Simple,
    /// `base:allocation` is context 1.
    Holes,
    /// The bitmap is context 2 besides.
    Bitmap,
}

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    check(data, false);
    check(&[&b"NBDMAGICIHAVEOPT\0\x03"[..], data].concat(), false);
    check(&[&Beginning::Simple.bytes(), data].concat(), false);
    check(&[&Beginning::Holes.bytes(), data].concat(), false);
    check(&[&Beginning::Bitmap.bytes(), data].concat(), true);
}

impl Beginning {
    fn bytes(&self) -> Vec<u8> {
        let reply = |option: u32, kind: u32, payload: &[u8]| {
            let (option, kind) = (option.to_be_bytes(), kind.to_be_bytes());
            let length = (payload.len() as u32).to_be_bytes();
            [&b"\0\x03\xe8\x89\x04\x55\x65\xa9"[..], &option, &kind, &length, payload].concat()
        };
        let mut sent = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        match self {
            Beginning::Simple => sent.extend(reply(8, (1 << 31) + 1, &[])),
            Beginning::Holes | Beginning::Bitmap => {
                sent.extend(reply(8, 1, &[]));
                sent.extend(reply(10, 4, b"\0\0\0\x01base:allocation"));
                if matches!(self, Beginning::Bitmap) {
                    sent.extend(reply(10, 4, b"\0\0\0\x02qemu:dirty-bitmap:b"));
                }
                sent.extend(reply(10, 1, &[]));
            }
        }
        sent.extend(reply(7, 3, &[&[0, 0], &SIZE_BYTES.to_be_bytes()[..], &[0, 3]].concat()));
        sent.extend(reply(7, 1, &[]));
        sent
    }
}

fn check(data: &[u8], with_bitmap: bool) {
    let bitmap = with_bitmap.then(|| "b".to_owned());
    let options = NbdOptions { bitmap, ..NbdOptions::default() };
    if let Err(error) = ask(data, &options) {
        let text = error.to_string();
        assert!(matches!(error, Error::Source { .. }), "another kind of error: {text:?}");
        assert!(!text.contains(|c: char| c.is_control()), "not one line: {text:?}");
    }
}

fn ask(data: &[u8], options: &NbdOptions) -> Result<()> {
    let address = "nbd://host/x".parse()?;
    let reader = Box::new(Cursor::new(data.to_vec()));
    let source = NbdSource::over(reader, Box::new(sink()), &address, options)?;
    assert!(source.size_bytes() > 0, "an empty export");
    let data = walk(&source, &|offset| source.next_data(offset));
    let dirty = walk(&source, &|offset| source.next_dirty(offset));
    let mut bytes = vec![0; source.size_bytes().min(MOST_BYTES) as usize];
    let first = source.read_at(&mut bytes, 0);
    if let Ok(read) = first {
        assert_eq!(read, bytes.len());
    }
    let last = source.read_at(&mut bytes, source.size_bytes() - 1);
    if let Ok(read) = last {
        assert_eq!(read, 1);
    }
    let _ = source.identity();
    data.and(dirty).and(first).and(last).map(drop)
}

/// Extents ascend, end, and lie within the source.
fn walk(source: &NbdSource, next: &dyn Fn(u64) -> Result<Option<Extent>>) -> Result<()> {
    let mut offset = 0;
    for _ in 0..MOST_EXTENTS {
        let Some(found) = next(offset)? else { return Ok(()) };
        assert!(found.offset >= offset && found.len > 0, "no progress: {found:?} after {offset}");
        assert!(found.end() <= source.size_bytes(), "beyond the end: {found:?}");
        offset = found.end();
    }
    Ok(())
}
