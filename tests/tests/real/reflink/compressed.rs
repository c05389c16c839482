//! Compressed files on btrfs: root has `btrfs send` compare the clones, so that what has not changed is not read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::Value;

use super::{BYTES, Scene, is_since, write_at};
use crate::site::{BLOCK_BYTES, noise, run, text, words, works};
use crate::stand_ins::{PARENT, StandIns, kill_at_each, with};

const FEW: u64 = 6 * BLOCK_BYTES as u64;

/// A file of 10 MiB that is compressed, and its first backup.
fn compressed() -> Option<Scene> {
    let mut scene = Scene::new("btrfs")?;
    let source = scene.source();
    fs::remove_file(&source).expect("remove");
    fs::write(&source, b"").expect("write");
    works(Command::new("chattr").arg("+c").arg(&source));
    let line = b"a line that can be compressed well, again and again\n".repeat(BYTES / 52);
    fs::write(&source, line).expect("write");
    works(Command::new("sync").arg("-f").arg(&source));
    let map = works(Command::new("filefrag").arg("-v").arg(&source));
    let map = String::from_utf8_lossy(&map);
    assert!(map.contains("encoded"), "it is not compressed: {map}");
    scene.backup();
    Some(scene)
}

/// What is beside the file: one clone, and no subvolume.
fn check_settled(scene: &Scene, what: &str) {
    let clones = scene.clones();
    assert!(clones.len() == 1 && clones[0].is_file(), "{what}: {clones:?}");
}

fn backup_reads(scene: &mut Scene, what: &str, most: u64) {
    let (hints, read) = scene.backup();
    assert!(is_since(&hints) && read <= most, "{what}: {read} bytes were read, {hints}");
    check_settled(scene, what);
}

/// Each way to change it is noticed, and little more than what has changed is read.
#[test]
fn of_a_compressed_file_only_what_has_changed_is_read() {
    let Some(mut scene) = compressed() else { return };
    let path = text(&scene.source()).to_owned();
    backup_reads(&mut scene, "nothing", 0);
    let changes: [(&str, u64, &[&str]); 10] = [
        ("a write", FEW, &["pwrite -S 0x11 1000000 5000"]),
        ("a direct write", FEW, &["open -d VM", "pwrite -S 0x12 -b 4096 2097152 65536"]),
        ("a write through a mapping", FEW, &["mmap -rw 0 4194304", "mwrite -S 0x13 3145729 9000"]),
        ("a hole", FEW, &["fpunch 1310720 200000"]),
        ("data in the hole", FEW, &["pwrite -S 0x14 1400000 10000"]),
        ("a part that it shares with itself", 2 * FEW, &["reflink VM 0 2097152 262144"]),
        ("shorter", FEW, &["truncate 5000001"]),
        ("longer", FEW, &["truncate 11000000"]),
        ("shorter and longer", FEW, &["truncate 4000000", "truncate 11000000"]),
        ("data behind its end", FEW, &["pwrite -S 0x15 12000000 70000"]),
    ];
    for (what, most, commands) in changes {
        let commands: Vec<String> = commands.iter().map(|c| c.replace("VM", &path)).collect();
        scene.xfs_io(&commands.iter().map(String::as_str).collect::<Vec<_>>());
        backup_reads(&mut scene, what, most);
    }
    let mount = scene.disk.path().to_owned();
    for (what, command) in [
        ("defragmented", &["filesystem", "defragment", &path][..]),
        ("moved", &["balance", "start", "--full-balance", text(&mount)]),
    ] {
        works(Command::new("btrfs").args(command));
        write_at(&scene.source(), 700_000, &noise(7, 5000));
        backup_reads(&mut scene, what, 12 << 20);
        backup_reads(&mut scene, what, 0);
    }
    for round in 0..5 {
        for at in 0..10 {
            write_at(
                &scene.source(),
                (round * 999_983 + at * 1_111_111) % 11_000_000,
                &noise(at, 3000),
            );
        }
        backup_reads(&mut scene, "writes everywhere", 24 * BLOCK_BYTES as u64);
    }
    scene.site.check_at_rest();
}

/// Where `btrfs send` does not compare them, the compressed parts are read, and a note says why; the next backup reads
/// only what has changed again.
#[test]
fn compressed_parts_are_read_where_nobody_compares_them() {
    let Some(mut scene) = compressed() else { return };
    let garbage = "case \"$1\" in send) echo garbage that is long enough;; *) exec /usr/bin/btrfs \"$@\";; esac";
    let refuses =
        "case \"$1\" in send) echo no right >&2; exit 1;; *) exec /usr/bin/btrfs \"$@\";; esac";
    for (stand_in, why) in [
        (garbage, "printed something else than expected: found no stream of version 1"),
        (refuses, "'btrfs' ended with exit status: 1: no right"),
        ("echo no subvolume >&2; exit 3", "'btrfs' ended with exit status: 3: no subvolume"),
    ] {
        write_at(&scene.source(), 3_000_000, &noise(why.len() as u64, 5000));
        let state = fs::read(scene.source()).expect("read the source");
        let programs = StandIns::new().with("btrfs", stand_in);
        let command = scene.site.backy(&["-v", "backup", "--force", "--json"]);
        let output = run(&mut with(&[programs.first()], &command));
        let said = words(&output);
        let expected = "parts of it that are compressed are read, whether or not they have changed";
        assert!(output.status.success() && said.contains(expected) && said.contains(why), "{said}");
        scene.site.push_newest(&state);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let read = &report["revision"]["statistics"]["read_bytes"];
        assert!(read.as_u64().is_some_and(|read| read > 8 << 20), "{read}");
        check_settled(&scene, why);
        backup_reads(&mut scene, why, 0);
    }
    scene.site.check_at_rest();
}

/// A backup that is killed at any step of the comparison leaves subvolumes, which the next one removes.
#[test]
fn a_killed_comparison_leaves_nothing_for_long() {
    let Some(mut scene) = compressed() else { return };
    let mut round = 0;
    let killed = kill_at_each(&[("btrfs", PARENT)], |what, settings| {
        round += 1;
        write_at(&scene.source(), 3_000_000, &noise(round, 5000));
        let state = fs::read(scene.source()).expect("read the source");
        let output = run(&mut with(settings, &scene.site.backy(&["backup", "--force"])));
        scene.site.reconcile(&[], Some(&state));
        let ended = output.status.success();
        write_at(&scene.source(), 5_000_000, &noise(round, 5000));
        backup_reads(&mut scene, what, 2 * FEW);
        ended
    });
    assert!(killed >= 14, "killed {killed} times");
    scene.site.check_at_rest();
}

/// What has the name of such a subvolume, but is none or has something else in it, stays.
#[test]
fn only_subvolumes_of_the_archive_are_removed() {
    let Some(mut scene) = compressed() else { return };
    let clone = scene.clones().remove(0);
    let like = |ending: &str| {
        let name = clone.file_name().expect("a name").to_string_lossy().into_owned();
        clone.with_file_name(format!("{name}{ending}"))
    };
    fs::create_dir(like(".old")).expect("make a folder");
    works(Command::new("btrfs").args(["subvolume", "create"]).arg(like(".new")));
    fs::write(like(".new").join("mine"), b"mine").expect("write");
    let stranger = clone.with_file_name("backy.mine.old");
    works(Command::new("btrfs").args(["subvolume", "create"]).arg(&stranger));
    for _ in 0..2 {
        write_at(&scene.source(), 3_000_000, &noise(3, 5000));
        let (hints, _) = scene.backup();
        assert!(is_since(&hints), "{hints}");
    }
    let said = run(&mut scene.site.backy(&["-v", "backup", "--force"]));
    let state = fs::read(scene.source()).expect("read the source");
    scene.site.push_newest(&state);
    assert!(words(&said).contains("delete it yourself if nobody needs it"), "{}", words(&said));
    assert!(like(".old").is_dir() && stranger.is_dir());
    assert_eq!(fs::read(like(".new").join("mine")).expect("read"), b"mine");
    let left = scene.clones().into_iter().filter(|path| path.is_dir());
    assert_eq!(left.count(), 3);
    let inode = fs::metadata(&stranger).expect("look up").ino();
    assert_eq!(inode, 256, "it is no subvolume");
}
