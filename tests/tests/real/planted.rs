//! Symbolic links, FIFOs, sockets, devices and folders in the place of each file of an archive: no command follows
//! them out of the archive, waits for them, or changes what they lead to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_tests::qemu::skipped;

use crate::site::{BLOCK_BYTES, Site, run, states, text, words, works};
use crate::torture::wanted;

/// What may lie in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    /// A symbolic link to a file outside that has the very content.
    LinkToContent,
    LinkToNowhere,
    LinkToFifo,
    Fifo,
    Socket,
    Device,
    Folder,
}

const ALL: [Planted; 7] = [
    Planted::LinkToContent,
    Planted::LinkToNowhere,
    Planted::LinkToFifo,
    Planted::Fifo,
    Planted::Socket,
    Planted::Device,
    Planted::Folder,
];

/// Commands that only read. `{}` is a path outside where nothing exists yet.
const READERS: [&[&str]; 8] = [
    &["status"],
    &["find", "-r", "1"],
    &["restore", "-"],
    &["restore", "-r", "2", "{}"],
    &["scrub", "-n"],
    &["export", "-r", "1", "{}"],
    &["backup", "--dry-run"],
    &["maintenance", "-n"],
];

/// Commands that change something, in this order on one archive.
const WRITERS: [&[&str]; 9] = [
    &["drill", "-r", "1"],
    &["backup", "--force"],
    &["tag", "1", "+x"],
    &["scrub"],
    &["rm", "--force", "1"],
    &["rm", "0"],
    &["maintenance", "-k", "1"],
    &["scrub", "--rebuild", "--force"],
    &["init"],
];

/// A folder outside of the archive with what must not be touched.
struct Outside {
    folder: PathBuf,
}

impl Outside {
    fn make(place: &Path) -> Self {
        let folder = place.join("outside");
        fs::create_dir(&folder).expect("make a folder");
        Outside { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Everything in it: names, kinds, lengths, contents, times of change.
    fn listing(&self) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
        let entries = self.folder.read_dir().expect("list a folder").map(|e| e.expect("an entry"));
        let mut found: Vec<_> = entries
            .map(|entry| {
                let path = entry.path();
                let metadata = path.symlink_metadata().expect("metadata");
                let content = match metadata.is_file() {
                    true => fs::read(&path).expect("read a file"),
                    false => Vec::new(),
                };
                (path, metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content)
            })
            .collect();
        found.sort();
        found
    }
}

/// Replaces a file by something else. The content of the file, if it has any, is kept outside.
fn plant(what: Planted, path: &Path, outside: &Outside) -> io::Result<()> {
    let content = fs::read(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    match what {
        Planted::LinkToContent => {
            fs::write(outside.path("content"), content)?;
            symlink(outside.path("content"), path)
        }
        Planted::LinkToNowhere => symlink(outside.path("nowhere"), path),
        Planted::LinkToFifo => {
            works(Command::new("mkfifo").arg(outside.path("fifo")));
            symlink(outside.path("fifo"), path)
        }
        Planted::Fifo => {
            works(Command::new("mkfifo").arg(path));
            Ok(())
        }
        Planted::Socket => UnixListener::bind(path).map(drop),
        Planted::Device => {
            // An endless file of zeros.
            let made = run(Command::new("mknod").arg(path).args(["c", "1", "5"]));
            match made.status.success() && File::open(path).is_ok() {
                true => Ok(()),
                false => Err(io::Error::other("no device can be made here")),
            }
        }
        Planted::Folder => {
            fs::create_dir(path)?;
            fs::write(path.join("somebody's"), "precious")
        }
    }
}

/// Runs a command, which has to end by itself, with success, or with exit status 1 and one line that names the
/// archive. Returns the line.
fn ends(site: &Site, args: &[&str], target: &Path) -> Option<String> {
    let args: Vec<&str> =
        args.iter().map(|&arg| if arg == "{}" { text(target) } else { arg }).collect();
    let mut command = site.backy(&args);
    let mut limited = Command::new("timeout");
    limited.args(["--signal=KILL", "20"]).arg(command.get_program()).args(command.get_args());
    command = limited;
    let output = run(&mut command);
    let said = words(&output);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{args:?}: {}: {said}", output.status);
    let _ = fs::remove_file(target);
    if output.status.success() {
        return None;
    }
    let error = said.lines().last().unwrap_or_default().to_owned();
    // A scrub prints what it finds, and ends with a line of its own.
    let names = error.contains(text(&site.folder)) || args[0] == "scrub" || args[0] == "drill";
    assert!(error.starts_with("backy: error: ") && names, "{args:?}: {said}");
    Some(error)
}

/// The names of the files in an archive of three revisions, and of the optional ones.
fn names(site: &Site) -> Vec<String> {
    let mut names: Vec<String> = site.files().into_iter().collect();
    // One delta is like another.
    let oldest = site.expected[2].uuid.to_string();
    names.retain(|name| !name.starts_with(&oldest));
    let more = ["reserve", "history.jsonl", "history.jsonl.1", "manifest.json.new", "last.raw.new"];
    names.extend(more.map(str::to_owned));
    names
}

/// Whether the revision with this number is unavailable without the file of this name.
fn needs(site: &Site, number: usize, name: &str) -> bool {
    let newer = site.expected[..=number].iter().map(|revision| revision.uuid.to_string());
    let own = newer.clone().any(|uuid| name.starts_with(&uuid));
    own || matches!(name, "manifest.json" | "last.raw")
}

/// Which of the writers run on an archive: they take turns in a normal run, and all run one after the other in a long
/// one.
fn writers(at: usize) -> impl Iterator<Item = &'static [&'static str]> {
    let all = wanted("BACKY_TORTURE_ROUNDS").is_some();
    let chosen = move |(number, _): &(usize, _)| all || (number + at).is_multiple_of(3);
    WRITERS.into_iter().enumerate().filter(chosen).map(|(_, args)| args)
}

fn planted(kinds: &[Planted]) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let sizes = [6 * BLOCK_BYTES, 5 * BLOCK_BYTES + 5, 6 * BLOCK_BYTES - 9];
    let base = Site::with_backups(temp.path(), &states(900, &sizes));
    for (at, name) in names(&base).iter().enumerate() {
        for (number, &what) in kinds.iter().enumerate() {
            let place = temp.path().join(format!("{at}-{what:?}"));
            fs::create_dir(&place).expect("make a folder");
            let site = base.copy(&place);
            let outside = Outside::make(&place);
            if let Err(error) = plant(what, &site.folder.join(name), &outside) {
                return skipped(&error.to_string());
            }
            let told = crate::kill::Told(format!("{what:?} in the place of {name}"));
            let before = outside.listing();
            let archive = fs::read_dir(&site.folder).expect("list the archive").count();
            for args in READERS {
                let error = ends(&site, args, &place.join("target"));
                let number = if args.contains(&"2") { 2 } else { 0 };
                if args[0] == "restore" && needs(&site, number, name) {
                    let error = error.clone().unwrap_or_else(|| panic!("{args:?} has worked"));
                    assert!(error.contains(name) && error.contains("a regular file"), "{error}");
                }
                if args[0] == "restore" && !needs(&site, number, name) {
                    assert_eq!(error, None, "{args:?}");
                }
            }
            let left = fs::read_dir(&site.folder).expect("list the archive").count();
            assert_eq!(archive, left, "readers have made or removed files");
            for args in writers(at + number) {
                ends(&site, args, &place.join("target"));
            }
            assert!(outside.listing() == before, "what is outside has changed");
            if what == Planted::Folder && site.folder.join(name).is_dir() {
                let kept = fs::read(site.folder.join(name).join("somebody's")).expect("read it");
                assert_eq!(kept, b"precious");
            }
            fs::remove_dir_all(&place).expect("remove the trial");
            drop(told);
        }
    }
}

/// No command follows a symbolic link, wherever it leads.
#[test]
fn links_in_the_place_of_files() {
    planted(&ALL[..3]);
}

/// No command waits for a FIFO or connects to a socket.
#[test]
fn fifos_and_sockets_in_the_place_of_files() {
    planted(&ALL[3..5]);
}

/// No command reads from a device or writes to it, and a folder keeps its content.
#[test]
fn devices_and_folders_in_the_place_of_files() {
    planted(&ALL[5..]);
}

/// An archive whose folder itself is a symbolic link is the one that it leads to.
#[test]
fn the_folder_may_be_a_link() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::with_backups(temp.path(), &states(901, &[5 * BLOCK_BYTES]));
    let link = temp.path().join("link");
    symlink(&site.folder, &link).expect("make a link");
    site.folder = link;
    site.backup(&states(902, &[6 * BLOCK_BYTES])[0]);
    site.check_at_rest();
}
