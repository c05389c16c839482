//! Which revision an operation is about, when others change the archive between the question and the answer.

use std::time::Duration;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::export::{ExportOptions, export};
use backy_lib::image::reader::ReadCache;
use backy_lib::maintenance::RemovalRequest;
use backy_lib::progress::Silent;
use backy_lib::scrub::ScrubRequest;
use backy_lib::tag::TagRequest;
use backy_lib::{
    Caller, Error, ErrorKind, Result, Revision, RevisionId, RevisionSpec, ScrubOptions, drill,
};
use backy_tests::memory::MemoryTarget;
use backy_tests::world::{self, World};
use jiff::Timestamp;

const BLOCK: usize = 4096;

/// Four revisions, oldest first: blocks of 1, 2, 3 and 4.
fn four() -> World {
    let states: Vec<Vec<u8>> = (1..=4).map(|byte| vec![byte; 6 * BLOCK]).collect();
    World::with_backups(false, &states)
}

fn caller(clock: &dyn backy_lib::Clock) -> Caller<'_> {
    Caller { program: None, wait: Duration::ZERO, clock, observer: &Silent }
}

fn tagging(number: usize) -> TagRequest {
    let add = ["kept".parse().expect("a tag")].into();
    TagRequest { revision: RevisionSpec::Number(number), add, remove: [].into() }
}

fn removing(number: usize) -> RemovalRequest {
    RemovalRequest { revisions: RevisionSpec::Number(number).into(), force: false }
}

fn scrubbing(number: usize) -> ScrubRequest {
    let revisions = RevisionSpec::Number(number).into();
    ScrubRequest { revisions, check_only: false, budget: None }
}

/// A number means the revision that had it when the archive was opened, although a backup has shifted all numbers
/// before the lock was taken.
#[test]
fn a_number_means_the_revision_that_the_caller_saw() {
    let mut world = four();
    let seen = world::open(&world.disk).expect("open");
    let second = seen.id(1).unwrap();
    world.backup(&[5; 6 * BLOCK]);
    let clock = world::clock();
    let tagged = tagging(1).run(&seen, &caller(&clock)).expect("a tag");
    assert_eq!(tagged.uuid, second);
    scrubbing(1).run(&seen, &caller(&clock)).expect("a scrub");
    let read_at =
        |revision: &Revision| -> Option<Timestamp> { revision.read_at().next().map(|r| r.at) };
    let now = world::open(&world.disk).expect("open");
    assert!(now.revision(second).is_ok_and(|revision| read_at(revision).is_some()));
    let force = RemovalRequest { force: true, ..removing(1) };
    force.run(&seen, &caller(&clock)).expect("a removal");
    world.expected.retain(|expected| expected.uuid != second);
    world.assert_tidy("a removal by a number of before");
}

/// A revision that another process deleted is an error of its own kind in every call that gets its name, and nothing
/// else is deleted or changed in its place.
#[test]
fn a_deleted_revision_is_an_error_of_every_call() {
    let mut world = four();
    let before = world::open(&world.disk).expect("open");
    let gone = before.id(2).unwrap();
    world.remove(&[2]);
    let now = world::open(&world.disk).expect("open");
    let files = world.disk.files();
    let clock = world::clock();
    let tagged = writer(&world).tag(gone, &[].into(), &[].into(), &clock, &Silent).map(drop);
    let removed = writer(&world).remove(&[gone], &clock, &Silent).map(drop);
    for (what, done) in reading(&before, gone).into_iter().chain([
        ("revision", now.revision(gone).map(drop)),
        ("find", now.find(gone).map(drop)),
        ("plan", now.plan_removal(&[gone]).map(drop)),
        ("request tag", tagging(2).run(&before, &caller(&clock)).map(drop)),
        ("request rm", removing(2).run(&before, &caller(&clock)).map(drop)),
        ("request scrub", scrubbing(2).run(&before, &caller(&clock)).map(drop)),
        ("tag", tagged),
        ("rm", removed),
    ]) {
        let error = done.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::NoSuchRevision, "{what}: {error}");
        assert!(error.to_string().contains(&gone.to_string()), "{what}: {error}");
    }
    let options = ScrubOptions { revisions: Some(vec![gone]), ..ScrubOptions::default() };
    let report = now.check(&options, &clock, &Silent).expect("a check of nothing");
    assert_eq!((report.findings, report.read_bytes), (vec![], 0));
    let report =
        before.check(&options, &clock, &Silent).expect("a check of what it read through to");
    assert_eq!(report.findings, [], "its files may be missing");
    assert!(world.disk.files() == files, "something changed");
    world.assert_tidy("after all that");
}

/// The calls that read a revision.
fn reading(archive: &Archive, id: RevisionId) -> Vec<(&'static str, Result<()>)> {
    let (options, clock) = (world::restore_options(), world::clock());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    vec![
        ("open", archive.open_revision(id).map(drop)),
        ("reader", archive.open_reader(id, &ReadCache::new(1 << 16)).map(drop)),
        ("restore", archive.restore_to(id, &MemoryTarget::absent(), &options, &Silent).map(drop)),
        ("stream", archive.restore_to_stream(id, &mut Vec::new(), &options, &Silent).map(drop)),
        ("export", export(archive, id, &file, &ExportOptions::default(), &Silent).map(drop)),
        ("drill", drill::read(archive, id, Some(1), &clock, &Silent).map(drop)),
    ]
}

/// A number that no revision has is an error that lists those that exist.
#[test]
fn a_number_that_no_revision_has_is_an_error() {
    let archive = world::open(&four().disk).expect("open");
    assert_eq!(archive.id(3).unwrap(), archive.revisions()[3].uuid);
    let error: Error = archive.id(4).expect_err("four revisions");
    assert_eq!(error.to_string(), "there is no revision 4; there are 0 to 3");
    assert_eq!(error.kind(), ErrorKind::NoSuchRevision);
}

fn writer(world: &World) -> ArchiveWriter {
    world::writer(&world.disk).expect("the lock")
}
