//! A new file that nobody sees before it is complete, and of which nothing is left when its maker is killed.
//!
//! Where the file system can, the file has no name until it is complete, and the kernel frees it. Elsewhere it has a name with a random
//! token, and a note beside it says so. The note is locked for as long as its maker lives. Whoever makes the next file in the
//! folder deletes what notes without a maker name: only what the note proves to be backy's own, and only on the machine
//! where it was made, since locks need not reach further.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, linkat, renameat_with, unlink,
};
use rustix::io::Errno;
use uuid::{NoContext, Uuid};

const PREFIX: &str = ".backy-";
const NOTE_SUFFIX: &str = ".note";
const NOTE_START: &str = "backy is making the file ";
/// A note is not longer.
const NOTE_LIMIT_BYTES: u64 = 1024;

/// A file without its final name. Gone when dropped, unless it has been given one.
pub(crate) struct Unfinished {
    /// Where it has a name until then, and what says so.
    named: Option<(PathBuf, Option<Note>)>,
}

impl Unfinished {
    /// Makes an empty file in a folder, for reading and writing.
    pub(crate) fn create(folder: &Path) -> io::Result<(File, Self)> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags | OFlags::TMPFILE, mode) {
            Ok(fd) => {
                let file = File::from(fd);
                if is_reachable(&file) {
                    return Ok((file, Unfinished { named: None }));
                }
            }
            // The file system has no files without names, or the kernel does not know of them.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        sweep(folder);
        let token = Token::new();
        let path = folder.join(format!("{PREFIX}{token}.part"));
        let note = Note::write(folder, &token, &path)?;
        let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
        Ok((File::from(fd), Unfinished { named: Some((path, note)) }))
    }

    /// Gives the file, which is complete and durable, its name, unless somebody has taken that.
    pub(crate) fn give_name(&self, file: &File, path: &Path) -> io::Result<()> {
        let Some((unfinished, _)) = &self.named else {
            linkat(CWD, link_of(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?;
            return Ok(());
        };
        match renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE) {
            // The file system does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) if path.symlink_metadata().is_err() => {
                rustix::fs::rename(unfinished, path)?;
            }
            other => other?,
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    /// A file that never became complete is of no use to anybody.
    fn drop(&mut self) {
        if let Some((path, _)) = &self.named {
            // With its final name it is no longer there.
            let _ = unlink(path);
        }
    }
}

/// What tells a file from all others: nobody gives such a name by chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn new() -> Self {
        let random = Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, 0, 0));
        Token(random.simple().to_string())
    }

    fn of_note(name: &str) -> Option<Self> {
        let token = name.strip_prefix(PREFIX)?.strip_suffix(NOTE_SUFFIX)?;
        Uuid::try_parse(token).is_ok().then(|| Token(token.to_owned()))
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says beside a file that it is to go. Locked while its maker lives, and gone when dropped.
#[derive(Debug)]
pub(crate) struct Note {
    path: PathBuf,
    _file: File,
}

impl Note {
    /// Writes a note for a file that is going to be made in the folder, and whose name has the token in it. `None` where the file
    /// system has no locks: there nobody could tell whether its maker lives.
    pub(crate) fn write(folder: &Path, token: &Token, about: &Path) -> io::Result<Option<Self>> {
        let path = folder.join(format!("{PREFIX}{token}{NOTE_SUFFIX}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let note = Note { path, _file: file.try_clone()? };
        if locked.is_err() {
            return Ok(None);
        }
        let name = about.file_name().unwrap_or_default().to_string_lossy();
        file.write_all(text(&name).as_bytes())?;
        Ok(Some(note))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let _ = unlink(&self.path);
    }
}

fn text(name: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!(
        "{NOTE_START}{name} on {host}.\n\
         When it has been killed, it deletes both when it next makes such a file here.\n"
    )
}

/// Deletes the files that somebody was making who has been killed. What cannot be deleted does no harm.
pub(crate) fn sweep(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        if let Some(token) = entry.file_name().to_str().and_then(Token::of_note) {
            sweep_note(folder, &token);
        }
    }
}

/// Deletes what a note is about, and then the note, if nobody holds it.
fn sweep_note(folder: &Path, token: &Token) -> Option<()> {
    let path = folder.join(format!("{PREFIX}{token}{NOTE_SUFFIX}"));
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(&path, flags, Mode::empty()).ok()?);
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let found = file.metadata().ok().filter(|found| found.is_file())?;
    let mut bytes = vec![0; found.len().min(NOTE_LIMIT_BYTES) as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let note = String::from_utf8(bytes).ok()?;
    let name = note.strip_prefix(NOTE_START)?.split(' ').next()?;
    // Written here, by backy, about a file that has the token in its name.
    if note != text(name) || !name.contains(&token.0) || name.contains('/') {
        return None;
    }
    let about = folder.join(name);
    match about.symlink_metadata() {
        Ok(found) if found.is_file() => unlink(&about).ok()?,
        Ok(_) => return None,
        Err(_) => {}
    }
    unlink(&path).ok()
}

/// Whether the file can be given a name by way of `/proc`, which need not be there.
fn is_reachable(file: &File) -> bool {
    let own = file.metadata().map(|found| (found.dev(), found.ino()));
    let found = Path::new(&link_of(file)).metadata().map(|found| (found.dev(), found.ino()));
    matches!((own, found), (Ok(own), Ok(found)) if own == found)
}

fn link_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "looks at what is left in a folder")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries =
            folder.read_dir().expect("list the folder").map(|entry| entry.expect("entry"));
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
        names.sort();
        names
    }

    /// What a killed maker has left: a note that nobody holds, and its file.
    fn leave(folder: &Path, name: impl Fn(&Token) -> String) -> Token {
        let token = Token::new();
        let file = folder.join(name(&token));
        let note = Note::write(folder, &token, &file).expect("write a note").expect("with a lock");
        std::fs::write(&file, "half of it").expect("write the file");
        let Note { path, _file } = &note;
        let kept = std::fs::read(path).expect("read the note");
        let path = path.clone();
        drop(note);
        std::fs::write(path, kept).expect("write the note again");
        token
    }

    /// What a killed maker has left is deleted; what one that lives is making, and what only looks like it, stays.
    #[test]
    fn only_what_nobody_is_making_any_more_is_deleted() {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = temp.path();
        leave(folder, |token| format!("{PREFIX}{token}.part"));
        leave(folder, |token| format!("drill-{token}.img"));
        sweep(folder);
        assert_eq!(names(folder), [""; 0]);

        let alive = Token::new();
        let part = folder.join(format!("{PREFIX}{alive}.part"));
        let _note = Note::write(folder, &alive, &part).expect("write a note");
        std::fs::write(&part, "half").expect("write the file");
        let foreign = leave(folder, |_| "somebody-elses.img".to_owned());
        std::fs::write(folder.join(format!("{PREFIX}{}.note", Token::new())), "of somebody else")
            .expect("write a note");
        let same = folder.join(format!("{foreign}.img"));
        std::fs::write(&same, "has the token in its name").expect("write a file");
        let before = names(folder);
        sweep(folder);
        assert_eq!(names(folder), before);
    }

    /// A file that is given no name is gone, and one that is given one replaces nothing.
    #[test]
    fn a_file_has_its_name_when_it_is_complete_and_not_before() {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = temp.path();
        drop(Unfinished::create(folder).expect("make a file"));
        let (mut file, unfinished) = Unfinished::create(folder).expect("make a file");
        file.write_all(b"complete").expect("write it");
        let path = folder.join("name");
        unfinished.give_name(&file, &path).expect("give it its name");
        assert_eq!(std::fs::read(&path).expect("read it"), b"complete");
        let (other, unfinished) = Unfinished::create(folder).expect("make a file");
        assert!(unfinished.give_name(&other, &path).is_err(), "it replaced a file");
        drop((file, other, unfinished));
        assert_eq!(names(folder), ["name"]);
        assert_eq!(std::fs::read(&path).expect("read it"), b"complete");
    }
}
