//! The protocol of copies: what arrives over a line is what the origin has, and whatever the line or the other side
//! does, this side gets an error in time and in bounded memory.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use backy_lib::origin::Origin;
use backy_lib::origin::wire::{
    Answering, FdReader, FdWriter, Hello, Outcome, Patience, Role, ServeOptions, WireOrigin,
    accept, answer, call,
};
use backy_lib::units::BlockIndex;
use backy_lib::{BlockSize, ErrorKind, Result};
use backy_tests::fake_origin::{FakeOrigin, everything};
use backy_tests::link::{Link, Pass, Streams, Way, patience};

mod copies;
mod hostile_client;
mod hostile_server;
mod line;
mod places;
mod raw;

/// Reads what a fake origin sends through a line.
pub(super) type Asking = WireOrigin<FdReader<'static>, FdWriter>;

fn hello(role: Role, archive: &str) -> Hello {
    let program = "backy 0.1".to_owned();
    Hello { versions: vec![1], role, archive: archive.to_owned(), program, push: None }
}

fn options(patience: Patience) -> ServeOptions {
    ServeOptions { program: "backy 0.1".to_owned(), patience, ..ServeOptions::default() }
}

/// Answers out of a fake origin, as the caller of a push does.
fn answering(
    fake: FakeOrigin,
    streams: Streams,
    patience: Patience,
) -> JoinHandle<Result<Outcome>> {
    let block_size = fake.block_size();
    answering_by(move || Ok(Box::new(fake.clone())), block_size, streams, patience)
}

/// The same out of any origin.
fn answering_by(
    origin: impl Fn() -> Result<Box<dyn Origin>> + Send + Sync + 'static,
    block_size: BlockSize,
    streams: Streams,
    patience: Patience,
) -> JoinHandle<Result<Outcome>> {
    std::thread::spawn(move || {
        let connection = call(streams, "far", &hello(Role::Answer, "copy"), patience)?;
        let (threads, limit_rate, stop) = (Some(3), None, Arc::default());
        let origin = &origin;
        answer(connection, &Answering { origin, block_size, threads, limit_rate, patience, stop })
    })
}

/// Asks, as the side that is called for a push does.
fn asking(streams: Streams, patience: Patience) -> Result<Asking> {
    let root = tempfile::tempdir().expect("a temporary folder");
    accept(root.path(), streams, &options(patience))?.begin()
}

/// States that grow and shrink, with zeros, odd ends, and bytes that compress and that do not.
fn states() -> Vec<Vec<u8>> {
    let noise = |seed: u64, length: usize| {
        let mut random = backy_lib::storage::sim::Random(seed);
        (0..length).map(|_| random.number() as u8).collect::<Vec<u8>>()
    };
    let mut first = vec![0; 700_001];
    first[50_000..60_000].fill(7);
    first[300_000..500_000].copy_from_slice(&noise(1, 200_000));
    let mut second = first.clone();
    second[52_000..53_000].fill(8);
    second[400_000..450_000].fill(0);
    let mut third = second.clone();
    third.resize(3_000_123, 9);
    third[600_000..650_000].copy_from_slice(&noise(2, 50_000));
    let fourth = third[..512].to_vec();
    vec![first, second, third, fourth, Vec::new()]
}

fn fake() -> FakeOrigin {
    let mut fake = FakeOrigin::with(&states());
    let names: Vec<_> = fake.revisions.iter().map(|(name, _)| *name).collect();
    fake.bad = [(names[0], 80), (names[2], 0), (names[2], 732)].into();
    fake.piece_entries = Some(50);
    fake
}

/// Everything that an origin gives arrives as it is, with every size of blocks, and in pieces of any size.
#[test]
fn what_arrives_is_what_the_origin_has() {
    for (block_size, entries) in [(4096, None), (4096, Some(1)), (65536, Some(3)), (2 << 20, None)]
    {
        let mut origin = fake();
        (origin.block_size, origin.piece_entries) = (BlockSize::new(block_size), entries);
        origin.bad.retain(|(_, block)| *block < 10);
        let expected = everything(&mut origin).expect("a fake never fails");
        let laid = Link::default().lay();
        let far = answering(origin, laid.caller, patience());
        let mut near = asking(laid.called, patience()).expect("a connection");
        let found = everything(&mut near).expect("everything");
        assert!(found == expected, "{block_size}");
        near.finish_with("{\"a\":1}".to_owned()).expect("an end");
        let outcome = far.join().expect("no panic").expect("an end");
        assert_eq!(outcome, Outcome::Done(Some("{\"a\":1}".to_owned())));
    }
}

/// A request that the origin cannot answer fails alone: the next one works, and gets its own answer.
#[test]
fn a_request_that_fails_does_not_break_the_connection() {
    let origin = fake();
    let gone = origin.revisions[0].0;
    let laid = Link::filtered(move |way, _, mut frame| {
        // The revision is deleted after the list: all requests that name it name another one.
        let is_request = way == Way::Back && [6, 8].contains(&frame[4]) && frame.len() >= 28;
        if is_request && frame[12..28] == uuid_bytes(gone) {
            frame[12..28].fill(0xee);
        }
        Pass::Bytes(frame)
    })
    .lay();
    let far = answering(origin, laid.caller, patience());
    let mut near = asking(laid.called, patience()).expect("a connection");
    let all = near.listing().expect("a list").revisions;
    let wanted: Vec<BlockIndex> = (0..170).map(BlockIndex).collect();
    for _ in 0..3 {
        let error = near.table(gone, None, BlockIndex(0)).expect_err("deleted");
        assert_eq!(error.kind(), ErrorKind::NoSuchRevision, "{error}");
        let error = near.fetch(gone, &wanted, &mut |_, _| Ok(())).expect_err("deleted");
        assert_eq!(error.kind(), ErrorKind::NoSuchRevision, "{error}");
        let mut count = 0;
        let other = all.iter().find(|offered| offered.size_bytes > 2 << 20).expect("a large one");
        let many: Vec<BlockIndex> = (0..730).map(BlockIndex).collect();
        let took = near.fetch(other.uuid, &many, &mut |block, _| {
            count += 1;
            match block.0 == 300 {
                true => Err(backy_lib::Error::Interrupted),
                false => Ok(()),
            }
        });
        assert!(took.is_err() && count == 301, "{count}");
    }
    near.finish().expect("an end");
    assert_eq!(far.join().expect("no panic").expect("an end"), Outcome::Done(None));
}

fn uuid_bytes(id: backy_lib::RevisionId) -> [u8; 16] {
    id.to_string().parse::<uuid::Uuid>().expect("a UUID").into_bytes()
}

/// The two sides agree on a version that both know, and otherwise each of them says which it knows.
#[test]
fn both_sides_agree_on_a_version_or_say_which_they_know() {
    for (versions, works) in
        [(vec![1], true), (vec![7, 1, 0], true), (vec![2], false), (vec![], false)]
    {
        let laid = Link::default().lay();
        let hello = Hello { versions: versions.clone(), ..hello(Role::Answer, "copy") };
        let far =
            std::thread::spawn(move || call(laid.caller, "far", &hello, patience()).map(drop));
        let near = asking(laid.called, patience()).map(drop);
        let far = far.join().expect("no panic");
        assert_eq!((near.is_ok(), far.is_ok()), (works, works), "{versions:?}");
        for error in [near.err(), far.err()].into_iter().flatten() {
            let text = error.to_string();
            assert!(text.contains("expected one of [1]") && !text.contains('\n'), "{text}");
        }
    }
}

/// A caller that wants what this side does not do gets told which command does it.
#[test]
fn a_caller_with_the_wrong_role_is_refused() {
    let laid = Link::default().lay();
    let far = std::thread::spawn(move || {
        call(laid.caller, "far", &hello(Role::Ask, "copy"), patience()).map(drop)
    });
    let near = accept(Path::new("/"), laid.called, &options(patience())).map(drop);
    let text = far.join().expect("no panic").expect_err("the wrong role").to_string();
    assert!(text.contains("backy serve"), "{text}");
    assert!(near.is_err());
}
