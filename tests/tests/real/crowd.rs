//! Two backups, a maintenance and ten readers at once, over and over.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::mounted::Mount;
use crate::readers::{Done, Truth, read_a_mount_on_and_on, restore_on_and_on};
use crate::site::{BLOCK_BYTES, Site, backy, failed, run, states, words, works};
use crate::ways::{Way, both_ways};

const ROUNDS: usize = 8;
/// What maintenance keeps.
const KEEP: usize = 4;

/// It worked silently, or found the archive in use and named the user.
fn worked(output: &Output) -> bool {
    if !output.status.success() {
        failed(output);
        assert!(words(output).contains("the archive is in use by '"), "{}", words(output));
    }
    output.status.success()
}

/// Starts two backups of the source, which holds `state`, and maintenance at once. Records the result, and returns
/// how many of the three have worked.
fn all_at_once(site: &mut Site, state: &[u8]) -> usize {
    site.write_source(state);
    let keep = KEEP.to_string();
    let commands =
        [&["backup", "--force"][..], &["maintenance", "-k", &keep], &["backup", "--force"]];
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let threads = commands.map(|args| {
            let mut command = site.backy(args);
            scope.spawn(move || run(&mut command))
        });
        threads.map(|thread| thread.join().expect("no panic")).into()
    });
    let worked: Vec<bool> = outputs.iter().map(worked).collect();
    let made = usize::from(worked[0]) + usize::from(worked[2]);
    let committed = site.committed();
    let known = |uuid: &&String| site.expected.iter().any(|e| e.uuid.to_string() == **uuid);
    let new = committed.iter().take_while(|uuid| !known(uuid)).count();
    assert_eq!(new, made, "{worked:?}: {committed:?}");
    // Only those are left that maintenance has to keep: it ran before, between or after the backups.
    let left = committed.len() - new;
    assert!(left + new >= KEEP.min(site.expected.len()), "{worked:?}: {committed:?}");
    assert!(worked[1] || left == site.expected.len(), "{worked:?}: {committed:?}");
    site.expected.truncate(left);
    for uuid in committed[..new].iter().rev() {
        site.push(uuid, state);
    }
    worked.into_iter().filter(|&worked| worked).count()
}

/// One writer at a time gets the lock, the others name the one that has it, and every reader gets the right bytes.
fn one_writer_at_a_time_beside_ten_readers(place: &Path, way: Way) {
    let seed = if way == Way::InPlace { 970 } else { 990 };
    let sizes = [20 * BLOCK_BYTES + 9, 24 * BLOCK_BYTES - 1, 18 * BLOCK_BYTES];
    let states = states(seed, &sizes.repeat(ROUNDS));
    let mut site = Site::with_backups(place, &states[..3]);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let truth = Truth::of(&site);
    let done = AtomicBool::new(false);
    let folder = site.folder.clone();
    let again = |args: &[&str]| {
        let _done = Done(&done);
        let mut count = 0;
        while !done.load(Relaxed) {
            works(&mut backy(&folder, args));
            count += 1;
        }
        count
    };
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for number in 0..4 {
            let (truth, done, on) = (&truth, &done, &mount.on.path);
            readers.push(scope.spawn(move || {
                let _done = Done(done);
                restore_on_and_on(truth, seed + number, done)
            }));
            readers.push(scope.spawn(move || {
                let _done = Done(done);
                read_a_mount_on_and_on(truth, on, seed + 10 + number, done)
            }));
        }
        // A check that changes nothing has nothing to find.
        readers.push(scope.spawn(|| again(&["scrub", "-n"])));
        readers.push(scope.spawn(|| again(&["status"])));
        assert_eq!(readers.len(), 10);
        let end = Done(&done);
        let mut worked = 0;
        for state in &states[3..3 + ROUNDS] {
            worked += all_at_once(&mut site, state);
            truth.learn(&site);
            assert!(readers.iter().all(|reader| !reader.is_finished()), "a reader has failed");
        }
        drop(end);
        for (number, reader) in readers.into_iter().enumerate() {
            let count = reader.join().expect("a reader has failed");
            assert!(count > 0, "reader {number} has read nothing");
        }
        assert!(worked >= ROUNDS, "only {worked} commands have worked");
    });
    mount.unmount();
    site.check_at_rest();
    works(&mut site.backy(&["scrub", "-n"]));
}
both_ways!(one_writer_at_a_time_beside_ten_readers(place, way));
