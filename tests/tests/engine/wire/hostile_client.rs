//! Requests that no honest side sends: each is an error on both sides, in time, and the origin gives nothing else.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::raw::{BLOCKS, Deaf, LIST, MAGIC, TABLE, frame, join, read};
use super::*;

/// What a side that answers sends back to these bytes, and how it ends.
fn against(bytes: Vec<u8>, patience: Patience) -> (Vec<(u8, Vec<u8>)>, Result<Outcome>) {
    let laid = Link::raw(patience).lay();
    let far = answering(fake(), laid.caller, patience);
    let (mut reader, mut writer) = laid.called;
    let mut magic = [0; 8];
    reader.read_exact(&mut magic).expect("the magic");
    assert!(read(&mut reader).is_some_and(|(kind, _)| kind == 1));
    let welcome = frame(2, br#"{"version":1,"program":"x"}"#);
    let sent = writer.write_all(&join(&[MAGIC, &welcome, &bytes]));
    drop((sent, writer));
    let began = Instant::now();
    let mut frames = Vec::new();
    while let Some(frame) = read(&mut reader) {
        frames.push(frame);
    }
    let outcome = far.join().expect("no panic");
    assert!(began.elapsed() < Duration::from_secs(10), "{outcome:?}");
    (frames, outcome)
}

fn blocks(number: u32, revision: &[u8; 16], ranges: &[(u64, u32)]) -> Vec<u8> {
    let ranges: Vec<u8> = ranges
        .iter()
        .flat_map(|(first, count)| join(&[&first.to_be_bytes(), &count.to_be_bytes()]))
        .collect();
    frame(BLOCKS, &join(&[&number.to_be_bytes(), revision, &ranges]))
}

fn table(number: u32, revision: &[u8; 16], since: &[u8; 16], from: u64) -> Vec<u8> {
    frame(TABLE, &join(&[&number.to_be_bytes(), revision, since, &from.to_be_bytes()]))
}

fn known() -> [u8; 16] {
    uuid_bytes(fake().revisions[0].0)
}

/// A request that cannot be is an error that ends the connection.
#[test]
fn requests_that_cannot_be_end_the_connection() {
    let revision = known();
    for (bytes, expected) in [
        (blocks(1, &revision, &[]), "no blocks"),
        (blocks(1, &revision, &[(0, 0)]), "0 blocks from 0"),
        (blocks(1, &revision, &[(0, u32::MAX)]), "4294967295 blocks, expected at most 256"),
        (blocks(1, &revision, &[(0, 200), (300, 57)]), "257 blocks"),
        (blocks(1, &revision, &[(u64::MAX, 2)]), "2 blocks from"),
        (blocks(1, &revision, &[(5, 2), (6, 1)]), "1 blocks from 6 on, expected some from 7 on"),
        (blocks(1, &revision, &[(0, 1)])[..30].to_vec(), "ended within frame 2"),
        (frame(BLOCKS, &[0; 21]), "at the end of the payload"),
        (frame(BLOCKS, &[0; 5000]), "5000 bytes of type 'blocks'"),
        (frame(TABLE, &[0; 43]), "at the end of the payload"),
        (frame(LIST, &[0; 3]), "at the end of the payload"),
        (frame(1, b"{}"), "found 'hello', expected a request"),
        (frame(9, &[0; 100]), "found 'batch', expected a request"),
        (frame(11, b"no"), "an end with"),
        (frame(77, &[]), "a type from 1 to 12"),
        (vec![0xff; 8], "a type from 1 to 12"),
    ] {
        let (frames, outcome) = against(bytes, patience());
        let text = outcome.expect_err(expected).to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        let (kind, payload) = frames.last().expect("an error");
        assert_eq!((*kind, &payload[..4]), (10, &[0; 4][..]), "{text}");
    }
}

/// A request for what does not exist is an error of that request; the next one is answered.
#[test]
fn requests_for_what_does_not_exist_are_answered_with_errors() {
    let (revision, unknown) = (known(), [0xee; 16]);
    let requests = [
        blocks(1, &unknown, &[(0, 1)]),
        blocks(2, &revision, &[(1 << 40, 1)]),
        blocks(3, &revision, &[(170, 2)]),
        blocks(4, &revision, &[(u64::MAX - 1, 1)]),
    ];
    let (frames, outcome) = against(requests.concat(), patience());
    assert_eq!(outcome.expect("an end"), Outcome::HungUp);
    let of = |(kind, payload): &(u8, Vec<u8>)| (*kind, payload[3]);
    let found: Vec<(u8, u8)> = frames.iter().map(of).collect();
    assert_eq!(found, [(10, 1), (10, 2), (10, 3), (10, 4)]);
    assert!(String::from_utf8_lossy(&frames[0].1).contains("no-such-revision"));
    for (bytes, kinds) in [
        (table(1, &unknown, &[0; 16], 0), vec![10]),
        (table(1, &revision, &unknown, 0), vec![10]),
        (table(1, &revision, &[0; 16], u64::MAX), vec![7]),
        (join(&[&blocks(1, &revision, &[(170, 1)]), &frame(11, b"{}")]), vec![9]),
    ] {
        let (frames, outcome) = against(bytes, patience());
        let found: Vec<u8> = frames.iter().map(|(kind, _)| *kind).collect();
        assert!(outcome.is_ok() && found == kinds, "{outcome:?} {found:?}");
    }
}

/// Requests that would need memory without end are refused: more than sixteen at once, or a table beside blocks.
#[test]
fn more_requests_than_allowed_end_the_connection() {
    let revision = known();
    let short = Patience { silence: Duration::from_millis(700), ..patience() };
    for bytes in [
        join(&[&table(1, &revision, &[0; 16], 0), &table(2, &revision, &[0; 16], 0)]).repeat(30),
        join(&[&blocks(1, &revision, &[(0, 100)]), &table(2, &revision, &[0; 16], 0)]).repeat(30),
        frame(LIST, &[0, 0, 0, 1]).repeat(60),
    ] {
        let (_, outcome) = against(bytes, short);
        let text = outcome.expect_err("too many").to_string();
        assert!(text.contains("without an answer, expected at most 16"), "{text}");
    }
}

/// A side that asks and never reads the answers is given up.
#[test]
fn a_side_that_never_reads_answers_is_given_up() {
    let short = Patience { silence: Duration::from_millis(700), ..patience() };
    let laid = Link::raw(short).lay();
    let mut origin = FakeOrigin::with(&[vec![0; 8 << 20]]);
    let mut random = backy_lib::storage::sim::Random(3);
    origin.revisions[0].1.fill_with(|| random.number() as u8);
    let far = answering(origin, laid.caller, short);
    let (_reader, mut writer) = laid.called;
    let welcome = frame(2, br#"{"version":1,"program":"x"}"#);
    writer.write_all(&join(&[MAGIC, &welcome])).expect("a pipe");
    let mut sent = Ok(());
    for number in 1..500u64 {
        let request = blocks(number as u32, &known(), &[(256 * (number % 8), 256)]);
        sent = sent.and_then(|()| writer.write_all(&request));
        std::thread::sleep(Duration::from_millis(1));
    }
    let text = far.join().expect("no panic").expect_err("it never reads").to_string();
    assert!(text.contains("takes nothing") || text.contains("without an answer"), "{text}");
}

/// A hello that cannot be is refused, with a reason that the caller gets.
#[test]
fn a_hello_that_cannot_be_is_refused() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let versions: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    let many = format!(
        r#"{{"versions":[{}],"role":"ask","archive":"a","program":"x"}}"#,
        versions.join(",")
    );
    for (bytes, expected) in [
        (b"SSH-2.0-x\r\n".to_vec(), "found 'SSH-2.0-x"),
        (join(&[MAGIC, &frame(1, b"{}")]), "a hello with missing field"),
        (join(&[MAGIC, &frame(1, b"\xff\xfe")]), "a hello with"),
        (join(&[MAGIC, &frame(1, many.as_bytes())]), "65 versions"),
        (join(&[MAGIC, &frame(1, &many.replace("ask", "root").into_bytes())]), "unknown variant"),
        (join(&[MAGIC, &frame(3, &[0; 4])]), "found 'list', expected 'hello'"),
        (join(&[MAGIC, &[0, 1, 0, 1, 1, 0, 0, 0]]), "65537 bytes of type 'hello'"),
        (MAGIC.to_vec(), "before a hello"),
    ] {
        let laid = Link::raw(patience()).lay();
        let (_reader, mut writer) = laid.caller;
        writer.write_all(&bytes).expect("a pipe has space for it");
        drop(writer);
        let took = backy_lib::origin::wire::serve(root.path(), laid.called, &options(patience()));
        let text = took.expect_err(expected).to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
    }
}

/// Why a pull has failed is read, also where the side that asks has ended before its answers could be written.
#[test]
fn why_a_pull_has_failed_is_read_where_nobody_takes_answers() {
    let welcome = frame(2, br#"{"version":1,"program":"x"}"#);
    let asked = join(&[&frame(LIST, &[0, 0, 0, 1])]);
    let failed = frame(11, br#"{"failed":{"kind":"other","message":"the disk is full"}}"#);
    for (end, expected) in [
        (&failed[..], Ok("the disk is full")),
        (&frame(11, b"{}"), Err("the other side has ended the connection")),
        (&[], Err("the other side has ended the connection")),
        (&failed[..20], Err("within frame 3")),
    ] {
        let said = std::io::Cursor::new(join(&[MAGIC, &welcome, &asked, end]));
        let hello = hello(Role::Answer, "copy");
        let connection = call((said, Deaf(2)), "far", &hello, patience()).expect("a welcome");
        let (threads, limit_rate, stop) = (Some(1), None, Arc::default());
        let (block_size, patience) = (fake().block_size(), patience());
        let origin = &|| Ok(Box::new(fake()) as Box<dyn Origin>);
        let answered = Answering { origin, block_size, threads, limit_rate, patience, stop };
        match (answer(connection, &answered), expected) {
            (Ok(Outcome::Failed(why)), Ok(words)) => assert!(why.contains(words), "{why}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, _) => panic!("{expected:?}: found {found:?}"),
        }
    }
}
