//! The client against servers in memory: honest ones, ones that err in each field in turn, that stop anywhere, or that
//! send anything.

mod live;
mod script;
mod wrong;

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::source::Source;
use script::*;

/// All that a source says: its extents with data, and its bytes.
fn walk(source: &NbdSource) -> Result<(Vec<Extent>, Vec<u8>)> {
    let (mut extents, mut offset) = (Vec::new(), 0);
    while let Some(found) = source.next_data(offset)? {
        assert!(found.offset >= offset && found.len > 0, "no progress");
        offset = found.end();
        extents.push(found);
    }
    let mut bytes = vec![0xee; source.size_bytes().min(1 << 20) as usize];
    let read = source.read_at(&mut bytes, 0)?;
    assert_eq!(read, bytes.len());
    Ok((extents, bytes))
}

/// A server with 1000 bytes, of which the last 400 are a hole, in chunks out of order.
fn honest() -> (Vec<u8>, Vec<u8>) {
    let mut content = vec![7; 600];
    content.resize(1000, 0);
    let sent = bytes(&[
        &beginning(1000),
        &status(0, 1, ALLOCATION, &[(600, 0), (400, 3)]),
        &done(1),
        &hole(0, 2, 600, 400),
        &data(0, 2, 200, &[7; 400]),
        &data(1, 2, 0, &[7; 200]),
    ]);
    (sent, content)
}

/// Bytes and holes are what the server says, whatever the order of its chunks.
#[test]
fn an_honest_server_is_understood() {
    let (sent, content) = honest();
    let source = open(&sent).unwrap();
    assert!(source.knows_holes());
    assert_eq!((source.size_bytes(), source.current_size_bytes().unwrap()), (1000, 1000));
    let (extents, bytes) = walk(&source).unwrap();
    assert_eq!(extents, [Extent { offset: 0, len: 600 }]);
    assert!(bytes == content);
}

/// A server without structured replies is read, and nothing counts as a hole.
#[test]
fn a_server_of_simple_replies_is_understood() {
    let sent = bytes(&[&simple_beginning(10), &simple(0, 1, b"0123456789")]);
    let source = open(&sent).unwrap();
    assert!(!source.knows_holes());
    let (extents, bytes) = walk(&source).unwrap();
    assert_eq!(extents, [Extent { offset: 0, len: 10 }]);
    assert_eq!(bytes, b"0123456789");
    assert_eq!(source.next_data(10).unwrap(), None);
}

/// Without the context `base:allocation`, or if the server refuses contexts, nothing counts as a hole. A hole that does
/// not read as zero counts as data.
#[test]
fn without_the_context_everything_is_data() {
    let end = bytes(&[&export(10), &reply(GO, ACK, &[])]);
    for refusal in [reply(META, ACK, &[]), reply(META, ERR + 1, &[]), reply(META, ERR + 2, b"no")] {
        let sent = bytes(&[&greeting(), &reply(STRUCTURED, ACK, &[]), &refusal, &end]);
        let source = open(&sent).unwrap();
        assert!(!source.knows_holes());
        assert_eq!(source.next_data(3).unwrap(), Some(Extent { offset: 3, len: 7 }));
    }
    let sent = bytes(&[&beginning(9), &status(1, 1, ALLOCATION, &[(3, 1), (3, 2), (9, 0)])]);
    let source = open(&sent).unwrap();
    assert_eq!(source.next_data(0).unwrap(), Some(Extent { offset: 0, len: 3 }));
    assert_eq!(source.next_data(4).unwrap(), Some(Extent { offset: 6, len: 3 }));
}

/// What the client sends, byte by byte: it agrees on contexts, opens the export, asks, and says goodbye.
#[test]
fn the_client_sends_what_the_protocol_has() {
    let sent = bytes(&[
        &beginning_with_bitmap(10),
        &status(0, 1, ALLOCATION, &[(10, 0)]),
        &status(1, 1, BITMAP, &[(10, 1)]),
        &data(1, 2, 3, b"34"),
    ]);
    let recorder = Recorder::default();
    let reader = Box::new(Cursor::new(sent));
    let writer = Box::new(recorder.clone());
    let source = NbdSource::over(reader, writer, &address(), &options(Some("b"))).unwrap();
    source.next_data(0).unwrap();
    source.read_at(&mut [0; 2], 3).unwrap();
    drop(source);
    let expected = bytes(&[
        b"\0\0\0\x03",
        b"IHAVEOPT\0\0\0\x08\0\0\0\0",
        b"IHAVEOPT\0\0\0\x0a\0\0\0\x33",
        b"\0\0\0\x01x\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x13qemu:dirty-bitmap:b",
        b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x01x\0\x01\0\x03",
        b"\x25\x60\x95\x13\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x0a",
        b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x02",
        b"\x25\x60\x95\x13\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ]);
    assert_eq!(recorder.recorded().escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// Where the server has units of 4096 bytes, requests begin and end with them, and the reader gets what it asked for.
#[test]
fn requests_keep_to_the_units_of_the_server() {
    let content: Vec<u8> = (0..16384_u32).map(|at| (at / 7) as u8).collect();
    let sent = bytes(&[
        &greeting(),
        &reply(STRUCTURED, ERR + 1, &[]),
        &export(16384),
        &block_sizes(4096, 8192),
        &reply(GO, ACK, &[]),
        &simple(0, 2, &content[12288..]),
        &simple(0, 1, &content[4096..12288]),
    ]);
    let recorder = Recorder::default();
    let (reader, writer) = (Box::new(Cursor::new(sent)), Box::new(recorder.clone()));
    let source = NbdSource::over(reader, writer, &address(), &options(None)).unwrap();
    let mut found = vec![0; 12000];
    assert_eq!(source.read_at(&mut found, 5000).unwrap(), 16384 - 5000);
    assert!(found[..11384] == content[5000..]);
    assert!(found[11384..].iter().all(|&byte| byte == 0));
    let asked = recorder.recorded();
    let asked = &asked[asked.len() - 56..];
    assert_eq!(asked[16..28], [&4096_u64.to_be_bytes()[..], &8192_u32.to_be_bytes()].concat());
    assert_eq!(asked[44..56], [&12288_u64.to_be_bytes()[..], &4096_u32.to_be_bytes()].concat());
    assert_eq!(source.read_at(&mut found, 16384).unwrap(), 0);
    assert_eq!(source.read_at(&mut found, u64::MAX).unwrap(), 0);
}

/// So do questions about holes, whatever offset the caller begins with.
#[test]
fn questions_keep_to_the_units_of_the_server() {
    let sent = bytes(&[
        &greeting(),
        &reply(STRUCTURED, ACK, &[]),
        &context(ALLOCATION, "base:allocation"),
        &reply(META, ACK, &[]),
        &export(16384),
        &block_sizes(4096, 8192),
        &reply(GO, ACK, &[]),
        &status(1, 1, ALLOCATION, &[(4096, 0), (8192, 3)]),
    ]);
    let recorder = Recorder::default();
    let (reader, writer) = (Box::new(Cursor::new(sent)), Box::new(recorder.clone()));
    let source = NbdSource::over(reader, writer, &address(), &options(None)).unwrap();
    assert_eq!(source.next_data(5000).unwrap(), Some(Extent { offset: 5000, len: 3192 }));
    assert_eq!(source.next_data(8192).unwrap(), None);
    let asked = recorder.recorded();
    let asked = &asked[asked.len() - 12..];
    assert_eq!(asked, [&4096_u64.to_be_bytes()[..], &12288_u32.to_be_bytes()].concat());
}

/// No more than [`DEPTH`] requests are without an answer, however much is read.
#[test]
fn requests_without_an_answer_are_bounded() {
    let recorder = Recorder::default();
    let (reader, writer) = (Cursor::new(beginning(64 << 20)), Box::new(recorder.clone()));
    let source = NbdSource::over(Box::new(reader), writer, &address(), &options(None)).unwrap();
    let before = recorder.recorded().len();
    source.read_at(&mut vec![0; 32 << 20], 0).unwrap_err();
    assert_eq!(recorder.recorded().len() - before, 28 * DEPTH);
}

/// A bitmap says what is dirty, and holes are still known. Without one, everything may be dirty.
#[test]
fn a_bitmap_says_what_is_dirty() {
    let sent = bytes(&[
        &beginning_with_bitmap(100_000),
        &status(0, 1, BITMAP, &[(1000, 0), (500, 1), (98_500, 0)]),
        &status(1, 1, ALLOCATION, &[(100_000, 3)]),
        &status(0, 2, BITMAP, &[(100_000, 0)]),
        &status(1, 2, ALLOCATION, &[(100_000, 3)]),
    ]);
    let source = open_with_bitmap(&sent).unwrap();
    assert_eq!(source.next_dirty(0).unwrap(), Some(Extent { offset: 1000, len: 500 }));
    assert_eq!(source.next_dirty(1400).unwrap(), Some(Extent { offset: 1400, len: 100 }));
    assert_eq!(source.next_dirty(1500).unwrap(), None);
    assert_eq!(source.next_data(0).unwrap(), None);
    let source = open(&beginning(1000)).unwrap();
    assert_eq!(source.next_dirty(10).unwrap(), Some(Extent { offset: 10, len: 990 }));
}

/// A server that answers byte by byte is asked once for each 64 KiB, and what it has not said counts as data and dirty.
#[test]
fn a_server_that_answers_byte_by_byte_ends() {
    let size = 200_000;
    let mut sent = beginning_with_bitmap(size);
    for cookie in 1..=8 {
        sent.extend(status(0, cookie, BITMAP, &[(1, 0)]));
        sent.extend(status(1, cookie, ALLOCATION, &[(1, 3)]));
    }
    let source = open_with_bitmap(&sent).unwrap();
    let walked = |next: &dyn Fn(u64) -> Result<Option<Extent>>| {
        let (mut found, mut offset) = (Vec::new(), 0);
        while let Some(extent) = next(offset).unwrap() {
            found.push((extent.offset, extent.end()));
            offset = extent.end();
        }
        found
    };
    let expected = [(1, 65536), (65537, 131_072), (131_073, 196_608), (196_609, size)];
    assert_eq!(walked(&|offset| source.next_data(offset)), expected);
    assert_eq!(walked(&|offset| source.next_dirty(offset)), expected);
}

/// An error of the server costs the request that it is about, and no other. Its message is shown on one line.
#[test]
fn an_error_of_the_server_is_shown_and_costs_one_request() {
    let sent = bytes(&[
        &beginning(1 << 20),
        &data(0, 2, 1 << 18, &[1; 100]),
        &error(0, 2, 5, b"bad\nsector\x1b[31m", Some((1 << 18) + 100)),
        &simple(22, 1, &[]),
        &error(1, 2, 108, &[], None),
        &hole(1, 3, 1 << 19, 1 << 18),
        &data(1, 4, 3 << 18, &[4; 1 << 18]),
        &error(1, 5, 108, b"bye", None),
        &data(1, 6, 0, b"ab"),
    ]);
    let source = open(&sent).unwrap();
    let mut all = vec![0; 1 << 20];
    let error = source.read_at(&mut all, 0).unwrap_err().to_string();
    assert_eq!(
        error,
        "source nbd://host/x: cannot read 262144 bytes at offset 0: the server answers EINVAL (22); see its log"
    );
    let error = source.read_at(&mut all[..100], 7).unwrap_err().to_string();
    assert!(error.contains("ESHUTDOWN (108) ('bye'); it is shutting down"), "{error}");
    let mut two = [0; 2];
    assert_eq!((source.read_at(&mut two, 0).unwrap(), &two), (2, b"ab"));
}

/// The words of the server are shown as text, and not all of them.
#[test]
fn words_of_the_server_are_escaped_and_cut() {
    let sent = bytes(&[&beginning(10), &error(1, 1, 5, b"a\nb\x1b[31m\xff", Some(3))]);
    let error = open(&sent).unwrap().read_at(&mut [0; 10], 0).unwrap_err().to_string();
    assert!(error.contains(r"EIO (5) ('a\nb\u{1b}[31m"), "{error}");
    let long = script::error(1, 1, 5, &[b'x'; 4096], None);
    let sent = bytes(&[&beginning(10), &long]);
    let error = open(&sent).unwrap().read_at(&mut [0; 10], 0).unwrap_err().to_string();
    assert!(error.len() < 500 && error.contains("xxx…'"), "{error}");
}

/// If the server refuses to say where its data is, all may be; if it refuses to say what is dirty, that is an error.
#[test]
fn a_refused_question_is_never_taken_for_no() {
    let refusals = bytes(&[&error(1, 1, 95, b"no", None), &simple(5, 2, &[])]);
    let source = open_with_bitmap(&bytes(&[&beginning_with_bitmap(1000), &refusals])).unwrap();
    assert_eq!(source.next_data(5).unwrap(), Some(Extent { offset: 5, len: 995 }));
    let error = source.next_dirty(5).unwrap_err().to_string();
    assert!(error.contains("ask for the status of 995 bytes at offset 5: the server"), "{error}");
}

/// The bytes of an honest server, cut off anywhere, are an error: no wait, no panic, no wrong byte.
#[test]
fn an_answer_that_is_cut_off_is_an_error() {
    let (sent, content) = honest();
    for end in 0..sent.len() {
        let error = open(&sent[..end]).and_then(|source| {
            let walked = walk(&source);
            if let Ok((_, bytes)) = &walked {
                assert!(*bytes == content, "wrong bytes after {end}");
            }
            walked
        });
        let error = error.expect_err(&format!("{end} bytes are taken for all")).to_string();
        assert!(error.contains("the server closed the connection after"), "{end}: {error}");
    }
    assert!(open(&sent).and_then(|source| walk(&source)).is_ok());
}

/// Whatever a byte is changed to, the answer is an error of one line, or has the right shape.
#[test]
fn a_changed_byte_is_harmless() {
    let (sent, _) = honest();
    for at in 0..sent.len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = sent.clone();
            changed[at] ^= flip;
            check(&changed);
        }
    }
}

fn check(sent: &[u8]) {
    let size = |source: &NbdSource| source.size_bytes();
    let walked = open(sent).and_then(|source| {
        // An export that claims to be huge has more pieces of 64 KiB than a test has time for.
        let few = size(&source) <= 64 << 20;
        if few { walk(&source).map(drop) } else { source.read_at(&mut [0; 9], 5).map(drop) }
    });
    if let Err(error) = walked {
        assert!(matches!(error, Error::Source { .. }), "{error:?}");
        let text = error.to_string();
        assert!(!text.contains(|c: char| c.is_control()), "not one line: {text:?}");
    }
}

proptest! {
    /// Random bytes, alone and after an honest beginning, are harmless.
    #[test]
    fn any_bytes_are_harmless(any in prop::collection::vec(any::<u8>(), 0..300), magic in 0..3_usize) {
        check(&any);
        check(&bytes(&[&greeting(), &any]));
        // A reply that begins right is taken further.
        let begin: &[u8] = [&b""[..], b"\x66\x8e\x33\xef\0", b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x01"][magic];
        check(&bytes(&[&beginning(1000), begin, &any]));
        check(&bytes(&[&simple_beginning(1000), begin, &any]));
    }
}
