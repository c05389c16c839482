//! A new file that becomes visible only when it is complete, and leaves nothing behind when its maker is killed.
//!
//! Where the file system supports it, the file has no name until it is complete, and the kernel frees it.
//! Elsewhere it has a name with a random token, and a note beside it marks it as unfinished. The maker locks
//! the note while it lives. Whoever creates the next file in the folder deletes the files of notes without a
//! maker: only those that the note proves to be backy's, and only on the machine that made them, since locks
//! may not reach further.
//!
//! The folder is opened once, and names are looked up in that open folder: replacing the folder has no effect.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fstat,
    linkat, openat, renameat, renameat_with, stat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use uuid::{NoContext, Uuid};

use crate::base::fork::{Maker, Withheld};

const PREFIX: &str = ".backy-";
const NOTE_SUFFIX: &str = ".note";
const NOTE_START: &str = "backy is making the file ";
/// Longest note.
const NOTE_LIMIT_BYTES: u64 = 1024;

/// An open folder for new files.
#[derive(Debug, Clone)]
pub(crate) struct Folder(Arc<OwnedFd>);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Folder {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Creating files in it does not require permission to read it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Folder(Arc::new(fd)))
    }

    /// Makes its names durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        File::from(retry_on_intr(|| openat(&self.0, ".", flags, Mode::empty()))?).sync_all()
    }

    /// Deletes a file.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(retry_on_intr(|| unlinkat(&self.0, name, AtFlags::empty()))?)
    }

    fn look_up(&self, name: impl rustix::path::Arg + Copy) -> io::Result<Stat> {
        Ok(retry_on_intr(|| statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW))?)
    }

    /// Creates a file with a unique name.
    fn make(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(File::from(retry_on_intr(|| openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR))?))
    }

    /// Deletes files whose maker was killed. Files that cannot be deleted do no harm.
    pub(crate) fn sweep(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = retry_on_intr(|| openat(&self.0, ".", flags, Mode::empty()));
        let listed = listed.and_then(Dir::new);
        for entry in listed.into_iter().flatten().flatten() {
            if let Some(token) = entry.file_name().to_str().ok().and_then(Token::of_note) {
                self.sweep_note(&token);
            }
        }
    }

    /// Unfinished files here, in progress or left by a killed maker, with the bytes they take up on disk.
    pub(crate) fn left_overs(&self) -> Vec<(String, u64)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = retry_on_intr(|| openat(&self.0, ".", flags, Mode::empty()));
        let listed = listed.and_then(Dir::new);
        let names = listed.into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let ours = names.filter(|name| name.starts_with(PREFIX) && !name.ends_with(NOTE_SUFFIX));
        let found = ours.filter_map(|name| {
            let found = self.look_up(&*name).ok()?;
            Some((name, u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512)))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable();
        found
    }

    /// Deletes the file of a note, and then the note, if nobody holds the note.
    fn sweep_note(&self, token: &Token) -> Option<()> {
        let note = token.note();
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(retry_on_intr(|| openat(&self.0, &note, flags, Mode::empty())).ok()?);
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let found = file.metadata().ok().filter(|found| found.is_file())?;
        let mut bytes = vec![0; found.len().min(NOTE_LIMIT_BYTES) as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let content = String::from_utf8(bytes).ok()?;
        let name = content.strip_prefix(NOTE_START)?.split(' ').next()?;
        // Only a note that backy wrote on this machine, about a file with the token in its name.
        if content != text(name) || !name.contains(&token.0) || name.contains('/') {
            return None;
        }
        match self.look_up(name) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {
                self.remove(name).ok()?;
            }
            Ok(_) => return None,
            Err(_) => {}
        }
        self.remove(&note).ok()
    }
}

/// A file without its final name. Dropping it deletes it, unless it got its name.
pub(crate) struct Unfinished {
    folder: Folder,
    /// Its temporary name and its note.
    named: Option<(String, Option<Note>)>,
    maker: Maker,
}

impl Unfinished {
    /// Creates an empty file in a folder, for reading and writing.
    pub(crate) fn create(folder: Folder) -> io::Result<(File, Self)> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        match retry_on_intr(|| openat(&folder.0, ".", flags, Mode::RUSR | Mode::WUSR)) {
            Ok(fd) => {
                let file = File::from(fd);
                if is_reachable(&file) {
                    return Ok((file, Unfinished { folder, named: None, maker: Maker::this() }));
                }
            }
            // The file system or the kernel does not support files without names.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        folder.sweep();
        let token = Token::new();
        let name = format!("{PREFIX}{token}.part");
        let note = Note::write(&folder, &token, &name)?;
        let file = folder.make(&name)?;
        Ok((file, Unfinished { folder, named: Some((name, note)), maker: Maker::this() }))
    }

    /// Gives the file, which is complete and durable, its name in the folder, unless that name exists.
    pub(crate) fn give_name(&self, file: &File, name: &OsStr) -> io::Result<()> {
        let folder = &self.folder.0;
        let Some((unfinished, _)) = &self.named else {
            let link = || linkat(CWD, link_of(file), folder, name, AtFlags::SYMLINK_FOLLOW);
            return Ok(retry_on_intr(link)?);
        };
        let rename = || renameat_with(folder, unfinished, folder, name, RenameFlags::NOREPLACE);
        match retry_on_intr(rename) {
            // The file system does not support the flag.
            Err(Errno::INVAL | Errno::NOSYS) if self.folder.look_up(name).is_err() => {
                Ok(retry_on_intr(|| renameat(folder, unfinished, folder, name))?)
            }
            other => Ok(other?),
        }
    }

    /// Makes the name durable.
    pub(crate) fn sync_folder(&self) -> io::Result<()> {
        self.folder.sync()
    }
}

impl Drop for Unfinished {
    /// An incomplete file is useless.
    fn drop(&mut self) {
        // A child that drops its copy deletes nothing of its parent.
        if let Some((name, _)) = self.named.as_ref().filter(|_| self.maker.is_this()) {
            // If it has its final name, the temporary one no longer exists.
            let _ = self.folder.remove(name);
        }
    }
}

/// Identifies a file: random, so that nobody else picks the same name.
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

    /// The name of the note with this token.
    fn note(&self) -> String {
        format!("{PREFIX}{self}{NOTE_SUFFIX}")
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Marks a file as unfinished. Locked while its maker lives, and deleted when dropped.
#[derive(Debug)]
pub(crate) struct Note {
    folder: Folder,
    name: String,
    maker: Maker,
    _file: Withheld<File>,
}

impl Note {
    /// Writes a note for the file `about`, whose name contains the token and which will be created in the
    /// folder. `None` if the file system has no locks: nobody could tell there whether the maker lives.
    pub(crate) fn write(folder: &Folder, token: &Token, about: &str) -> io::Result<Option<Self>> {
        let name = token.note();
        let file = Withheld::new(folder.make(&name)?);
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let written = locked.map_or(Ok(()), |()| (&*file).write_all(text(about).as_bytes()));
        let note = Note { folder: folder.clone(), name, maker: Maker::this(), _file: file };
        if locked.is_err() {
            return Ok(None);
        }
        written.map(|()| Some(note))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if self.maker.is_this() {
            let _ = self.folder.remove(&self.name);
        }
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

/// The file name in a path for a new file; empty, which is not a name, if the path ends like a folder.
pub(crate) fn name_of(path: &Path) -> &OsStr {
    let bytes = path.as_os_str().as_bytes();
    OsStr::from_bytes(bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default())
}

/// Whether the file can get a name through `/proc`, which may not be mounted.
fn is_reachable(file: &File) -> bool {
    let same = |own: Stat, found: Stat| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino);
    matches!((fstat(file), stat(link_of(file))), (Ok(own), Ok(found)) if same(own, found))
}

fn link_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "looks at what is left in a folder")]
pub(super) mod tests {
    use super::*;
    use crate::base::fork::tests::in_child;

    fn names(folder: &Path) -> Vec<String> {
        let entries =
            folder.read_dir().expect("list the folder").map(|entry| entry.expect("entry"));
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
        names.sort();
        names
    }

    fn open(folder: &Path) -> Folder {
        Folder::open(folder).expect("open the folder")
    }

    /// What a killed maker leaves: a note that nobody holds, and its file.
    pub(in crate::target) fn leave(folder: &Path, name: impl Fn(&Token) -> String) -> Token {
        let token = Token::new();
        let name = name(&token);
        let note = Note::write(&open(folder), &token, &name).expect("write a note");
        let note = note.expect("with a lock");
        std::fs::write(folder.join(name), "half of it").expect("write the file");
        let path = folder.join(&note.name);
        let kept = std::fs::read(&path).expect("read the note");
        drop(note);
        std::fs::write(path, kept).expect("write the note again");
        token
    }

    /// Files of killed makers are deleted; files of living makers and files that only look similar stay.
    #[test]
    fn only_files_of_killed_makers_are_deleted() {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = temp.path();
        leave(folder, |token| format!("{PREFIX}{token}.part"));
        leave(folder, |token| format!("drill-{token}.img"));
        open(folder).sweep();
        assert_eq!(names(folder), [""; 0]);

        let alive = Token::new();
        let part = format!("{PREFIX}{alive}.part");
        let _note = Note::write(&open(folder), &alive, &part).expect("write a note");
        std::fs::write(folder.join(part), "half").expect("write the file");
        let foreign = leave(folder, |_| "somebody-elses.img".to_owned());
        std::fs::write(folder.join(format!("{PREFIX}{}.note", Token::new())), "of somebody else")
            .expect("write a note");
        let same = folder.join(format!("{foreign}.img"));
        std::fs::write(&same, "has the token in its name").expect("write a file");
        let before = names(folder);
        open(folder).sweep();
        assert_eq!(names(folder), before);
    }

    /// A file without a name disappears, and one that gets a name replaces nothing.
    #[test]
    fn a_file_gets_its_name_only_when_complete() {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = temp.path();
        drop(Unfinished::create(open(folder)).expect("make a file"));
        let (mut file, unfinished) = Unfinished::create(open(folder)).expect("make a file");
        file.write_all(b"complete").expect("write it");
        let path = folder.join("name");
        unfinished.give_name(&file, "name".as_ref()).expect("give it its name");
        assert_eq!(std::fs::read(&path).expect("read it"), b"complete");
        let (other, unfinished) = Unfinished::create(open(folder)).expect("make a file");
        assert!(unfinished.give_name(&other, "name".as_ref()).is_err(), "it replaced a file");
        drop((file, other, unfinished));
        assert_eq!(names(folder), ["name"]);
        assert_eq!(std::fs::read(&path).expect("read it"), b"complete");
    }

    /// Replacing the opened folder has no effect.
    #[test]
    fn replacing_the_folder_has_no_effect() {
        let temp = tempfile::tempdir().expect("a folder");
        let (folder, moved) = (temp.path().join("folder"), temp.path().join("moved"));
        std::fs::create_dir(&folder).expect("make it");
        let (file, unfinished) = Unfinished::create(open(&folder)).expect("make a file");
        std::fs::rename(&folder, &moved).expect("move it away");
        std::fs::create_dir(&folder).expect("make another");
        unfinished.give_name(&file, "name".as_ref()).expect("give it its name");
        assert_eq!((names(&folder), names(&moved)), (vec![], vec!["name".to_owned()]));
    }

    #[test]
    fn the_name_of_a_new_file_is_the_last_part_of_its_path() {
        for (path, name) in [("a/b", "b"), ("b", "b"), ("/b", "b"), ("a/", ""), ("/", "")] {
            assert_eq!(name_of(Path::new(path)), name, "{path}");
        }
    }

    /// A child does not delete a note of its parent, nor the file that the note is about.
    #[test]
    fn a_child_leaves_temporary_files_to_its_parent() {
        let folder = tempfile::tempdir().expect("a folder");
        let opened = Folder::open(folder.path()).expect("open");
        let count = || folder.path().read_dir().expect("list").count();
        let mut note = Note::write(&opened, &Token::new(), "file").expect("write");
        assert!(in_child(|| note.take().is_some()));
        assert_eq!(count(), 1);
        drop(note);
        assert_eq!(count(), 0);
    }
}
