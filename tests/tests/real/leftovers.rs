//! What a killed restore, export or drill leaves outside the archive: nothing, or what the next one recognises and
//! deletes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::holeless::HoleLess;
use crate::mounted::until;
use crate::processes::Running;
use crate::site::{Site, noise, text, works};
use crate::strace;

const MIB: usize = 1 << 20;

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("list the folder").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

/// Kills a command at one of its first writes, with the same process number each time, as in a container.
fn kill(command: &Command, place: &Path) {
    let killed = strace::inject(command, "pwritev2,pwrite64", "signal=KILL:when=3", place);
    let killed = killed.happened && !killed.output.status.success();
    assert!(killed, "{command:?} was not killed");
}

fn commands(site: &Site, folder: &Path) -> [Command; 3] {
    let (target, export) = (folder.join("target"), folder.join("export"));
    let drill = ["drill", "-r", "0", "--dir", text(folder), "--", "true"];
    [
        site.backy(&["restore", text(&target)]),
        site.backy(&["export", text(&export)]),
        site.backy(&drill),
    ]
}

/// A killed restore or export leaves no file, and no name that would block the next one. A killed drill leaves none
/// that the next does not delete.
#[test]
fn a_killed_restore_export_or_drill_leaves_nothing() {
    if !strace::available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, 12 * MIB)]);
    let folder = place.path().join("targets");
    fs::create_dir(&folder).expect("make a folder");
    for (number, command) in commands(&site, &folder).iter_mut().enumerate() {
        kill(command, place.path());
        if number < 2 {
            assert_eq!(names(&folder), [""; 0], "{command:?}");
        }
        works(command);
        let expected = [&["target"][..], &["export"], &[]][number];
        assert_eq!(names(&folder), expected, "{command:?}");
        works(Command::new("find").arg(&folder).args(["-type", "f", "-delete"]));
    }
}

/// Where the file system has no files without names, the next one deletes what was left, and spares files that others
/// are making or own.
#[test]
fn the_next_restore_deletes_what_a_killed_one_left() {
    if !strace::available() {
        return;
    }
    let Some(disk) = HoleLess::make(1 << 30) else { return };
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, 12 * MIB)]);
    let folder = disk.path().join("targets");
    fs::create_dir(&folder).expect("make a folder");
    fs::write(folder.join(".target.backy-1"), "of somebody else").expect("write a file");
    for command in &mut commands(&site, &folder) {
        kill(command, place.path());
        assert!(names(&folder).len() > 1, "{command:?} left nothing: this proves nothing");
        works(command);
        let left = names(&folder);
        let kept = |name: &&String| !["target", "export"].contains(&name.as_str());
        let left: Vec<_> = left.iter().filter(kept).collect();
        assert_eq!(left, [".target.backy-1"], "{command:?}");
    }
}

/// A drill that is killed while its command runs leaves a file, which the next drill there deletes. A running one
/// keeps its own.
#[test]
fn the_next_drill_deletes_the_file_of_a_killed_one() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, MIB)]);
    let folder = place.path().join("drills");
    fs::create_dir(&folder).expect("make a folder");
    let images = || names(&folder).into_iter().filter(|name| name.ends_with(".img")).count();
    let drill = |words: &[&str]| {
        let dir = ["drill", "-r", "0", "--dir", text(&folder), "--"];
        site.backy(&[&dir[..], words].concat())
    };
    let killed = Running::start(&mut drill(&["sh", "-c", "sleep 20; : {}"]));
    until("the command runs", || images() == 1);
    works(&mut drill(&["true"]));
    assert_eq!(images(), 1, "the file of a drill that runs was deleted");
    drop(killed);
    assert_eq!(images(), 1);
    works(&mut drill(&["true"]));
    assert_eq!(names(&folder), [""; 0]);
}
