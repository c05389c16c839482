//! Who holds a lock on a file, and whether that lock counts.
//!
//! `flock` and read locks only require that a file or folder can be opened for reading. So a user who may only read
//! an archive can lock its files, and the archive's writers must be able to distinguish such a user from each other.
//! Source: `proc(5)`.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{fstat, stat};
use rustix::process::geteuid;

use super::system;

/// A kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of `flock`.
    Flock,
    /// Those of `fcntl`, of a process or of an open file.
    Fcntl,
}

impl Kind {
    /// Whether the kernel's tables call this kind of lock `name`.
    fn has(self, name: &str) -> bool {
        match self {
            Kind::Flock => name == "FLOCK",
            Kind::Fcntl => name == "POSIX" || name == "OFDLCK",
        }
    }
}

/// Who holds a lock, as far as this process is allowed to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Root, the owner of the archive or the user of this process; maybe others as well.
    OneOfUs,
    /// Others alone.
    Strangers,
    /// The holder cannot be seen: it is on another machine, in another container, or belongs to another user who was
    /// handed the lock.
    Unknown,
}

/// A process that holds a lock.
pub(super) struct Holder {
    pub(super) process: u32,
    folder: PathBuf,
}

impl Holder {
    /// Whether it still holds a lock on the file.
    pub(super) fn still_holds(&self, file: impl AsFd, kind: Kind) -> bool {
        fstat(file).is_ok_and(|found| holds(&self.folder, &found, kind))
    }

    /// What the process is called.
    pub(super) fn name(&self) -> String {
        let name = system::read(&self.folder.join("comm")).unwrap_or_default();
        let name: String =
            name.trim_end().chars().filter(|c| !crate::base::escape::is_unsafe(*c)).collect();
        if name.is_empty() { "a program".to_owned() } else { name }
    }
}

/// Who holds a lock on a file. `owner` is the user that owns the archive of this file.
pub(super) fn who(file: &impl AsFd, kind: Kind, owner: u32) -> Who {
    let Ok(found) = fstat(file) else { return Who::Unknown };
    let ours = [0, owner, geteuid().as_raw()];
    let is_ours = |folder: &Path| {
        // A stranger who runs a program that belongs to root keeps one identity of their own.
        users(folder).map(|users| users.iter().all(|user| ours.contains(user)))
    };
    let takers: Vec<PathBuf> = takers(found.st_ino, kind)
        .iter()
        .map(|taker| Path::new("/proc").join(taker.process.to_string()))
        .collect();
    // Most processes still have the lock that they took, which is quick to check.
    if takers.iter().any(|folder| holds(folder, &found, kind) && is_ours(folder) == Some(true)) {
        return Who::OneOfUs;
    }
    let mut seen = holders(file, kind).peekable();
    if seen.peek().is_some() {
        let is_one = seen.any(|holder| is_ours(&holder.folder) == Some(true));
        return if is_one { Who::OneOfUs } else { Who::Strangers };
    }
    // Only root can see what others have open, but everybody can see who has taken the lock.
    let takers: Option<Vec<bool>> = takers.iter().map(|folder| is_ours(folder)).collect();
    match takers {
        Some(takers) if takers.contains(&true) => Who::OneOfUs,
        Some(takers) if !takers.is_empty() => Who::Strangers,
        _ => Who::Unknown,
    }
}

/// The processes that hold a lock on a file, this one included, as far as this one may look into them.
pub(super) fn holders(file: impl AsFd, kind: Kind) -> impl Iterator<Item = Holder> {
    let found = fstat(file).ok();
    let processes = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let folder = entry.path();
        holds(&folder, found.as_ref()?, kind).then_some(Holder { process, folder })
    })
}

/// An entry in the kernel's table of locks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taker {
    /// The process that took the lock, and may have handed it on since; -1 for a lock of an open file.
    pub(super) process: i32,
    /// Whether it excludes all others.
    pub(super) is_exclusive: bool,
}

/// Who has taken locks on the file with this number. By the number alone: the table gives the device of the file
/// system, which is not always that of the file.
pub(super) fn takers(inode: u64, kind: Kind) -> Vec<Taker> {
    takers_within_limits(inode, kind).unwrap_or_default()
}

/// The same.
///
/// # Errors
/// If this process lacks descriptors or memory to find out.
pub(super) fn takers_within_limits(inode: u64, kind: Kind) -> io::Result<Vec<Taker>> {
    let table = system::read_within_limits(Path::new("/proc/locks"))?.unwrap_or_default();
    Ok(table.lines().filter_map(|line| taker(line, inode, kind)).collect())
}

/// A line such as `1: FLOCK ADVISORY WRITE 4711 08:02:1234 0 EOF`; an arrow in it marks a process that waits for the
/// lock.
fn taker(line: &str, inode: u64, kind: Kind) -> Option<Taker> {
    let mut words =
        line.split_whitespace().skip_while(|word| !word.ends_with(':') || *word == "lock:");
    words.next()?;
    let is_of_kind = kind.has(words.next()?);
    let (_, access, process, file) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let is_of_file = file.rsplit(':').next()? == inode.to_string();
    let taker = Taker { process: process.parse().ok()?, is_exclusive: access == "WRITE" };
    (is_of_kind && is_of_file).then_some(taker)
}

/// Whether a process has an open file with a lock on the file that was found.
fn holds(process: &Path, found: &rustix::fs::Stat, kind: Kind) -> bool {
    let about = process.join("fdinfo").read_dir().into_iter().flatten().flatten();
    let mut locked = about.filter(|about| {
        let text = system::read(&about.path()).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("lock:") && taker(line, found.st_ino, kind).is_some())
    });
    locked.any(|about| {
        let open = stat(process.join("fd").join(about.file_name()));
        open.is_ok_and(|open| (open.st_dev, open.st_ino) == (found.st_dev, found.st_ino))
    })
}

/// The real, effective, saved and file system user of a process; `None` when it has ended.
fn users(process: &Path) -> Option<Vec<u32>> {
    let status = system::read(&process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let users: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    (!users.is_empty()).then_some(users)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    /// Reads lines of the kernel's table and of an open file; waiting for a lock does not count as having it.
    #[test]
    fn the_kernels_lines_are_read() {
        let of = |line: &str, kind| {
            taker(line, 1234, kind).map(|taker| (taker.process, taker.is_exclusive))
        };
        for (line, kind, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 4711 08:02:1234 0 EOF", Kind::Flock, Some((4711, true))),
            (
                "lock:\t1: FLOCK  ADVISORY  READ 4711 08:02:1234 0 EOF",
                Kind::Flock,
                Some((4711, false)),
            ),
            (
                "lock:\t2: OFDLCK ADVISORY  READ -1 00:1f:1234 100 100",
                Kind::Fcntl,
                Some((-1, false)),
            ),
            ("17: POSIX  ADVISORY  WRITE 7 08:02:1234 0 EOF", Kind::Fcntl, Some((7, true))),
            ("1: FLOCK  ADVISORY  WRITE 4711 08:02:1234 0 EOF", Kind::Fcntl, None),
            ("1: FLOCK  ADVISORY  WRITE 4711 08:02:51234 0 EOF", Kind::Flock, None),
            ("1: -> FLOCK  ADVISORY  WRITE 4711 08:02:1234 0 EOF", Kind::Flock, None),
            ("1: FLOCK", Kind::Flock, None),
            ("", Kind::Flock, None),
        ] {
            assert_eq!(of(line, kind), expected, "{line}");
        }
    }

    /// A process knows its own lock, of the right kind and on the right file.
    #[test]
    fn whose_lock_it_is_is_found_out() {
        let locked = tempfile::tempfile().expect("a file");
        let other = tempfile::tempfile().expect("a file");
        flock(&locked, FlockOperation::NonBlockingLockShared).expect("lock it");
        assert_eq!(who(&locked, Kind::Flock, 0), Who::OneOfUs);
        assert_eq!(who(&locked, Kind::Fcntl, 0), Who::Unknown);
        assert_eq!(who(&other, Kind::Flock, 0), Who::Unknown);
        let found: Vec<u32> = holders(&locked, Kind::Flock).map(|holder| holder.process).collect();
        assert_eq!(found, [std::process::id()]);
    }
}
