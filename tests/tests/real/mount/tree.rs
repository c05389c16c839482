//! The layout of a mount, and its attributes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::mounted::{Mount, until};
use crate::site::{BLOCK_BYTES, Site, states, works};

const SIZES: [usize; 3] = [3 * BLOCK_BYTES + 4099, BLOCK_BYTES - 1, 2 * BLOCK_BYTES];

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("list a folder").map(|e| e.expect("an entry"));
    entries.map(|entry| entry.file_name().into_string().expect("a plain name")).collect()
}

fn set(names: impl IntoIterator<Item = impl ToString>) -> BTreeSet<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

/// What `status` reports about the revisions.
fn revisions(site: &Site) -> Vec<Value> {
    let report = works(&mut site.backy(&["status", "--json"]));
    let report: Value = serde_json::from_slice(&report).expect("a report in JSON");
    report["revisions"].as_array().expect("revisions").clone()
}

/// When a revision was begun, in the form of `by-date`.
fn date(revision: &Value) -> String {
    let started = revision["started"].as_str().expect("a time");
    format!("{}Z", started.split(['.', 'Z']).next().expect("a time"))
}

/// Checks that a link in the mount is relative and leads to a file or folder in its root.
fn leads_to(mount: &Mount, link: &str, name: &str) {
    let target = fs::read_link(mount.path(link)).unwrap_or_else(|e| panic!("{link}: {e}"));
    assert!(target.is_relative(), "{link} leads to {}", target.display());
    let found = fs::canonicalize(mount.path(link)).unwrap_or_else(|e| panic!("{link}: {e}"));
    assert_eq!(found, fs::canonicalize(mount.path(name)).expect("what it leads to"), "{link}");
}

/// Waits between backups, so that they have different seconds.
fn next_second() {
    std::thread::sleep(std::time::Duration::from_millis(1001));
}

/// Each revision is a file with its size and time that only its owner may read, and the links lead to it.
#[test]
fn every_revision_is_a_file() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(400, &SIZES);
    let mut site = Site::with_backups(temp.path(), &states[..1]);
    for state in &states[1..] {
        next_second();
        site.backup(state);
    }
    works(&mut site.backy(&["tag", "0", "+mine"]));
    works(&mut site.backy(&["tag", "2", "+mine", "+old"]));
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let uuids: Vec<String> = site.expected.iter().map(|e| e.uuid.to_string()).collect();
    let mut expected = set(["latest", "latest.partitions", "by-number", "by-date", "by-tag"]);
    for uuid in &uuids {
        expected.extend([uuid.clone(), format!("{uuid}.partitions")]);
    }
    assert_eq!(names(&mount.on.path), expected);
    leads_to(&mount, "latest", &uuids[0]);
    leads_to(&mount, "latest.partitions", &format!("{}.partitions", uuids[0]));
    let revisions = revisions(&site);
    let folder = fs::metadata(&mount.on.path).expect("look up the root");
    for (number, (revision, uuid)) in revisions.iter().zip(&uuids).enumerate() {
        let file = fs::symlink_metadata(mount.path(uuid)).expect("look up a revision");
        assert!(file.is_file());
        assert_eq!(file.len(), site.expected[number].bytes.len() as u64, "size of {number}");
        assert_eq!(file.permissions().mode() & 0o7777, 0o400, "mode of {number}");
        assert_eq!((file.uid(), file.nlink()), (folder.uid(), 1));
        let started: jiff::Timestamp =
            revision["started"].as_str().expect("a time").parse().expect("a time");
        assert_eq!(file.mtime(), started.as_second(), "time of {number}");
        leads_to(&mount, &format!("by-number/{number}"), uuid);
        leads_to(&mount, &format!("by-date/{}", date(revision)), uuid);
        let partitions = format!("{uuid}.partitions");
        leads_to(&mount, &format!("by-number/{number}.partitions"), &partitions);
        leads_to(&mount, &format!("by-date/{}.partitions", date(revision)), &partitions);
        assert!(names(&mount.path(&partitions)).is_empty(), "no partitions");
    }
    // The schedule of a new archive sets tags as well.
    let tags = revisions.iter().flat_map(|revision| revision["tags"].as_array().expect("tags"));
    let tags: BTreeSet<String> = tags.map(|tag| tag.as_str().expect("a tag").to_owned()).collect();
    assert!(tags.is_superset(&set(["mine", "old"])));
    assert_eq!(names(&mount.path("by-tag")), tags);
    let mine = [&revisions[0], &revisions[2]].map(date);
    let with_partitions = |name: &String| [name.clone(), format!("{name}.partitions")];
    assert_eq!(names(&mount.path("by-tag/mine")), set(mine.iter().flat_map(with_partitions)));
    leads_to(&mount, &format!("by-tag/old/{}", mine[1]), &uuids[2]);
    programs_get_along(&mount);
    mount.unmount();
}

/// Programs that walk through folders find nothing to complain of.
fn programs_get_along(mount: &Mount) {
    works(Command::new("ls").arg("-lR").arg(&mount.on.path));
    works(Command::new("ls").arg("-lRL").arg(&mount.on.path));
    let mut find = Command::new("find");
    let files = works(find.arg(&mount.on.path).args(["-type", "f", "-links", "1"]));
    assert_eq!(String::from_utf8_lossy(&files).lines().count(), SIZES.len());
    works(Command::new("du").arg("-sx").arg(&mount.on.path));
    works(Command::new("df").arg(&mount.on.path));
    let bytes = works(Command::new("stat").args(["-L", "-c", "%s"]).arg(mount.path("latest")));
    assert_eq!(String::from_utf8_lossy(&bytes).trim(), SIZES[2].to_string());
}

/// Missing names are not found, and nothing can be made, changed or deleted.
#[test]
fn nothing_can_be_changed() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &states(401, &SIZES[..1]));
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let name = site.expected[0].uuid.to_string();
    let errno = |result: std::io::Result<()>| result.expect_err("it worked").raw_os_error();
    let (not_found, read_only) = (Some(2), Some(30));
    assert_eq!(errno(fs::read(mount.path("nothing")).map(drop)), not_found);
    assert_eq!(errno(fs::read(mount.path("by-number/1")).map(drop)), not_found);
    assert_eq!(errno(fs::write(mount.path("new"), "x")), read_only);
    assert_eq!(errno(fs::write(mount.path(&name), "x")), read_only);
    assert_eq!(errno(fs::remove_file(mount.path(&name))), read_only);
    assert_eq!(errno(fs::rename(mount.path(&name), mount.path("x"))), read_only);
    assert_eq!(errno(fs::create_dir(mount.path("by-tag/x"))), read_only);
    assert_eq!(
        errno(fs::set_permissions(mount.path(&name), PermissionsExt::from_mode(0o777))),
        read_only
    );
    mount.unmount();
}

/// New revisions and tags appear in the mount and deleted ones disappear, also in a mount that was empty.
#[test]
fn new_revisions_appear_and_deleted_ones_disappear() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(402, &[BLOCK_BYTES; 3]);
    let mut site = Site::with_backups(temp.path(), &[]);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    assert_eq!(names(&mount.on.path), set(["by-number", "by-date", "by-tag"]));
    for (number, state) in states.iter().enumerate() {
        site.backup(state);
        until("latest is the new one", || {
            fs::read(mount.path("latest")).is_ok_and(|bytes| bytes == *state)
        });
        assert_eq!(names(&mount.path("by-number")).len(), 2 * (number + 1));
    }
    works(&mut site.backy(&["tag", "1", "+mine"]));
    until("there is the tag", || mount.path("by-tag/mine").is_dir());
    let gone = site.expected.remove(0).uuid;
    works(&mut site.backy(&["rm", "0"]));
    until("it has gone", || !mount.file(gone).exists());
    assert_eq!(names(&mount.path("by-number")).len(), 4);
    assert!(fs::read(mount.path("latest")).expect("read the newest") == states[1]);
    works(&mut site.backy(&["tag", "0", "-mine"]));
    until("the tag has gone", || !names(&mount.path("by-tag")).contains("mine"));
    mount.unmount();
}
