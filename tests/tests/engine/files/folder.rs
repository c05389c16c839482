//! Real folders: what exists before an archive, files with several names, and the notes of other machines.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::progress::Silent;
use backy_lib::{BackupOptions, ErrorKind, ImageUpdate, MaintenanceOptions};
use backy_tests::command::program;
use backy_tests::memory::MemorySource;
use backy_tests::world;

use super::{states, write_to};

fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() {
            files.insert(name, fs::read(entry.path()).expect("a file"));
        }
    }
    files
}

fn init(folder: &Path) -> backy_lib::Result<Archive> {
    Archive::init(folder, Some(Path::new("/memory")), world::BLOCK_SIZE)
}

/// An archive with backups that were made in place.
fn archive(folder: &Path, states: &[Vec<u8>]) {
    init(folder).expect("init");
    for state in states {
        backup(folder, state).expect("a backup");
    }
}

fn backup(folder: &Path, state: &[u8]) -> backy_lib::Result<()> {
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "a test", &Silent)?;
    let update = ImageUpdate::InPlace;
    let options = BackupOptions { update, ..world::options() };
    writer.backup(&MemorySource::new(state), &options, &world::clock(), &Silent).map(drop)
}

/// `init` replaces no file of somebody else, names each, and changes nothing. Files that an archive does not use, an
/// empty `lost+found` and a config that was put there on purpose do not disturb it.
#[test]
fn init_replaces_nothing() {
    let uuid = "0198aaaa-bbbb-7ccc-8ddd-eeeeffff0000";
    let names = [
        "README".to_owned(),
        "README.new".to_owned(),
        "backy.toml.new".to_owned(),
        "manifest.json.new".to_owned(),
        "last.raw.new".to_owned(),
        "history.jsonl".to_owned(),
        "reserve".to_owned(),
        "lock".to_owned(),
        format!("{uuid}.qcow2"),
        format!("{uuid}.image.digests"),
        format!("{uuid}.delta.digests"),
    ];
    for name in &names {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("what {name} has\nand more\n");
        fs::write(folder.path().join(name), &text).expect("a file");
        let error = init(folder.path()).map(drop).expect_err(name);
        assert!(error.to_string().contains(name.as_str()), "{name}: {error}");
        assert_eq!(error.kind(), ErrorKind::ArchiveExists, "{name}");
        let after = content(folder.path());
        assert!(after.len() == 1 && after[name] == text.as_bytes(), "{name}: {:?}", after.keys());
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("lost+found")).expect("a folder");
    fs::write(folder.path().join("letter.txt"), "Dear").expect("a file");
    fs::write(folder.path().join("backy.toml"), "# mine\nsource = \"/memory\"\n").expect("a file");
    init(folder.path()).expect("init");
    let after = content(folder.path());
    assert!(after["backy.toml"].starts_with(b"# mine") && after["letter.txt"] == b"Dear");
}

/// A copy that `cp -al` has linked as a whole stays as it was, whatever happens to the archive.
#[test]
fn a_hard_linked_copy_stays_unchanged() {
    let states = states(6);
    for verb in ["in place", "backup", "rm 1", "rm 0", "maintenance", "scrub", "standalone", "undo"]
    {
        let place = tempfile::tempdir().expect("a folder");
        let (folder, copy) = (place.path().join("a"), place.path().join("b"));
        archive(&folder, &states[..5]);
        if verb == "scrub" {
            // Something to write: wrong reference counts.
            let delta = fs::read_dir(&folder).expect("the folder").flatten().map(|e| e.path());
            let delta = delta.into_iter().find(|p| p.extension().is_some_and(|e| e == "qcow2"));
            let delta = delta.expect("a delta");
            let mut bytes = fs::read(&delta).expect("a delta");
            let table =
                usize::try_from(u64::from_be_bytes(bytes[48..56].try_into().unwrap())).unwrap();
            let block = u64::from_be_bytes(bytes[table..table + 8].try_into().unwrap());
            bytes[usize::try_from(block).unwrap() + 1] ^= 6;
            fs::write(&delta, bytes).expect("a delta");
        }
        if verb == "undo" {
            interrupt(&folder, &states[5]);
        }
        fs::create_dir(&copy).expect("a folder");
        for name in content(&folder).keys().filter(|name| *name != "lock") {
            fs::hard_link(folder.join(name), copy.join(name)).expect("a link");
        }
        let before = content(&copy);
        let open = || Archive::open(&folder).expect("open");
        match verb {
            "standalone" => {
                let config = "source = \"/memory\"\n[schedule.full]\ninterval = \"1s\"\nkeep = 50\nfull = true\n";
                fs::remove_file(folder.join("backy.toml")).expect("the config");
                fs::write(folder.join("backy.toml"), config).expect("the config");
                let mut writer = ArchiveWriter::open(open(), "a test", &Silent).expect("the lock");
                let options = MaintenanceOptions { confirm: true, ..Default::default() };
                writer.maintain(&options, &world::clock(), &Silent).expect("maintenance");
            }
            "undo" => write_to(open(), "open", &[]).expect(verb),
            _ => write_to(open(), verb, &states[5]).unwrap_or_else(|e| panic!("{verb}: {e}")),
        }
        let after = content(&copy);
        for (name, bytes) in &before {
            assert!(after.get(name) == Some(bytes), "{verb}: {name} of the copy has changed");
        }
        let image = fs::metadata(copy.join("last.raw")).expect("the image");
        let own = fs::metadata(folder.join("last.raw")).expect("the image");
        let writes = ["in place", "backup", "rm 0", "undo"].contains(&verb);
        assert_eq!(image.ino() != own.ino(), writes, "{verb}: the image");
        let archive = open();
        for number in 0..archive.revisions().len() {
            world::read_revision(&archive, number).unwrap_or_else(|e| panic!("{verb}: {e}"));
        }
        assert!(!content(&folder).keys().any(|name| name.ends_with(".own")), "{verb}: left over");
    }
}

/// Leaves a backup in the middle, as a killed one does.
fn interrupt(folder: &Path, state: &[u8]) {
    let simulated = backy_lib::storage::sim::SimStorage::new(false);
    for (name, bytes) in content(folder) {
        if let Some(name) = backy_lib::storage::FileName::parse(&name) {
            super::put(&simulated, name, &bytes);
        }
    }
    // The simulated disk has times of its own, which backy would notice.
    let trial = simulated.fork();
    super::write(&trial, "in place", state).expect("a backup");
    simulated.set_fault(trial.calls() * 9 / 10, backy_lib::storage::sim::Fault::Crash, 1);
    let _ = super::write(&simulated, "in place", state);
    let crashed = simulated.crash(backy_lib::storage::sim::Unsynced::Kept);
    for (name, bytes) in crashed.files() {
        fs::write(folder.join(name.to_string()), bytes).expect("a file");
    }
}

/// The note of another machine counts as held until somebody deletes the file, and the error says that. The note of
/// an ended process of this machine does not.
#[test]
fn a_lock_note_of_another_machine_is_respected() {
    let states = states(3);
    let place = tempfile::tempdir().expect("a folder");
    archive(place.path(), &states[..2]);
    let lock = place.path().join("lock");
    for note in [
        "'backup' (process 7 on elsewhere, since 2026-11-28 02:00:00Z)",
        "'backup' (process 7 on elsewhere, since 2026-11-28 02:00:00Z)\nbacky-lock b m pid:[7] 7 7\n",
    ] {
        fs::write(&lock, note).expect("a note");
        let before = content(place.path());
        let error = backup(place.path(), &states[2]).expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let text = error.to_string();
        assert!(text.contains("elsewhere") && text.contains("delete that file"), "{text}");
        assert!(content(place.path()) == before, "something was changed");
        let archive = Archive::open(place.path()).expect("open");
        assert!(archive.lock_holder().expect("a holder").is_some_and(|h| h.contains("elsewhere")));
        fs::remove_file(&lock).expect("the lock");
        backup(place.path(), &states[2]).expect("nobody holds it");
        assert_eq!(fs::read(&lock).expect("the lock"), b"", "the note is emptied");
    }
    let mut child = Command::new("true").spawn().expect("a process");
    let pid = child.id();
    child.wait().expect("it ends");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the name");
    let note = format!("'backup' (process {pid} on {}, since 2026-11-28 02:00:00Z)", host.trim());
    fs::write(&lock, note).expect("a note");
    backup(place.path(), &states[2]).expect("its process has gone");
}

/// Each new folder above a new archive is made durable in the one above it.
#[test]
fn all_new_folders_are_durable() {
    let has_strace = Command::new("strace").arg("-V").output().is_ok();
    if !has_strace {
        backy_tests::qemu::skipped("there is no strace");
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    let trace = place.path().join("trace");
    let folder = place.path().join("x/y/z");
    let status = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync", "-o"])
        .arg(&trace)
        .arg(program())
        .arg("-b")
        .arg(&folder)
        .arg("init")
        .status()
        .expect("strace runs");
    assert!(status.success(), "{status}");
    let trace = fs::read_to_string(&trace).expect("the trace");
    for above in [place.path().to_owned(), place.path().join("x"), place.path().join("x/y")] {
        let synced = format!("<{}>)", above.display());
        assert!(trace.contains(&synced), "{} is not synced:\n{trace}", above.display());
    }
}
