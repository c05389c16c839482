//! Output outside the archive is durable when a command reports success: data first, then the name, then its folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::site::{Site, noise, text, works};
use crate::strace;

const MIB: usize = 1 << 20;
/// All calls that change what a file holds or its name, or make that durable.
const CALLS: &str = "trace=write,pwrite64,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,\
                     fsync,fdatasync,sync_file_range,syncfs,rename,renameat,renameat2,link,linkat";

/// A system call, by the file that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    /// Changes the content of an open file.
    Change(String),
    Sync(String),
    /// Gives a file the name that comes last.
    Name(String),
}

/// The calls of a command that has to work, in the order in which they began.
fn calls(command: &Command, place: &Path) -> Vec<Call> {
    let log = place.join("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", CALLS, "-o"]).arg(&log);
    works(strace.arg(command.get_program()).args(command.get_args()));
    let log = fs::read(&log).expect("read the log of strace");
    let log = String::from_utf8_lossy(&log).into_owned();
    log.lines().filter_map(call).collect()
}

fn call(line: &str) -> Option<Call> {
    let (_, said) = line.split_once(' ')?;
    let (name, arguments) = said.trim_start().split_once('(')?;
    let of_descriptor = || {
        let (_, after) = arguments.split_once('<')?;
        let (path, _) = after.split_once('>')?;
        Some(path.trim_end_matches(" (deleted)").to_owned())
    };
    match name {
        "fsync" | "fdatasync" | "syncfs" => Some(Call::Sync(of_descriptor()?)),
        _ if name.starts_with("rename") || name.starts_with("link") => {
            let failed = line.contains(" = -1 ");
            let named = arguments.rsplit('"').nth(1)?;
            (!failed).then(|| Call::Name(named.to_owned()))
        }
        _ => Some(Call::Change(of_descriptor()?)),
    }
}

/// Checks what a command does to the files in a folder outside the archive: each is synced after its last change, and
/// before anything gets a name. The folder is synced after the last name.
fn is_durable(what: &str, command: &Command, place: &Path, out: &Path) {
    let calls = calls(command, place);
    // The content of the lock is for people, and is deleted again.
    let within = |path: &String| Path::new(path).starts_with(out) && !path.ends_with("/lock");
    let mut changed: BTreeMap<&String, usize> = BTreeMap::new();
    let mut named = None;
    for (at, call) in calls.iter().enumerate() {
        match call {
            Call::Change(path) if within(path) => {
                changed.insert(path, at);
            }
            Call::Sync(path) => {
                changed.remove(path);
                if Path::new(path) == out {
                    named = None;
                }
            }
            Call::Name(path) => {
                let path = PathBuf::from(path);
                if path.starts_with(out) || path.is_relative() && is_in(out, &path) {
                    assert!(changed.is_empty(), "{what}: a name before the data of {changed:?}");
                    named = Some(at);
                }
            }
            Call::Change(_) => {}
        }
    }
    assert!(changed.is_empty(), "{what}: not synced: {changed:?} in {calls:?}");
    assert_eq!(named, None, "{what}: the folder is not synced after that call of {calls:?}");
    let touched = calls.iter().any(|call| matches!(call, Call::Change(path) if within(path)));
    assert!(touched, "{what}: nothing was written there: {calls:?}");
}

/// A name relative to an open folder is one of those that exist now.
fn is_in(folder: &Path, name: &Path) -> bool {
    folder.join(name).exists()
}

/// A new target and an existing one, an export, an undo archive and a textfile are durable, with their names, before
/// the command ends.
#[test]
fn results_are_durable() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &[noise(1, MIB), noise(2, MIB + 5)]);
    let out = temp.path().join("out");
    fs::create_dir(&out).expect("make a folder");
    let file = |name: &str| text(&out.join(name)).to_owned();
    let check = |what: &str, args: &[&str]| is_durable(what, &site.backy(args), temp.path(), &out);
    check("a new target", &["restore", &file("new")]);
    check("an older revision", &["restore", "-r", "1", &file("older")]);
    check("a target that is there", &["restore", "-r", "1", "--force", &file("new")]);
    check("an export", &["export", &file("new.qcow2")]);
    fs::write(out.join("there"), noise(3, 2 * MIB)).expect("write a target");
    let undo = temp.path().join("undo");
    let args = ["restore", "--force", "--undo", text(&undo), &file("there")];
    is_durable("an undo archive", &site.backy(&args), temp.path(), &undo);
    let textfile = format!("\n[monitoring]\ntextfile = \"{}\"\n", file("node.prom"));
    site.configure(|config| config + &textfile);
    check("a textfile", &["backup", "--force"]);
}

/// Nothing of a target is overwritten before its old content is durable in the undo archive, including the names.
#[test]
fn undo_data_is_durable_before_the_target_is_overwritten() {
    if !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &[noise(4, MIB)]);
    let (target, undo) = (temp.path().join("target"), temp.path().join("undo"));
    fs::write(&target, noise(5, MIB)).expect("write a target");
    let restore = site.backy(&["restore", "--force", "--undo", text(&undo), text(&target)]);
    let calls = calls(&restore, temp.path());
    let of_target = |call: &Call| matches!(call, Call::Change(path) if Path::new(path) == target);
    let first = calls.iter().position(of_target).expect("the target is written");
    let before = &calls[..first];
    let synced = before.iter().rposition(|call| *call == Call::Sync(text(&undo).to_owned()));
    let synced = synced.expect("the undo archive's folder is synced first");
    let above = Call::Sync(text(temp.path()).to_owned());
    assert!(before.contains(&above), "the new folder's own name: {before:?}");
    let later = before[synced..].iter().find(|call| match call {
        Call::Change(path) => Path::new(path).starts_with(&undo) && !path.ends_with("/lock"),
        Call::Name(_) => true,
        Call::Sync(_) => false,
    });
    assert_eq!(later, None, "after the last sync of the undo archive");
}
