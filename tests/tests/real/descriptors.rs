//! How many files are open at a time: few, whatever the length of the chain, and enough to continue reading what has
//! been deleted meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::image::reader::{ReadCache, RevisionReader};
use backy_lib::progress::Silent;
use backy_lib::{BackupOptions, BlockSize, MaintenanceOptions, SystemClock};
use backy_tests::legacy::OldArchive;
use backy_tests::memory::MemorySource;

use crate::mounted::{Mountpoint, fuse_available};
use crate::site::{backy, noise, run, text, words, works};

/// Revisions of the chain, and the files that a process may have open: each revision has two.
const LONG: usize = 1000;
const OPEN_FILES: usize = 256;

/// How many files a process may have open for chains, and for each reader in addition: the folder, the image and the
/// manifest.
const OF_CHAINS: usize = 48;
const OF_A_READER: usize = 3;

/// A folder in memory: nothing here is about the disk.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    place.expect("a temporary folder")
}

/// An archive of very many revisions of a few blocks, and all states of the source, newest first.
fn long_chain(folder: &Path, revisions: usize) -> Vec<Vec<u8>> {
    let block = BlockSize::MIN.len();
    let mut state = noise(1, 40 * block);
    let archive = Archive::init(folder, Some(Path::new("/dev/null")), BlockSize::MIN);
    let mut writer = ArchiveWriter::open(archive.expect("init"), "a test", &Silent).expect("lock");
    let options = BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() };
    let mut states = Vec::new();
    for number in 0..revisions {
        let made = writer.backup(&MemorySource::new(&state), &options, &SystemClock, &Silent);
        made.expect("a backup").expect("a revision");
        states.insert(0, state.clone());
        let at = number % 37 * block;
        state[at..at + 8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    states
}

/// Files of the folder that this process has open, whether or not they still have names.
fn open_in(folder: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").expect("its descriptors");
    let all = all.filter_map(|entry| entry.ok()?.path().read_link().ok());
    all.filter(|path| path.starts_with(folder)).count()
}

fn whole(reader: &RevisionReader) -> Vec<u8> {
    let mut bytes = vec![0; reader.size_bytes() as usize];
    reader.read_at(&mut bytes, 0).expect("read");
    bytes
}

fn readers(folder: &Path, numbers: impl IntoIterator<Item = usize>) -> Vec<RevisionReader> {
    let cache = ReadCache::new(1 << 20);
    let open = |number| {
        let archive = Archive::open(folder).expect("open");
        archive.open_reader(archive.id(number).unwrap(), &cache).expect("a reader")
    };
    numbers.into_iter().map(open).collect()
}

/// Every verb works on a chain of a thousand in a process with 256 files.
#[test]
fn a_process_with_few_files_does_everything_with_a_long_chain() {
    let place = place();
    let folder = place.path().join("archive");
    let states = long_chain(&folder, LONG);
    let oldest = states.last().expect("a state");
    let few = |args: &[&str]| {
        let command = backy(&folder, args);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("ulimit -n {OPEN_FILES}; exec \"$@\""), "limited"]);
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        shell
    };
    assert!(works(&mut few(&["restore", "-r", "first", "-"])) == *oldest, "wrong bytes");
    works(&mut few(&["scrub", "-n"]));
    works(&mut few(&["scrub"]));
    works(&mut few(&["drill", "-r", "first"]));
    works(&mut few(&["status"]));
    let exported = place.path().join("exported");
    works(&mut few(&["export", "-r", "first", text(&exported)]));
    if fuse_available() {
        let mountpoint = Mountpoint::new();
        works(&mut few(&["mount", text(&mountpoint.path)]));
        let open = |number: usize| fs::File::open(mounted(&mountpoint, number));
        let open: Vec<_> = (0..50).map(|n| open(LONG - 1 - n).expect("an image")).collect();
        for number in 0..50 {
            let bytes = fs::read(mounted(&mountpoint, LONG - 1 - number)).expect("read");
            assert!(bytes == states[LONG - 1 - number], "wrong bytes in the mount");
        }
        drop(open);
        mountpoint.unmount();
    }
    works(&mut few(&["rm", "first"]));
    assert!(works(&mut few(&["restore", "-r", "first", "-"])) == states[LONG - 2]);
    // Rebuilding tries which revision follows which, which takes long for a thousand.
    works(&mut few(&["maintenance", "--keep", "140"]));
    fs::remove_file(folder.join("manifest.json")).expect("lose the manifest");
    works(&mut few(&["scrub", "--rebuild"]));
    assert!(works(&mut few(&["restore", "-r", "first", "-"])) == states[139]);
    works(&mut few(&["maintenance", "--keep", "3"]));
    works(&mut few(&["scrub"]));
    assert!(works(&mut few(&["restore", "-r", "latest", "-"])) == states[0]);
}

fn mounted(mountpoint: &Mountpoint, number: usize) -> PathBuf {
    mountpoint.path.join(format!("by-number/{number}"))
}

/// Fifty readers of the oldest of a thousand have few files open between them, also while all of them read.
#[test]
fn many_readers_of_a_long_chain_share_few_descriptors() {
    let place = place();
    let folder = place.path().join("archive");
    let states = long_chain(&folder, LONG);
    let oldest = states.last().expect("a state");
    let readers = Arc::new(readers(&folder, [LONG - 1; 50]));
    let most = OF_CHAINS + OF_A_READER * readers.len();
    assert!(open_in(&folder) <= most, "{} are open, more than {most}", open_in(&folder));
    let threads = (0..4).map(|thread| {
        let (readers, oldest) = (Arc::clone(&readers), oldest.clone());
        thread::spawn(move || {
            for reader in readers.iter().skip(thread).step_by(4) {
                assert!(whole(reader) == oldest, "wrong bytes");
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    for thread in threads {
        thread.join().expect("a thread");
    }
    assert!(open_in(&folder) <= most, "{} are open, more than {most}", open_in(&folder));
    drop(readers);
    assert!(open_in(&folder) == 0, "{} stay open", open_in(&folder));
}

/// Open revisions of a long chain stay readable when they, and hundreds beside them, are deleted at once, though
/// hardly any of their files was open.
#[test]
fn open_revisions_of_a_long_chain_stay_readable_when_they_are_deleted() {
    const REVISIONS: usize = 300;
    let place = place();
    let folder = place.path().join("archive");
    let states = long_chain(&folder, REVISIONS);
    let numbers = [REVISIONS - 1, REVISIONS - 2, REVISIONS / 2, 100, 5, 4, 3, 2, 1, 0];
    let readers = readers(&folder, numbers);
    let archive = Archive::open(&folder).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("lock");
    let options = MaintenanceOptions { keep: Some(3), ..MaintenanceOptions::default() };
    writer.maintain(&options, &SystemClock, &Silent).expect("maintenance");
    assert_eq!(writer.archive().revisions().len(), 3);
    for (number, reader) in numbers.into_iter().zip(&readers) {
        assert!(whole(reader) == states[number], "wrong bytes of revision {number}");
    }
    // A replaced image, and another backup, do not change that.
    let options = BackupOptions { force: true, ..BackupOptions::default() };
    let next = noise(9, states[0].len());
    writer.backup(&MemorySource::new(&next), &options, &SystemClock, &Silent).expect("a backup");
    for (number, reader) in numbers.into_iter().zip(&readers) {
        assert!(whole(reader) == states[number], "wrong bytes of revision {number} afterwards");
    }
}

/// An import that may not open another file is an error that names the limit: no file of the old archive counts as
/// missing or bad, and the next import imports all of it.
#[test]
fn an_import_with_too_few_files_gives_up_nothing() {
    const REVISIONS: usize = 30;
    let place = place();
    let old = place.path().join("old");
    let mut state = noise(3, 6 * 65536);
    let mut states = Vec::new();
    for number in 0..REVISIONS {
        states.push(state.clone());
        state[number % 6 * 65536] ^= 1;
    }
    OldArchive::write(&old, 65536, 1, &states);
    let folder = place.path().join("archive");
    let import = |limit: usize| {
        let command = backy(&folder, &["import", text(&old)]);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "limited"]);
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        shell
    };
    let mut refused = 0;
    for limit in [8, 12, 16, 20, 24, 28, 32] {
        let output = run(&mut import(limit));
        let said = words(&output);
        // If not even the program can be loaded, its loader says why.
        if output.status.success() || output.status.code() == Some(127) {
            continue;
        }
        refused += 1;
        assert!(said.contains("ulimit -n"), "{limit}: {said}");
        assert!(!said.contains("missing") && !said.contains("MD5"), "{limit}: {said}");
    }
    assert!(refused > 3, "{refused} were refused");
    works(&mut import(1024));
    for (number, state) in states.iter().rev().enumerate() {
        let number = number.to_string();
        assert!(works(&mut backy(&folder, &["restore", "-r", &number, "-"])) == *state, "{number}");
    }
}
