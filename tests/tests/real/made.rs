//! Who may read new files. The image of a disk has its owner's secrets, whatever the umask is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::site::{Site, noise, text, works};

const MIB: usize = 1 << 20;

/// The permissions of a file or a folder.
fn mode(path: &Path) -> u32 {
    let found = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    found.permissions().mode() & 0o7777
}

/// Those of all files in a folder, by name, as `chmod` has them.
fn modes(folder: &Path) -> BTreeMap<String, String> {
    let entries = folder.read_dir().expect("list a folder").map(|entry| entry.expect("an entry"));
    let named = |entry: fs::DirEntry| {
        let mode = format!("{:04o}", mode(&entry.path()));
        (entry.file_name().into_string().expect("a plain name"), mode)
    };
    entries.map(named).collect()
}

/// Runs a command under a umask.
fn under(umask: &str, command: &Command) -> Vec<u8> {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(command.get_program());
    works(shell.args(command.get_args()))
}

/// A site with three backups, made under a umask that masks nothing.
fn open_site(place: &Path) -> Site {
    let source = place.join("source");
    fs::write(&source, noise(1, MIB)).expect("write the source");
    let site = Site { folder: place.join("archive"), source, expected: Vec::new() };
    under("0", &site.backy(&["init", text(&site.source)]));
    site
}

fn backups(site: &Site, count: u64) {
    for seed in 0..count {
        site.write_source(&noise(seed, MIB));
        under("0", &site.backy(&["backup", "--force"]));
    }
}

/// Everything of an archive is its owner's alone, from `init` to a rebuilt manifest, whatever the umask.
#[test]
fn an_archive_is_private_to_its_owner() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = open_site(temp.path());
    assert_eq!(mode(&site.folder), 0o700);
    backups(&site, 4);
    for args in [
        &["tag", "0", "+mine"][..],
        &["rm", "1"],
        &["rm", "--force", "0"],
        &["scrub"],
        &["maintenance", "-k", "1"],
    ] {
        under("0", &site.backy(args));
    }
    fs::remove_file(site.folder.join("manifest.json")).expect("lose the manifest");
    under("0", &site.backy(&["scrub", "--rebuild"]));
    let found = modes(&site.folder);
    assert!(found.len() > 6, "{found:?}");
    assert!(found.values().all(|mode| mode == "0600"), "{found:?}");
}

/// `file_mode` sets the mode of each file made from then on: image, deltas, digests, manifest and history.
#[test]
fn file_mode_applies_to_all_new_files() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for umask in ["0", "077"] {
        let place = temp.path().join(umask);
        fs::create_dir(&place).expect("make a folder");
        let site = open_site(&place);
        site.configure(|config| format!("file_mode = \"0640\"\n{config}"));
        for seed in 0..3 {
            site.write_source(&noise(seed, MIB));
            under(umask, &site.backy(&["backup", "--force"]));
        }
        under(umask, &site.backy(&["rm", "1"]));
        let wanted = if umask == "0" { "0640" } else { "0600" };
        let mut found = modes(&site.folder);
        // Made by 'init', before the config said so.
        found.retain(|name, _| !["README", "backy.toml", "lock"].contains(&name.as_str()));
        assert!(found.contains_key("last.raw") && found.contains_key("manifest.json"));
        assert!(found.contains_key("history.jsonl") && found.len() > 5, "{found:?}");
        found.retain(|name, _| name != "reserve");
        assert!(found.values().all(|mode| mode == wanted), "umask {umask}: {found:?}");
    }
}

/// A restored image, an export and an undo archive are their owner's alone, too. An existing target keeps its
/// permissions.
#[test]
fn restored_files_are_private_to_their_owner() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = open_site(temp.path());
    // The mode of the archive's files does not apply to restored files.
    site.configure(|config| format!("file_mode = \"0644\"\n{config}"));
    backups(&site, 2);
    let out = |name: &str| temp.path().join(name);
    under("0", &site.backy(&["restore", text(&out("new"))]));
    assert_eq!(mode(&out("new")), 0o600, "a restored image");
    under("0", &site.backy(&["export", text(&out("new.qcow2"))]));
    assert_eq!(mode(&out("new.qcow2")), 0o600, "an export");
    fs::write(out("there"), noise(7, MIB)).expect("write a target");
    fs::set_permissions(out("there"), fs::Permissions::from_mode(0o604)).expect("chmod");
    let undo = out("undo");
    let args =
        ["restore", "--force", "--undo", text(&undo), text(&out("there"))].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    under("0", &site.backy(&args));
    assert_eq!(mode(&out("there")), 0o604, "a target that was there");
    assert_eq!(mode(&undo), 0o700, "the folder of an undo archive");
    let found = modes(&undo);
    assert!(found.contains_key("last.raw"), "{found:?}");
    assert!(found.values().all(|mode| mode == "0600"), "{found:?}");
}
