//! Archives on CephFS, which reports neither holes nor sizes on disk, and on which several hosts work at the same time.
//! Each mount is a client of its own, as on another host. Also the way from an archive into images of RBD.
//!
//! All parts share one cluster, which takes some seconds to start.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use backy_tests::command::backy;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::ceph::{Cluster, FsMount, SESSION_TIMEOUT};
use crate::processes::{Running, wait_for_lock};
use crate::site::{BLOCK_BYTES, Site, noise, run, states, text, words, works};

const MIB: usize = 1 << 20;

/// Grown, shrunk, odd, less than a block.
const SIZES: [usize; 4] =
    [9 * BLOCK_BYTES - 100, 14 * BLOCK_BYTES + 5, 100, 11 * BLOCK_BYTES - 512];

/// The archives that three runners back up, on two hosts.
const ARCHIVES: usize = 30;

/// On CephFS every command does what it does elsewhere, and its cost follows the data; hosts exclude each other and see
/// at once what another has committed; the lock of a host that is gone can be taken, and a host that comes back writes
/// nothing more; and each of many archives is backed up once, however many hosts try. `rbd import-diff` makes a
/// snapshot of each exported revision.
#[test]
fn archives_on_cephfs_are_worked_on_by_several_hosts() {
    let Some(cluster) = Cluster::start() else { return };
    let (one, other) = (cluster.fs_mount(), cluster.fs_mount());
    std::thread::scope(|scope| {
        // They mostly wait.
        let dead = scope.spawn(|| the_lock_of_a_dead_host_is_taken(&cluster, &one));
        let back = scope.spawn(|| a_host_that_comes_back_writes_nothing(&cluster, &other));
        let images = scope.spawn(|| revisions_become_snapshots_of_images(&cluster));
        every_command_works(&one);
        the_cost_follows_the_data(&cluster, &one);
        hosts_exclude_each_other_and_see_commits(&one, &other);
        each_archive_is_backed_up_once([&one, &other, &other]);
        dead.join().expect("the lock of a dead host");
        back.join().expect("a host that comes back");
        images.join().expect("images of RBD");
    });
}

/// A folder on a mount, and a source beside the cluster.
fn site(mount: &FsMount, name: &str, elsewhere: &Path) -> Site {
    let place = mount.path().join(name);
    fs::create_dir(&place).expect("make a folder");
    let source = elsewhere.join("source");
    fs::write(&source, []).expect("make the source");
    Site::init(&place, &source)
}

/// The same archive as another mount shows it.
fn through(mount: &FsMount, name: &str, site: &Site) -> Site {
    let folder = mount.path().join(name).join("archive");
    Site { folder, source: site.source.clone(), expected: site.expected.clone() }
}

fn json(site: &Site, args: &[&str]) -> Value {
    serde_json::from_slice(&works(&mut site.backy(args))).expect("a report in JSON")
}

fn every_command_works(mount: &FsMount) {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut site = site(mount, "all", elsewhere.path());
    for state in &states(970, &SIZES) {
        site.backup(state);
    }
    site.check_at_rest();
    works(&mut site.backy(&["scrub"]));
    works(&mut site.backy(&["drill", "-r", "2"]));
    works(&mut site.backy(&["rm", "1"]));
    site.expected.remove(1);
    works(&mut site.backy(&["rm", "0"]));
    site.expected.remove(0);
    site.check_at_rest();
    fs::remove_file(site.folder.join("manifest.json")).expect("lose the manifest");
    let rebuilt = run(&mut site.backy(&["scrub", "--rebuild"]));
    assert!(rebuilt.status.success(), "{}", words(&rebuilt));
    works(&mut site.backy(&["scrub", "-n"]));
    site.check_at_rest();
}

/// The sizes that are reported, and what a scrub and a restore read, are those of the data.
fn the_cost_follows_the_data(cluster: &Cluster, mount: &FsMount) {
    const SIZE: u64 = 2 << 30;
    const DATA: u64 = 24 * MIB as u64;
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let site = site(mount, "sparse", elsewhere.path());
    let source = File::options().write(true).open(&site.source).expect("open the source");
    source.set_len(SIZE).expect("extend the source");
    for number in 0..24 {
        let offset = number * 80 * MIB as u64;
        source.write_all_at(&noise(number, MIB), offset).expect("write to the source");
    }
    let image = |site: &Site| fs::metadata(site.folder.join("last.raw")).expect("the image");
    let near = |found: &Value, expected: u64, what: &str| {
        let found = found.as_i64().expect("a number");
        let off = found - expected as i64;
        assert!((0..MIB as i64).contains(&off), "{what}: {found} instead of {expected}");
    };
    let first = json(&site, &["backup", "--force", "--json"]);
    assert_eq!(image(&site).blocks() * 512, SIZE, "it reports sizes on disk after all");
    near(&first["revision"]["statistics"]["stored_bytes"], DATA, "stored by the first backup");
    // One stretch gets other data, another one none.
    source.write_all_at(&noise(99, MIB), 0).expect("write to the source");
    source.write_all_at(&vec![0; MIB], 80 * MIB as u64).expect("write to the source");
    let second = json(&site, &["backup", "--force", "--json"]);
    near(&second["revision"]["statistics"]["stored_bytes"], MIB as u64, "stored by the second");
    let status = json(&site, &["status", "--json"]);
    near(&status["space"]["used_bytes"], DATA + MIB as u64, "used");

    // A new client has nothing in its memory.
    let fresh = cluster.fs_mount();
    let there = through(&fresh, "sparse", &site);
    let report = json(&there, &["scrub", "--json"]);
    assert_eq!(report["findings"], Value::Array(Vec::new()));
    assert_eq!(report["coverage"]["verified_share"], 1.0);
    // The image with the stretch that was emptied, and the delta.
    let read = report["read_bytes"].as_u64().expect("a number");
    assert!((DATA..DATA + 4 * MIB as u64).contains(&read), "a scrub read {read} bytes");
    // Whoever reads all of the image asks for each of its objects at least once.
    let most = SIZE / (4 << 20);
    let asked = fresh.objects_read();
    assert!(asked < most, "a scrub asked for objects {asked} times");
    let target = elsewhere.path().join("target");
    works(&mut there.backy(&["restore", text(&target)]));
    works(Command::new("cmp").arg(&target).arg(&site.source));
    let asked = fresh.objects_read() - asked;
    assert!(asked < most, "a restore asked for objects {asked} times");
    // Somebody may have written to the image: everything is read.
    works(Command::new("touch").arg(site.folder.join("last.raw")));
    let report = json(&there, &["scrub", "--json"]);
    assert!(report["read_bytes"].as_u64() >= Some(SIZE), "{report}");
}

/// A backup of the source that takes long.
fn slow_backup(site: &Site) -> Running {
    let mut backup = Running::start(&mut slow(site));
    wait_for_lock(site, &mut backup);
    backup
}

fn slow(site: &Site) -> Command {
    site.backy(&["backup", "--force", "--limit-rate", "256K"])
}

/// The same by a process that cannot be looked for from here, as on another host.
fn slow_backup_elsewhere(site: &Site) -> Running {
    let inner = slow(site);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(inner.get_program());
    let mut backup = Running::start(command.args(inner.get_args()));
    wait_for_lock(site, &mut backup);
    backup
}

fn hosts_exclude_each_other_and_see_commits(one: &FsMount, other: &FsMount) {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut here = site(one, "shared", elsewhere.path());
    for round in 0..6 {
        here.backup(&noise(round, 3 * BLOCK_BYTES));
        let there = through(other, "shared", &here);
        there.check_here();
        // The next one is made there, so that both write to the same files in turn.
        let mut there = through(other, "shared", &here);
        there.backup(&noise(50 + round, 4 * BLOCK_BYTES));
        here.expected = there.expected;
        here.check_here();
    }
    here.write_source(&noise(77, 4 * MIB));
    let backup = slow_backup(&here);
    let there = through(other, "shared", &here);
    for args in [&["rm", "1"][..], &["tag", "0", "+kept"], &["backup", "--force"]] {
        let refused = run(&mut there.backy(args));
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(words(&refused).contains("is in use by 'backup'"), "{}", words(&refused));
    }
    // Readers need no lock.
    there.check_here();
    drop(backup);
    let mut there = through(other, "shared", &here);
    there.backup(&noise(78, MIB));
    there.check_at_rest();
    here.expected = there.expected;
    here.check_at_rest();
}

/// The killed client holds the lock until the cluster gives it up.
fn the_lock_of_a_dead_host_is_taken(cluster: &Cluster, mount: &FsMount) {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut here = site(mount, "dead", elsewhere.path());
    here.backup(&noise(1, 2 * MIB));
    here.write_source(&noise(2, 4 * MIB));
    let dying = cluster.fs_mount();
    let backup = slow_backup_elsewhere(&through(&dying, "dead", &here));
    dying.kill();
    back_up_when_free(&mut here, 3);
    drop(backup);
}

/// A client that was only out of reach has lost its lock when it comes back, and writes nothing more.
fn a_host_that_comes_back_writes_nothing(cluster: &Cluster, mount: &FsMount) {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut here = site(mount, "back", elsewhere.path());
    here.backup(&noise(11, 2 * MIB));
    here.write_source(&noise(12, 4 * MIB));
    let away = cluster.fs_mount();
    let mut backup = slow_backup_elsewhere(&through(&away, "back", &here));
    away.signal(Signal::STOP);
    back_up_when_free(&mut here, 13);
    away.signal(Signal::CONT);
    cluster.until("its backup ends", || !backup.is_running());
    let status = backup.0.wait().expect("look after the backup");
    assert!(!status.success(), "a backup without the lock works");
    here.check_at_rest();
    works(&mut here.backy(&["scrub"]));
}

/// Backs up once the lock is free.
fn back_up_when_free(site: &mut Site, seed: u64) {
    let (began, state) = (Instant::now(), noise(seed, MIB));
    site.write_source(&state);
    // It is refused, or it waits for something else that the other client has.
    let report = loop {
        let output = run(&mut site.backy(&["backup", "--force", "--json"]));
        if output.status.success() {
            break output.stdout;
        }
        assert!(words(&output).contains("is in use by"), "{}", words(&output));
        let waited = began.elapsed();
        assert!(waited < 4 * SESSION_TIMEOUT, "still locked after {waited:?}: {}", words(&output));
        std::thread::sleep(Duration::from_secs(1));
    };
    let report: Value = serde_json::from_slice(&report).expect("a report in JSON");
    site.push(report["revision"]["uuid"].as_str().expect("a revision"), &state);
    site.check_at_rest();
}

/// Three runs on two hosts look after the same archives at once: none fails, and each archive is backed up once.
fn each_archive_is_backed_up_once(runners: [&FsMount; 3]) {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, noise(5, MIB)).expect("make the source");
    let name = |number: usize| format!("fleet/vm{number:02}");
    for number in 0..ARCHIVES {
        works(&mut backy(&runners[0].path().join(name(number)), &["init", text(&source)]));
    }
    let work = |mount: &FsMount| {
        let mut command = Command::new(backy_tests::command::program());
        let done = run(command.arg("run").arg(mount.path().join("fleet")));
        assert!(done.status.success() && words(&done).is_empty(), "{}", words(&done));
    };
    std::thread::scope(|scope| {
        for mount in runners {
            scope.spawn(move || work(mount));
        }
    });
    for mount in runners {
        for number in 0..ARCHIVES {
            let folder = mount.path().join(name(number));
            let archive = backy_lib::Archive::open(&folder).expect("open an archive");
            assert_eq!(archive.revisions().len(), 1, "{}", folder.display());
        }
    }
    let mut check = Command::new(backy_tests::command::program());
    works(check.arg("check").arg(runners[0].path().join("fleet")));
}

/// Every revision becomes a snapshot with its bytes, whatever grew, shrank or became zero, and a stream that ends early
/// becomes none.
fn revisions_become_snapshots_of_images(cluster: &Cluster) {
    works(&mut cluster.ceph(&["osd", "pool", "create", "images", "8", "8"]));
    let rbd = |args: &[&str]| cluster.rbd(args);
    works(&mut rbd(&["pool", "init", "images"]));
    for block_size in ["4K", "64K"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (archive, source) = (folder.path().join("archive"), folder.path().join("source"));
        let file = folder.path().join("exported");
        works(&mut backy(&archive, &["init", "--block-size", block_size, text(&source)]));
        let image = format!("images/of-{block_size}");
        works(&mut rbd(&["create", "--size", "1", &image]));
        let mut state = noise(60, 9 * MIB + 5);
        let mut since: Option<String> = None;
        // Parts of objects, of blocks and of sectors become zero, then data again. An object has 4 MiB.
        for (seed, size) in [(61, 9 * MIB + 5), (62, 13 * MIB), (63, 5 * MIB - 700), (64, 9 * MIB)]
        {
            state.resize(size, 0);
            let zeros = (seed as usize - 60) * MIB / 2 + 4096;
            state[zeros..zeros + MIB + 8192].fill(0);
            let at = size - 70_000;
            state[at..at + 5000].copy_from_slice(&noise(seed, 5000));
            fs::write(&source, &state).expect("write the source");
            let report = works(&mut backy(&archive, &["backup", "--force", "--json"]));
            let report: Value = serde_json::from_slice(&report).expect("a report");
            let uuid = report["revision"]["uuid"].as_str().expect("a revision").to_owned();
            let mut args = vec!["export", "--rbd-diff"];
            args.extend(since.iter().flat_map(|since| ["--from", since.as_str()]));
            let stream = run(backy(&archive, &args).arg("-"));
            assert!(stream.status.success(), "{}", words(&stream));
            let part = &stream.stdout[..stream.stdout.len() - 1];
            fs::write(&file, part).expect("write a part of the stream");
            let refused = run(&mut rbd(&["import-diff", "--no-progress", text(&file), &image]));
            assert!(!refused.status.success(), "a stream without an end");
            fs::remove_file(&file).expect("delete the part");
            works(backy(&archive, &args).args(["-q"]).arg(&file));
            works(&mut rbd(&["import-diff", "--no-progress", text(&file), &image]));
            let snapshot = format!("{image}@{uuid}");
            let found = works(&mut rbd(&["export", "--no-progress", &snapshot, "-"]));
            assert!(found == state, "{snapshot}: other bytes than in the archive");
            fs::remove_file(&file).expect("delete the stream");
            since = Some(uuid);
        }
        let listed = works(&mut rbd(&["snap", "ls", "--format", "json", &image]));
        let listed: Value = serde_json::from_slice(&listed).expect("snapshots in JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(4), "{listed}");
    }
}
