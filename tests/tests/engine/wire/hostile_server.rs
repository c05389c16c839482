//! Answers that no honest side gives: each is an error of one line, in time, and the connection is not used any more.

use std::io::Write;
use std::time::{Duration, Instant};

use super::raw::{
    Asked, BLOCKS, Deaf, LIST, MAGIC, TABLE, answer_by, batch, frame, join, list_of, piece_of, run,
};
use super::*;

fn origin() -> FakeOrigin {
    let bytes = (0..100_000u32).map(|at| (at / 1000) as u8 + 1).collect();
    FakeOrigin::with(&[bytes])
}

fn client(streams: Streams, patience: Patience) -> Result<Asking> {
    WireOrigin::new(call(streams, "far", &hello(Role::Ask, "x"), patience)?, "far", patience)
}

/// Asks for everything twice. Returns both errors, the first one and that of using the connection again.
fn errors(
    laid: backy_tests::link::Laid,
    patience: Patience,
    far: impl FnOnce(Streams) + Send,
) -> [String; 2] {
    let text = |result: Result<Vec<_>>| match result {
        Ok(_) => "everything arrived".to_owned(),
        Err(error) => {
            assert!(!error.is_of_process(), "{error}");
            error.to_string()
        }
    };
    std::thread::scope(|scope| {
        let called = laid.called;
        scope.spawn(move || far(called));
        let began = Instant::now();
        let found = match client(laid.caller, patience) {
            Ok(mut client) => [text(everything(&mut client)), text(everything(&mut client))],
            Err(error) => [error.to_string(), error.to_string()],
        };
        assert!(began.elapsed() < Duration::from_secs(10), "{found:?}");
        found
    })
}

/// What comes instead of an honest answer to requests of one type.
type Lie = fn(&Asked, &mut FakeOrigin) -> Vec<u8>;

fn check(kind: u8, lie: Lie, expected: &str) {
    let found = errors(Link::raw(patience()).lay(), patience(), move |streams| {
        let mut origin = origin();
        answer_by(streams, move |asked| match asked.kind == kind {
            true => lie(&asked, &mut origin),
            false => asked.honest(&mut origin),
        });
    });
    for text in found {
        let is_line = !text.contains(|c: char| c.is_control());
        assert!(text.contains(expected) && is_line, "expected '{expected}': {text}");
    }
}

/// The list with something else in its JSON.
fn list_with(asked: &Asked, origin: &mut FakeOrigin, from: &str, to: &str) -> Vec<u8> {
    let listing = origin.listing().expect("a list");
    let text = serde_json::to_string(&listing.revisions).expect("JSON");
    assert!(text.contains(from), "{text}");
    list_of(asked.number, text.replace(from, to).as_bytes(), 4096, 1)
}

#[test]
fn honest_answers_by_hand_arrive() {
    let mut client = {
        let laid = Link::default().lay();
        std::thread::spawn(move || {
            let mut origin = origin();
            answer_by(laid.called, move |asked| asked.honest(&mut origin));
        });
        client(laid.caller, patience()).expect("a connection")
    };
    assert!(
        everything(&mut client).expect("everything") == everything(&mut origin()).expect("a fake")
    );
}

/// A list is checked as strictly as a manifest.
#[test]
fn a_list_that_cannot_be_is_refused() {
    check(LIST, |a, _| list_of(a.number, b"{}", 4096, 0), "bad list");
    check(LIST, |a, _| list_of(a.number, b"[", 4096, 0), "bad list");
    check(LIST, |a, _| list_of(a.number, b"[]", 4096, 1_000_000_000), "expected 1000000000");
    check(LIST, |a, _| list_of(a.number, b"[]", 4097, 0), "4097");
    check(LIST, |a, _| list_of(a.number, b"[]", 0, 0), "power of two");
    check(LIST, |a, o| list_with(a, o, "\"daily\"", "\"../x\""), "bad list");
    check(LIST, |a, o| list_with(a, o, "00000000-0000", "../../../etc"), "bad list");
    check(
        LIST,
        |a, o| list_with(a, o, "\"size_bytes\":100000", "\"size_bytes\":99999999999999999"),
        "size_bytes",
    );
    check(LIST, |a, o| list_with(a, o, "\"size_bytes\":100000", "\"size_bytes\":-1"), "bad list");
    let bad = |range: &str| format!("\"size_bytes\":100000,\"bad_blocks\":[{range}]");
    for range in [
        "{\"first\":25,\"count\":1}",
        "{\"first\":0,\"count\":0}",
        "{\"first\":18446744073709551615,\"count\":2}",
        "{\"first\":3,\"count\":2},{\"first\":4,\"count\":1}",
    ] {
        let bad = bad(range);
        let found = errors(Link::raw(patience()).lay(), patience(), move |streams| {
            let mut origin = origin();
            answer_by(streams, move |a| list_with(&a, &mut origin, "\"size_bytes\":100000", &bad));
        });
        assert!(found[0].contains("bad_blocks"), "{range}: {found:?}");
    }
    check(
        LIST,
        |a, o| {
            let listing = o.listing().expect("a list");
            let twice = [listing.revisions[0].clone(), listing.revisions[0].clone()];
            list_of(a.number, &serde_json::to_vec(&twice).expect("JSON"), 4096, 2)
        },
        "twice",
    );
    check(
        LIST,
        |a, o| {
            let tags: Vec<String> = (0..25).map(|number| format!("\"t{number}\"")).collect();
            list_with(a, o, "\"daily\"", &tags.join(","))
        },
        "at most 24",
    );
}

/// A list that never ends, and one of a billion revisions, stop at the limit, long before memory does.
#[test]
fn a_list_without_end_is_refused() {
    let endless: Lie = |asked, _| {
        let text = format!("[{}]", " ".repeat(1 << 19));
        let one = frame(4, &join(&[&asked.number.to_be_bytes(), text.as_bytes()]));
        one.repeat(40)
    };
    check(LIST, endless, "expected at most 8388608");
}

/// A table makes progress, stays within the revision and within its limits, and its runs ascend.
#[test]
fn a_table_that_cannot_be_is_refused() {
    check(TABLE, |a, _| piece_of(a.number, 0, 0, &[]), "next piece at block 0");
    check(TABLE, |a, _| piece_of(a.number, 26, 0, &[]), "next piece at block 26");
    check(TABLE, |a, _| piece_of(a.number, u64::MAX, 0, &[]), "next piece");
    check(TABLE, |a, _| piece_of(a.number, 25, u32::MAX, &[]), "runs, expected at most");
    check(TABLE, |a, _| piece_of(a.number, 25, 2, &run(0, 1, 0, &[])), "at the end of the payload");
    check(TABLE, |a, _| piece_of(a.number, 25, 1, &run(0, 26, 0, &[])), "entries of 26 blocks");
    check(TABLE, |a, _| piece_of(a.number, 25, 1, &run(0, u64::MAX, 0, &[])), "entries of");
    check(
        TABLE,
        |a, _| piece_of(a.number, 25, 1, &run(u64::MAX, 2, 0, &[])),
        "entries of 2 blocks",
    );
    check(TABLE, |a, _| piece_of(a.number, 25, 1, &run(0, 0, 0, &[])), "entries of 0 blocks");
    check(TABLE, |a, _| piece_of(a.number, 25, 1, &run(0, 1, 2, &[])), "kind 2");
    check(
        TABLE,
        |a, _| piece_of(a.number, 25, 1, &run(0, 25, 1, &[0; 32])),
        "at the end of the payload",
    );
    check(
        TABLE,
        |a, _| piece_of(a.number, 25, 2, &join(&[&run(5, 2, 0, &[]), &run(6, 1, 0, &[])])),
        "from 7 to 25",
    );
    check(TABLE, |a, _| piece_of(a.number, 25, 0, &[0]), "after the end of the payload");
}

/// An answer with blocks has as many as were asked for, with as many bytes, and unpacks to no more.
#[test]
fn blocks_that_cannot_be_are_refused() {
    let states = |asked: &Asked| vec![0u8; asked.blocks().len()];
    let zstd = |length: usize| zstd::bulk::compress(&vec![0; length], 1).expect("zstd");
    let _ = (states, zstd);
    check(
        BLOCKS,
        |a, _| batch(a.number, &[0; 24], 0, &[]),
        "an answer with 24 blocks, expected 25",
    );
    check(
        BLOCKS,
        |a, _| batch(a.number, &[0; 25], 0, &[7; 99_999]),
        "99999 bytes of blocks, expected 100000",
    );
    check(
        BLOCKS,
        |a, _| batch(a.number, &[0; 25], 0, &[7; 100_001]),
        "100001 bytes of blocks, expected 100000",
    );
    check(BLOCKS, |a, _| batch(a.number, &[2; 25], 0, &[7; 1]), "1 bytes of blocks, expected 0");
    check(BLOCKS, |a, _| batch(a.number, &[3; 25], 0, &[]), "state 3");
    check(BLOCKS, |a, _| batch(a.number, &[1; 25], 2, &[]), "packing 2");
    check(BLOCKS, |a, _| batch(a.number, &[0; 25], 1, &[1, 2, 3]), "no whole zstd frame");
    let bomb: Lie = |a, _| {
        let frame = zstd::bulk::compress(&vec![0; 256 << 20], 1).expect("zstd");
        batch(a.number, &[0; 25], 1, &frame)
    };
    check(BLOCKS, bomb, "zstd");
    let short: Lie =
        |a, _| batch(a.number, &[0; 25], 1, &zstd::bulk::compress(&[1; 99_999], 1).expect("zstd"));
    check(BLOCKS, short, "found 99999 bytes, expected 100000");
    let longer: Lie = |a, _| {
        let frame = zstd::bulk::compress(&[1; 100_000], 1).expect("zstd");
        batch(a.number, &[0; 25], 1, &join(&[&frame, &frame]))
    };
    check(BLOCKS, longer, "no whole zstd frame");
}

/// Each request has one answer, in order, of the right type.
#[test]
fn answers_to_other_requests_are_refused() {
    check(LIST, |a, _| list_of(a.number + 1, b"[]", 4096, 0), "an answer to request 2");
    check(TABLE, |a, _| batch(a.number, &[1], 0, &[]), "found 'batch', expected 'piece'");
    check(BLOCKS, |a, _| frame(LIST, &a.number.to_be_bytes()), "found 'list', expected 'batch'");
    check(BLOCKS, |_, _| frame(9, &[0, 0]), "2 bytes at the end of the payload");
    // Twice: the second one comes where the next answer should.
    check(TABLE, |a, o| a.honest(o).repeat(2), "found 'piece', expected 'batch'");
    check(LIST, |a, _| frame(11, &a.number.to_be_bytes()), "found 'end'");
}

/// Frames have a known type and a length within its limit, which is checked before memory is allocated.
#[test]
fn frames_that_cannot_be_are_refused() {
    check(
        LIST,
        |_, _| vec![0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0],
        "4294967295 bytes of type 'batch'",
    );
    check(LIST, |_, _| frame(13, &[]), "a type from 1 to 12");
    check(LIST, |_, _| frame(0, &[]), "a type from 1 to 12");
    check(LIST, |_, _| vec![0, 0, 0, 0, 4, 0, 1, 0], "three zero bytes");
    check(LIST, |_, _| frame(12, &[1]), "1 bytes of type 'alive'");
}

/// Texts of the other side are one line, short, and cannot control a terminal; what it reports as damage is about it.
#[test]
fn errors_of_the_other_side_are_harmless() {
    let escape: Lie = |a, _| {
        let text = br#"{"kind":"other","message":"\u001b[31mred\nbacky: all is well\u202e"}"#;
        frame(10, &join(&[&a.number.to_be_bytes(), text]))
    };
    check(LIST, escape, "far: reports: \\u{1b}[31mred\\nbacky: all is well\\u{202e}");
    let long: Lie = |a, _| {
        let text = format!(r#"{{"kind":"limit","message":"{}"}}"#, "x".repeat(10_000));
        frame(10, &join(&[&a.number.to_be_bytes(), text.as_bytes()]))
    };
    check(TABLE, long, &"x".repeat(2000));
    check(
        TABLE,
        |_, _| frame(10, b"\0\0\0\0{\"kind\":\"other\",\"message\":\"no\"}"),
        "far: reports: no",
    );
    check(TABLE, |_, _| frame(10, b"\0\0\0\x02no"), "not JSON");
}

/// A side that sends a byte now and then, or only signs of life, is given up.
#[test]
fn a_side_that_only_keeps_the_line_busy_is_given_up() {
    let short = Patience {
        silence: Duration::from_millis(500),
        answer: Duration::from_millis(900),
        alive: Duration::from_secs(20),
    };
    let link = Link::raw(short);
    for (part, expected) in [(&[0u8][..], "too slowly"), (&frame(12, &[]), "only signs of life")] {
        let found = errors(link.lay(), short, move |(_reader, mut writer)| {
            let welcome = frame(2, br#"{"version":1,"program":"x"}"#);
            let mut sent = writer.write_all(&join(&[MAGIC, &welcome]));
            while sent.is_ok() {
                std::thread::sleep(Duration::from_millis(100));
                sent = writer.write_all(part);
            }
        });
        assert!(found[0].contains(expected), "{found:?}");
    }
}

/// What is no backy is named as it is: a greeting of a shell, nothing, another version.
#[test]
fn what_is_no_backy_is_named() {
    for (bytes, expected) in [
        (
            &b"Welcome to host1!\nLast login: today\n\x1b[0m"[..],
            "found 'Welcome to host1!\\nLast login",
        ),
        (&b""[..], "ended before backy there answered"),
        (&b"\x89bac"[..], "ended before backy there answered"),
        (b"\x89backy\n", "does the login there print something"),
        (&join(&[MAGIC, &frame(2, br#"{"version":2,"program":"x"}"#)]), "Some(2)"),
        (&join(&[MAGIC, &frame(2, b"{}")]), "expected one of [1]"),
        (&join(&[MAGIC, &frame(3, &[0; 4])]), "expected 'welcome'"),
        (&join(&[MAGIC, &frame(2, b"{}")[..9]]), "within frame 1"),
        (MAGIC, "before a welcome"),
    ] {
        let found = errors(Link::raw(patience()).lay(), patience(), move |(_, mut writer)| {
            writer.write_all(bytes).expect("a pipe has space for it");
        });
        assert!(found[0].contains(expected), "{found:?}");
        assert!(!found[0].contains(|c: char| c.is_control()), "{found:?}");
    }
}

/// What a side says before it ends is read, also where it has ended before this side could send what it wanted to.
#[test]
fn a_side_that_ends_early_is_heard() {
    let welcome = frame(2, br#"{"version":1,"program":"x"}"#);
    let refusal = frame(10, b"\0\0\0\0{\"kind\":\"other\",\"message\":\"the disk is gone\"}");
    for (taken, said, expected) in [
        (0, b"Welcome to host1!\n".to_vec(), "found 'Welcome to host1!"),
        (0, Vec::new(), "ended before backy there answered"),
        (1, MAGIC.to_vec(), "before a welcome"),
        (0, join(&[MAGIC, &refusal]), "far: reports: the disk is gone"),
        (0, join(&[MAGIC, &welcome]), "ended after 1 frames from there, before an answer"),
        (2, join(&[MAGIC, &welcome, &refusal]), "far: reports: the disk is gone"),
    ] {
        let streams = (std::io::Cursor::new(said), Deaf(taken));
        let called = call(streams, "far", &hello(Role::Ask, "a"), patience());
        let asked = called.and_then(|connection| WireOrigin::new(connection, "far", patience()));
        let found = match asked.and_then(|mut origin| origin.listing()) {
            Ok(_) => panic!("{taken}: there is no list"),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{taken}: {found}");
    }
}
