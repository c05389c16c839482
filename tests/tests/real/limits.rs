//! What the system refuses, delays or interrupts: few open files, no threads, short files, leases of others, signals
//! in the middle of a call.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::progress::Silent;
use backy_lib::{BackupOptions, BlockSize, SystemClock};
use backy_tests::memory::MemorySource;
use backy_tests::qemu;

use crate::mounted::{Mountpoint, fuse_available};
use crate::site::{BLOCK_BYTES, Site, backy, fails, noise, run, states, text, words, works};
use crate::strace;

/// Revisions of the long chain, and the files that a command may have open: each revision has two.
const LONG: usize = 200;
const OPEN_FILES: usize = 64;

const SIZES: [usize; 3] = [5 * BLOCK_BYTES - 100, 6 * BLOCK_BYTES + 5, 4 * BLOCK_BYTES - 512];

/// `command` under a limit of the shell.
fn limited(limit: &str, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "limited"]);
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    shell
}

/// An archive of very many revisions of a few blocks, and the content of the oldest.
fn long_chain(folder: &Path) -> Vec<u8> {
    let block = BlockSize::MIN.len();
    let mut state = noise(1, 8 * block);
    let oldest = state.clone();
    let archive = Archive::init(folder, Some(Path::new("/dev/null")), BlockSize::MIN);
    let mut writer = ArchiveWriter::open(archive.expect("init"), "a test", &Silent).expect("lock");
    let options = BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() };
    for number in 0..LONG {
        let made = writer.backup(&MemorySource::new(&state), &options, &SystemClock, &Silent);
        made.expect("a backup").expect("a revision");
        let at = number % 7 * block;
        state[at..at + 8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    oldest
}

/// A chain of far more files than a process may have open can still be restored, scrubbed, mounted and maintained.
#[test]
fn long_chains_need_few_open_files() {
    let memory = Path::new("/dev/shm");
    let place = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let place = place.expect("a temporary folder");
    let folder = place.path().join("archive");
    let oldest = long_chain(&folder);
    let few = |args: &[&str]| limited(&format!("-n {OPEN_FILES}"), &backy(&folder, args));
    assert!(works(&mut few(&["restore", "-r", "first", "-"])) == oldest, "wrong bytes");
    works(&mut few(&["scrub"]));
    let exported = place.path().join("exported");
    works(&mut few(&["export", "-r", "first", text(&exported)]));
    if fuse_available() {
        let mountpoint = Mountpoint::new();
        works(&mut few(&["mount", text(&mountpoint.path)]));
        let mounted = fs::read(mountpoint.path.join(format!("by-number/{}", LONG - 1)));
        assert!(mounted.expect("read the oldest") == oldest, "wrong bytes in the mount");
        mountpoint.unmount();
    }
    // A merge of nearly all of them.
    works(&mut few(&["maintenance", "--keep", "3"]));
    works(&mut few(&["scrub"]));
}

/// With so few files that nothing works, the error names the limit. It reports no damage, and there is none.
#[test]
fn too_few_open_files_are_no_damage() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &states(3, &SIZES));
    let mut denied = 0;
    for limit in 4..16 {
        for args in [&["scrub"][..], &["restore", "-r", "2", "-"], &["backup", "--force"]] {
            let output = run(&mut limited(&format!("-n {limit}"), &site.backy(args)));
            let said = words(&output);
            // If not even the program can be loaded, its loader says why.
            if output.status.success() || output.status.code() == Some(127) {
                continue;
            }
            denied += 1;
            assert!(said.contains("ulimit -n"), "{limit} {args:?}: {said}");
            assert!(!said.contains("damaged"), "{limit} {args:?}: {said}");
        }
    }
    assert!(denied > 3, "{denied} were denied");
    works(&mut site.backy(&["scrub"]));
    let newest = site.committed();
    let lost = site.expected.iter().filter(|e| !newest.contains(&e.uuid.to_string())).count();
    assert_eq!(lost, 0);
    for revision in &site.expected {
        let bytes = works(&mut site.backy(&["restore", "-r", &revision.uuid.to_string(), "-"]));
        assert!(bytes == revision.bytes, "wrong bytes of {}", revision.uuid);
    }
    site.expected.clear();
}

/// A file that exceeds the size limit is an error in one line, and leaves the archive as it was.
#[test]
fn a_limit_of_file_sizes_is_an_error() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &[noise(1, 4 * BLOCK_BYTES)]);
    site.write_source(&noise(2, 40 * BLOCK_BYTES));
    let said = fails(&mut limited("-f 1000 -c 0", &site.backy(&["backup", "--force"])));
    assert!(said.contains("ulimit -f"), "{said}");
    site.check_at_rest();
    site.backup(&noise(2, 40 * BLOCK_BYTES));
    let target = temp.path().join("target");
    let restore = site.backy(&["restore", text(&target)]);
    fails(&mut limited("-f 1000 -c 0", &restore));
    assert!(!target.exists());
    site.check_at_rest();
}

/// When no thread can be started, a backup is an error in one line, and the archive is as it was.
#[test]
fn no_more_threads_are_an_error() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &[noise(1, 40 * BLOCK_BYTES)]);
    site.write_source(&noise(2, 40 * BLOCK_BYTES));
    for args in [&["backup", "--force"][..], &["scrub"], &["restore", "-"]] {
        let command = site.backy(args);
        let outcome = strace::inject(&command, "clone3", "error=EAGAIN:when=1+", temp.path());
        if outcome.happened {
            let said = words(&outcome.output);
            assert_eq!(outcome.output.status.code(), Some(1), "{args:?}: {said}");
            assert!(said.contains("ulimit -u") && said.lines().count() == 1, "{args:?}: {said}");
        }
    }
    site.check_at_rest();
}

/// Calls that a signal interrupts are made again, on the archive, the source and the target.
#[test]
fn interrupted_calls_are_made_again() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states = states(5, &SIZES);
    let mut site = Site::with_backups(temp.path(), &states[..2]);
    site.write_source(&states[2]);
    let target = temp.path().join("target");
    let target = text(&target);
    let mut happened = 0;
    // The first calls of some are the loader's, which does not handle signals: as many as there are libraries.
    for (call, mut first) in [
        ("openat", 12),
        ("newfstatat", 8),
        ("statx", 1),
        ("fstatfs", 1),
        ("pread64", 4),
        ("preadv2", 1),
        ("pwrite64", 1),
        ("pwritev2", 1),
        ("fdatasync", 1),
        ("fsync", 1),
        ("ftruncate", 1),
        ("fallocate", 1),
        ("flock", 1),
        ("lseek", 1),
        ("renameat", 1),
        ("unlinkat", 1),
        ("getdents64", 1),
    ] {
        for args in [&["backup", "--force"][..], &["restore", "--force", target], &["scrub"]] {
            // The standard library checks whether a target exists, and does not repeat the call.
            if call == "statx" && args[0] == "restore" {
                continue;
            }
            let (outcome, said) = loop {
                let what = format!("error=EINTR:when={first}+2");
                let outcome = strace::inject(&site.backy(args), call, &what, temp.path());
                let said = words(&outcome.output);
                if !said.contains("error while loading shared libraries") {
                    break (outcome, said);
                }
                first += 1;
            };
            assert!(outcome.output.status.success(), "{call} of {args:?}: {said}");
            happened += usize::from(outcome.happened);
        }
    }
    assert!(happened > 20, "{happened} were interrupted");
    assert!(fs::read(target).expect("the target") == states[2], "wrong bytes");
    // Those that were made meanwhile are right, too.
    for uuid in site.committed() {
        if site.expected.iter().all(|revision| revision.uuid.to_string() != uuid) {
            let bytes = works(&mut site.backy(&["restore", "-r", &uuid, "-"]));
            assert!(bytes == states[2], "wrong bytes of {uuid}");
        }
    }
    site.expected.clear();
}

/// Holds a lease on a file until somebody else wants it, and a moment longer.
const HOLDER: &str = "\
import fcntl, os, signal, sys, time
file = os.open(sys.argv[1], os.O_RDONLY if sys.argv[2] == 'RDLCK' else os.O_RDWR)
def give_back(*_):
    time.sleep(0.3)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, give_back)
fcntl.fcntl(file, fcntl.F_SETLEASE, getattr(fcntl, 'F_' + sys.argv[2]))
print('held', flush=True)
while True:
    time.sleep(0.05)
";

/// Ends with the value.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hold(file: &Path, kind: &str) -> Option<Holder> {
    let mut python = Command::new("python3");
    python.args(["-c", HOLDER]).arg(file).arg(kind).stdout(Stdio::piped());
    let Ok(mut child) = python.spawn() else {
        qemu::skipped("python3 is not installed");
        return None;
    };
    let mut output = child.stdout.take().expect("its output");
    let holder = Holder(child);
    // All of it, or its second half would find nobody to read it.
    let mut said = [0; 5];
    if output.read_exact(&mut said).is_err() {
        qemu::skipped("leases cannot be taken here");
        return None;
    }
    Some(holder)
}

/// backy waits for a lease of another program, such as knfsd and Samba take for their clients, whichever file it is
/// on.
#[test]
fn leases_are_waited_for() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &states(3, &SIZES));
    let oldest = site.expected.last().expect("a revision").uuid;
    for (name, kind) in [
        ("last.raw".to_owned(), "RDLCK"),
        ("last.raw".to_owned(), "WRLCK"),
        ("manifest.json".to_owned(), "WRLCK"),
        ("lock".to_owned(), "RDLCK"),
        (format!("{oldest}.qcow2"), "WRLCK"),
        ("../source".to_owned(), "WRLCK"),
    ] {
        site.write_source(&noise(7, BLOCK_BYTES));
        let Some(_holder) = hold(&site.folder.join(&name), kind) else { return };
        let restored = works(&mut site.backy(&["restore", "-r", &oldest.to_string(), "-"]));
        assert!(restored == site.expected.last().expect("a revision").bytes, "{name}");
        site.backup_source(&noise(7, BLOCK_BYTES));
    }
    site.check_at_rest();
}
