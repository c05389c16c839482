//! A path, followed one part at a time.
//!
//! The kernel follows a path in one call; this module does it in steps. So the caller can check each folder and each
//! symbolic link on the way, and the next step starts from exactly what was checked: nobody can put another link in
//! its place in between. The caller decides which of them may be passed: [`Place::find`] takes its judgement,
//! [`Place::find_by_own_links`] has the rule for sources and targets.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fstat, openat, readlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::geteuid;

use super::dir::{metadata, not_in_time, open_in_time};
use super::identity::{is_local, kind};
use crate::base::error::describe_io;

/// The most symbolic links that the kernel follows in one path.
const MAX_LINKS: u32 = 40;

/// Why a path was not followed to its end.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The system refuses to look it up.
    Io(io::Error),
    /// A part of it belongs to somebody else, or can be changed by somebody else.
    Foreign {
        /// The folder, the link or the file.
        part: PathBuf,
        /// The problem with it, such as `it belongs to user 1000`.
        found: String,
    },
}

impl Refusal {
    /// The same as a sentence about a path that it is a part of; `action` is what the system was asked to do.
    pub(crate) fn sentence(&self, action: &str) -> String {
        match self {
            Refusal::Io(error) => format!("cannot {action}: {}", describe_io(error)),
            Refusal::Foreign { part, found } => format!(
                "{found}: {}; others could point it elsewhere, so backy does not follow it: name its target",
                part.display()
            ),
        }
    }
}

/// What [`Place::open`] found instead of the file that it was to open.
pub(crate) fn describe_open(errno: Errno) -> String {
    match errno {
        Errno::STALE => "it was replaced meanwhile; run it again".to_owned(),
        errno => describe_io(&not_in_time(errno)),
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal::Io(errno.into())
    }
}

/// What a path leads to, or a step on the way there.
pub(crate) struct Place {
    /// Without symbolic links, except those of `/proc`.
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    /// Open without a right to read it.
    itself: File,
    /// `NOFOLLOW`, unless the name is a link of `/proc`, which leads to something that no path names.
    follow: OFlags,
    found: Stat,
}

impl Place {
    /// Follows a path. `judge` sees everything on the way, the root of the file system first; its second argument is
    /// true for what the path leads to.
    pub(crate) fn find(
        path: &Path,
        judge: &mut dyn FnMut(&Place, bool) -> Result<(), Refusal>,
    ) -> Result<Self, Refusal> {
        let path = std::path::absolute(path).map_err(Refusal::Io)?;
        // A path that the kernel would refuse fails with the kernel's own error, and a file system that it mounts on
        // demand is mounted from now on.
        retry_on_intr(|| rustix::fs::stat(&path))?;
        Walk { rest: parts(&path).collect(), links: 0 }.run(judge)
    }

    /// Follows a path as long as its links belong to root or the caller: nobody knows where others' links may lead
    /// the next moment.
    pub(crate) fn find_by_own_links(path: &Path) -> Result<Self, Refusal> {
        let caller = geteuid().as_raw();
        Place::find(path, &mut |place, _| {
            let owner = place.found.st_uid;
            match place.kind() == FileType::Symlink && ![0, caller].contains(&owner) {
                true => Err(Refusal::Foreign {
                    part: place.path.clone(),
                    found: format!("this symbolic link belongs to user {owner}"),
                }),
                false => Ok(()),
            }
        })
    }

    /// Where it is, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel got there through a link of `/proc`, past folders that nobody has checked.
    pub(super) fn is_beyond_proc(&self) -> bool {
        !self.follow.contains(OFlags::NOFOLLOW)
    }

    /// Its metadata when it was found.
    pub(crate) fn found(&self) -> &Stat {
        &self.found
    }

    /// The same, as it is now, even if something else has its name.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        metadata(&self.itself)
    }

    /// What kind of thing it was when it was found.
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.found.st_mode)
    }

    /// Opens exactly what was found.
    ///
    /// # Errors
    /// `STALE` if something else has its name now.
    pub(crate) fn open(&self, flags: OFlags) -> rustix::io::Result<File> {
        let flags = flags | self.follow | OFlags::CLOEXEC;
        let file = open_in_time(|| openat(&self.folder, &self.name, flags, Mode::empty()));
        // It is a symbolic link now.
        let file = file.map_err(|errno| if errno == Errno::LOOP { Errno::STALE } else { errno })?;
        if is_same(&self.found, &file)? { Ok(File::from(file)) } else { Err(Errno::STALE) }
    }
}

/// Whether an open file is the one that was found.
fn is_same(found: &Stat, file: &OwnedFd) -> rustix::io::Result<bool> {
    let opened = retry_on_intr(|| fstat(file))?;
    let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
    let is_same_file = (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino);
    // Elsewhere the same file may get another number.
    Ok((kind(found), found.st_rdev) == (kind(&opened), opened.st_rdev)
        && (is_same_file || !is_local(file)))
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

struct Walk {
    /// The parts that remain to be followed.
    rest: VecDeque<OsString>,
    links: u32,
}

/// A folder on the way.
struct Here {
    fd: OwnedFd,
    path: PathBuf,
}

impl Here {
    fn root() -> rustix::io::Result<Self> {
        let fd = retry_on_intr(|| rustix::fs::open("/", FOLDER, Mode::empty()))?;
        Ok(Here { fd, path: PathBuf::from("/") })
    }

    fn above(&self) -> rustix::io::Result<Self> {
        let fd = retry_on_intr(|| openat(&self.fd, "..", FOLDER, Mode::empty()))?;
        Ok(Here { fd, path: self.path.parent().unwrap_or(Path::new("/")).to_owned() })
    }

    /// The folder itself, as a place.
    fn place(&self) -> rustix::io::Result<Place> {
        let found = retry_on_intr(|| fstat(&self.fd))?;
        let (folder, itself) = (copy(&self.fd)?, File::from(copy(&self.fd)?));
        let (path, name) = (self.path.clone(), ".".into());
        Ok(Place { path, folder, name, itself, follow: OFlags::NOFOLLOW, found })
    }
}

/// For folders that are only passed, which needs no right to read them.
const PASSING: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const FOLDER: OFlags = PASSING.union(OFlags::DIRECTORY);

impl Walk {
    fn run(
        mut self,
        judge: &mut dyn FnMut(&Place, bool) -> Result<(), Refusal>,
    ) -> Result<Place, Refusal> {
        let mut here = Here::root()?;
        judge(&here.place()?, false)?;
        while let Some(name) = self.rest.pop_front() {
            if name == ".." {
                here = here.above()?;
                judge(&here.place()?, false)?;
                continue;
            }
            let place = look(&here, name, OFlags::NOFOLLOW)?;
            let is_link = place.kind() == FileType::Symlink;
            judge(&place, self.rest.is_empty() && !is_link)?;
            let place = match is_link {
                // Only the kernel knows where it leads.
                true if kind(&here.fd) == Some(PROC_SUPER_MAGIC as u32) => {
                    self.count_link()?;
                    let place = look(&here, place.name, OFlags::empty())?;
                    judge(&place, self.rest.is_empty())?;
                    place
                }
                true => {
                    self.count_link()?;
                    let target = retry_on_intr(|| readlinkat(&place.itself, "", Vec::new()))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        here = Here::root()?;
                    }
                    for part in parts(&target).rev() {
                        self.rest.push_front(part);
                    }
                    continue;
                }
                false => place,
            };
            if self.rest.is_empty() {
                return Ok(place);
            }
            if place.kind() != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
            here = Here { fd: place.itself.into(), path: place.path };
        }
        // The path, or a link at its end, ends with '..' or is '/'.
        let place = here.place()?;
        judge(&place, true)?;
        Ok(place)
    }

    fn count_link(&mut self) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS { Err(Errno::LOOP) } else { Ok(()) }
    }
}

fn look(here: &Here, name: OsString, follow: OFlags) -> rustix::io::Result<Place> {
    let itself = retry_on_intr(|| openat(&here.fd, &name, PASSING | follow, Mode::empty()))?;
    let found = retry_on_intr(|| fstat(&itself))?;
    let (path, folder) = (here.path.join(&name), copy(&here.fd)?);
    Ok(Place { path, folder, name, itself: itself.into(), follow, found })
}

fn copy(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(fd, 0)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "makes what is followed")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn find(path: &Path) -> Result<Place, Refusal> {
        Place::find(path, &mut |_, _| Ok(()))
    }

    /// A path leads to where the kernel would go: with links in any place, absolute or not, and with names for the
    /// folder itself and the one above.
    #[test]
    fn a_path_leads_where_the_kernel_says() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "x").unwrap();
        symlink("b/file", at("a/relative")).unwrap();
        symlink(at("a/b"), at("absolute")).unwrap();
        symlink("absolute/../relative", at("long")).unwrap();
        symlink("..", at("a/b/up")).unwrap();
        symlink("/", at("root")).unwrap();
        for name in [
            "a/b/file",
            "a/b",
            "a/relative",
            "absolute",
            "absolute/file",
            "long",
            "a/b/up",
            "a/b/up/b/file",
            "root",
            "root/etc",
            "a/..",
            "a/./b//",
            "a/b/../../absolute/up/relative",
        ] {
            let place = find(&at(name)).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
            let expected = at(name).canonicalize().unwrap();
            assert_eq!(place.path(), expected, "{name}");
            assert!(place.open(OFlags::RDONLY).is_ok(), "{name}");
        }
        let place = find(Path::new("/")).unwrap();
        assert_eq!(place.path(), Path::new("/"));
    }

    /// A path that the kernel does not follow is not followed here either, for the same reason.
    #[test]
    fn a_path_that_leads_nowhere_is_an_error_of_the_system() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        for name in ["none", "dangling", "loop", "file/", "file/x", "loop/x"] {
            let expected = at(name).metadata().map(drop).unwrap_err();
            let Err(Refusal::Io(found)) = find(&at(name)) else { panic!("{name} was found") };
            assert_eq!(found.raw_os_error(), expected.raw_os_error(), "{name}");
        }
    }

    /// `judge` sees each step once, and which of them is the last.
    #[test]
    fn all_that_is_passed_is_shown() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        symlink("a", real.join("link")).unwrap();
        let mut shown = Vec::new();
        let place = Place::find(&real.join("link/b"), &mut |place, is_last| {
            shown.push((place.path().to_owned(), is_last));
            Ok(())
        });
        assert_eq!(place.unwrap().path(), real.join("a/b"));
        let mut above: Vec<_> = real.ancestors().map(|path| (path.to_owned(), false)).collect();
        above.reverse();
        let below = [("link", false), ("a", false), ("a/b", true)];
        let below = below.map(|(name, is_last)| (real.join(name), is_last));
        assert_eq!(shown, [above, below.to_vec()].concat());
    }

    /// Does not open what has taken the place of what was found: another file, a link, something of another kind.
    #[test]
    fn only_what_was_found_is_opened() {
        let puts: [fn(&Path); 3] = [
            |path| std::fs::write(path, "another").unwrap(),
            |path| symlink("old", path).unwrap(),
            |path| std::fs::create_dir(path).unwrap(),
        ];
        for (number, put) in puts.into_iter().enumerate() {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("name");
            std::fs::write(&path, "first").unwrap();
            let place = find(&path).unwrap();
            assert!(place.open(OFlags::RDONLY).is_ok());
            std::fs::rename(&path, temp.path().join("old")).unwrap();
            put(&path);
            match place.open(OFlags::RDONLY) {
                Err(errno) => assert_eq!(errno, Errno::STALE, "{number}"),
                // Where inode numbers mean nothing, only another kind of thing is noticed.
                Ok(opened) => assert!(number == 0 && !is_local(&opened), "{number} was opened"),
            }
        }
    }

    /// A link of `/proc` leads to what it stands for, even if that has no name any more.
    #[test]
    fn links_of_proc_lead_to_open_files() {
        use std::os::fd::AsRawFd;
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"without a name").unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let place = find(&path).unwrap();
        assert!(place.is_beyond_proc());
        let opened = place.open(OFlags::RDONLY).unwrap();
        assert_eq!(io::read_to_string(opened).unwrap(), "without a name");
    }
}
