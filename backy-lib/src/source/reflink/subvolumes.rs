//! Comparing two clones on btrfs by `btrfs send`, which knows what differs in compressed parts, too.
//!
//! It compares subvolumes. So each clone is cloned once more, into a subvolume that has nothing else; the second one
//! is a snapshot of the first, so that both are the same file for btrfs. They are beside the clones, called after the
//! mark, and removed with the marks. Making them takes no space for data.

use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, fstat, fstatfs, ftruncate, ioctl_ficlone, openat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::thread::{CapabilitySet, capabilities};

use super::marks::{Folder, MODE, is_clone};
use super::send_stream;
use crate::base::error::{Error, Result, describe_io};
use crate::base::extent::Extent;
use crate::base::mark::{ArchiveId, MarkName};
use crate::source::program::Program;

const BTRFS: Program = Program { name: "btrfs", package: "btrfs-progs" };

/// How long a command may take.
const WITHIN: Duration = Duration::from_secs(5 * 60);

/// How long the comparison may take: it looks at each extent, of which 10 TiB have up to 84 million.
const SEND_WITHIN: Duration = Duration::from_secs(60 * 60);

/// What each subvolume is called behind the name of the mark.
const ENDINGS: [&str; 2] = [".old", ".new"];

/// The file in each of them.
pub(super) const FILE: &str = "image";

/// `BTRFS_SUPER_MAGIC`; `linux/magic.h`.
const MAGIC: u32 = 0x9123_683e;

/// The inode of the root of a subvolume; `BTRFS_FIRST_FREE_OBJECTID` in `linux/btrfs_tree.h`.
const ROOT_INODE: u64 = 256;

type Answer<T> = std::result::Result<T, String>;

impl Folder {
    pub(super) fn is_on_btrfs(&self) -> bool {
        fstatfs(&self.fd).is_ok_and(|found| found.f_type as u32 == MAGIC)
    }

    /// What differs between the clones of an earlier mark and of this one, ascending. Holes behind the end of the
    /// earlier one are not listed.
    ///
    /// # Errors
    /// A sentence: why that is not found out.
    pub(super) fn differences(
        &self,
        name: MarkName,
        old: &File,
        new: &File,
    ) -> Answer<Vec<Extent>> {
        if !capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_ADMIN)) {
            return Err("'btrfs send' needs root with CAP_SYS_ADMIN".to_owned());
        }
        let [before, after] = ENDINGS.map(|ending| format!("{name}{ending}"));
        self.btrfs(&["subvolume", "create"], &[&before])?;
        self.fill(&before, old)?;
        self.btrfs(&["subvolume", "snapshot"], &[&before, &after])?;
        let size = self.fill(&after, new)?;
        for subvolume in [&before, &after] {
            self.set_read_only(subvolume, true)?;
        }
        let words = self.words(&["send", "--no-data", "-q", "-p"], &[&before, &after]);
        let read = move |pipe| send_stream::differences(BufReader::new(pipe), FILE, size);
        BTRFS.run_reading(&words, SEND_WITHIN, read)
    }

    /// Puts a clone into a subvolume; returns its size in bytes.
    fn fill(&self, subvolume: &str, clone: &File) -> Answer<u64> {
        let put = || {
            let folder = self.subvolume(subvolume)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = retry_on_intr(|| openat(&folder, FILE, flags, Mode::from_raw_mode(MODE)))?;
            let size = fstat(clone)?.st_size as u64;
            ftruncate(&file, size)?;
            retry_on_intr(|| ioctl_ficlone(&file, clone))?;
            Ok(size)
        };
        put().map_err(|errno: Errno| {
            let path = self.path.join(subvolume);
            format!("cannot clone it into {}: {}", path.display(), describe_io(&errno.into()))
        })
    }

    /// Opens a subvolume.
    fn subvolume(&self, name: &str) -> rustix::io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = retry_on_intr(|| openat(&self.fd, name, flags, Mode::empty()))?;
        match fstat(&folder)?.st_ino {
            ROOT_INODE => Ok(folder.into()),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn set_read_only(&self, subvolume: &str, is_read_only: bool) -> Answer<()> {
        let mut words = self.words(&["property", "set", "-t", "subvol"], &[subvolume]);
        words.extend(["ro".into(), is_read_only.to_string().into()]);
        BTRFS.run(&words, WITHIN).map(drop)
    }

    fn btrfs(&self, command: &[&str], subvolumes: &[&str]) -> Answer<()> {
        BTRFS.run(&self.words(command, subvolumes), WITHIN).map(drop)
    }

    /// A command, and the paths of subvolumes.
    fn words(&self, command: &[&str], subvolumes: &[&str]) -> Vec<OsString> {
        let paths = subvolumes.iter().map(|name| self.path.join(name).into_os_string());
        command.iter().map(Into::into).chain(paths).collect()
    }

    /// Removes the subvolumes of an archive, whichever mark they are called after.
    pub(super) fn remove_subvolumes(&self, archive: ArchiveId) -> Result<()> {
        let mut left = None;
        for name in self.entries()? {
            let mark = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
            let mark = mark.and_then(|mark| mark.parse::<MarkName>().ok());
            if mark.is_none_or(|mark| mark.archive != archive) {
                continue;
            }
            if let Err(message) = self.remove_subvolume(&name) {
                let path = self.path.join(name);
                left.get_or_insert(Error::Source { path, message });
            }
        }
        left.map_or(Ok(()), Err)
    }

    /// Removes a subvolume that has a clone and nothing else.
    fn remove_subvolume(&self, name: &str) -> Answer<()> {
        let said = |errno: Errno| format!("cannot be removed: {}", describe_io(&errno.into()));
        let folder = match self.subvolume(name) {
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_ours("no subvolume")),
            opened => opened.map_err(said)?,
        };
        let mut has_file = false;
        for entry in Dir::read_from(&folder).map_err(said)? {
            match entry.map_err(said)?.file_name().to_bytes() {
                b"." | b".." => {}
                entry if entry == FILE.as_bytes() => has_file = true,
                entry => {
                    return Err(not_ours(
                        &String::from_utf8_lossy(entry).escape_debug().to_string(),
                    ));
                }
            }
        }
        if has_file {
            let found = statat(&folder, FILE, AtFlags::SYMLINK_NOFOLLOW).map_err(said)?;
            if !is_clone(&found) {
                return Err(not_ours(&format!("{FILE} with mode {:o}", found.st_mode)));
            }
            self.set_read_only(name, false)?;
            unlinkat(&folder, FILE, AtFlags::empty()).map_err(said)?;
        }
        drop(folder);
        // As for any folder, that works only if it is empty.
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            done => done.map_err(said),
        }
    }
}

/// Something has the name of a subvolume, but backy did not make it.
fn not_ours(found: &str) -> String {
    format!(
        "found {found}, expected a subvolume with nothing but a clone called {FILE}; it stays; delete it yourself if \
         nobody needs it"
    )
}
