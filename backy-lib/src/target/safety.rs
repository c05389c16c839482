//! Decides whether a restore may write to a target, and refuses if that would destroy something.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access, OFlags, major, minor};
use rustix::io::Errno;

use crate::base::digest::is_zero;
use crate::base::error::{Error, Result, describe_io};
use crate::base::progress::{self, Observer, Phase};
use crate::storage::device::Device;
use crate::storage::follow::{Place, Refusal, describe_open};
use crate::storage::image_lock::{self, Use};
use crate::storage::system;
use crate::target::FileTarget;
use crate::target::folder_of;
use crate::target::in_use::{LoopStatus, Subject};

/// The facts for judging a target.
#[derive(Clone, Copy)]
pub struct Guard<'a> {
    /// The archive's folder.
    pub archive: &'a Path,
    /// The configured source, which needs no `force`.
    pub source: Option<&'a Path>,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Whether to overwrite existing data.
    pub force: bool,
    /// Watches the search for data on a device.
    pub observer: &'a dyn Observer,
}

impl Guard<'_> {
    /// Opens an existing target for writing, or refuses it; `None` if nothing exists and a file may be
    /// created. Writes nothing.
    pub fn check(&self, path: &Path) -> Result<Option<FileTarget>> {
        let refuse = |message: String| refused(path, message, false);
        // Links are followed once, here, so that the target that was checked is the one written to.
        let place = match Place::find_by_own_links(path) {
            Ok(place) => place,
            Err(Refusal::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return self.check_new(path).map(|()| None);
            }
            Err(refusal) => return Err(not_followed(path, path, "look up", refusal)),
        };
        let found = place.metadata().map_err(Error::io(path, "look up"))?;
        // The destination of a link in `/proc` has another name.
        let real = place.path().canonicalize().map_err(Error::io(path, "look up"))?;
        if found.is_dir() {
            return Err(refuse("it is a folder; expected a file or a block device".to_owned()));
        }
        self.check_not_archive(path, &real, Some((found.dev(), found.ino())))?;
        if let Some(user) = Subject::of(&found).user() {
            return Err(refuse(format!("it is {user}")));
        }
        if let Some(user) = self.opener(&found) {
            return Err(refused(path, format!("{user} has it open for writing"), true));
        }
        if found.file_type().is_block_device() {
            return self.open_device(path, &place, &real, found.rdev()).map(Some);
        }
        if !found.is_file() {
            return Err(refuse("it is neither a regular file nor a block device".to_owned()));
        }
        if !self.force && !self.is_source(&real) {
            let message = "it exists already and is not the source".to_owned();
            return Err(refused(path, message, true));
        }
        let file = open_for_writing(path, &place, OFlags::empty())?;
        Ok(Some(FileTarget::existing(path, file, found.len())))
    }

    /// Whether a path leads to the configured source.
    pub(crate) fn is_source_at(&self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|real| self.is_source(&real))
    }

    /// Why the target at a path needs `force`, apart from data on a device.
    pub(crate) fn objection(&self, path: &Path) -> Result<Option<String>> {
        let found = path.metadata().map_err(Error::io(path, "look up"))?;
        if let Some(user) = Subject::of(&found).opener() {
            return Ok(Some(format!("{user} has it open for writing")));
        }
        Ok((!self.is_source_at(path)).then(|| "it is not the source".to_owned()))
    }

    /// Who has the target open, if it would be overwritten without `force`.
    fn opener(&self, found: &Metadata) -> Option<String> {
        if self.force { None } else { Subject::of(found).opener() }
    }

    fn check_new(&self, path: &Path) -> Result<()> {
        let refuse = |message: &str| refused(path, message.to_owned(), false);
        if path.file_name().is_none() || path.symlink_metadata().is_ok() {
            return Err(refuse("it is a symbolic link to nowhere, or no file name"));
        }
        let folder = folder_of(path);
        let place = Place::find_by_own_links(folder)
            .map_err(|refusal| not_followed(path, folder, "look up the folder", refusal))?;
        let real = place.path();
        self.check_not_archive(path, real, None)?;
        rustix::fs::access(real, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|errno| Error::io(path, "create")(errno.into()))
    }

    fn check_not_archive(
        &self,
        path: &Path,
        real: &Path,
        identity: Option<(u64, u64)>,
    ) -> Result<()> {
        let archive =
            self.archive.canonicalize().map_err(Error::io(self.archive, "look up the folder"))?;
        let entries = archive.read_dir().into_iter().flatten().flatten();
        let entries = entries.filter_map(|entry| entry.metadata().ok());
        let files: Vec<_> = entries.map(|found| (found.dev(), found.ino())).collect();
        let linked = identity.is_some_and(|identity| files.contains(&identity));
        let device = real.metadata().ok().filter(|found| found.file_type().is_block_device());
        let below = device.and_then(|found| LoopStatus::of_device(found.rdev()));
        if below.is_some_and(|below| files.iter().any(|file| below.is_over_file(*file))) {
            let archive = self.archive.display();
            let message = format!("it is a loop device over a file of the archive {archive}");
            return Err(refused(path, message, false));
        }
        if linked || real.starts_with(&archive) {
            let message = format!("it is in the archive {}", self.archive.display());
            return Err(refused(path, message, false));
        }
        Ok(())
    }

    fn is_source(&self, real: &Path) -> bool {
        self.source.and_then(|source| source.canonicalize().ok()).as_deref() == Some(real)
    }

    fn open_device(
        &self,
        path: &Path,
        place: &Place,
        real: &Path,
        device: u64,
    ) -> Result<FileTarget> {
        let number = format!("{}:{}", major(device), minor(device));
        // Opening it for writing would succeed; only the first write would fail.
        let read_only = system::read(Path::new(&format!("/sys/dev/block/{number}/ro")));
        if read_only.is_some_and(|flag| flag.trim_end() == "1") {
            return Err(refused(path, "it is read-only".to_owned(), false));
        }
        // The kernel opens a block device exclusively only if nobody else holds it.
        let file = open_for_writing(path, place, OFlags::EXCL)?;
        let failed = |error| Error::io(path, "open it past the page cache")(error);
        let device = Device::over(file).map_err(failed)?;
        // Data in other page caches must not overwrite later what is written now.
        device.sync_relatives();
        let len = device.len();
        if len < self.size_bytes {
            let message =
                format!("it is too small: found {len} bytes, expected {} or more", self.size_bytes);
            return Err(refused(path, message, false));
        }
        if !self.force
            && !self.is_source(real)
            && let Some(offset) =
                self.first_data(path, len, |buffer, offset| device.read_full(buffer, offset))?
        {
            let message = format!("it is not blank: there is data at offset {offset}");
            return Err(refused(path, message, true));
        }
        Ok(FileTarget::device(path, device))
    }

    /// Offset of the first byte other than zero. Reads the whole device if necessary: a guess could cost a disk.
    fn first_data(
        &self,
        path: &Path,
        len: u64,
        read: impl Fn(&mut [u8], u64) -> std::io::Result<usize>,
    ) -> Result<Option<u64>> {
        let counters = progress::begin_work(self.observer, Phase::CheckTarget, len)?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < len {
            progress::check(self.observer)?;
            let found = read(&mut buffer, offset).map_err(|error| {
                let error = describe_io(&error);
                let message = format!(
                    "it may not be blank: what is at offset {offset} cannot be read: {error}"
                );
                refused(path, message, true)
            })?;
            let part = buffer.get(..found).unwrap_or_default();
            if !is_zero(part) {
                let at = part.iter().position(|&byte| byte != 0).unwrap_or_default();
                return Ok(Some(offset + at as u64));
            }
            if found == 0 {
                break;
            }
            counters.add(found as u64);
            offset += found as u64;
        }
        Ok(None)
    }
}

fn refused(path: &Path, message: String, forcible: bool) -> Error {
    Error::Target { path: path.to_owned(), message, forcible }
}

/// Why `part`, the target or its folder, was not looked up.
fn not_followed(path: &Path, part: &Path, action: &str, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Io(error) => Error::io(part, action)(error),
        foreign => refused(path, foreign.sentence(action), false),
    }
}

fn open_for_writing(path: &Path, place: &Place, flags: OFlags) -> Result<File> {
    match place.open(flags | OFlags::RDWR) {
        Ok(file) => {
            image_lock::take(&file, Use::Overwrite).map_err(|user| {
                let message =
                    format!("{user} has it open, as its image locks show; end that first");
                refused(path, message, false)
            })?;
            Ok(file)
        }
        Err(Errno::BUSY) => {
            let message = "the system holds it: it, or a part of it, is mounted, swap, RAID or LVM";
            Err(refused(path, message.to_owned(), false))
        }
        Err(errno @ Errno::STALE) => Err(refused(path, describe_open(errno), false)),
        Err(errno) => Err(Error::io(path, "open for writing")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;

    /// An unreadable sector may hold anything: the device is not blank, and only `force` overwrites it.
    #[test]
    fn a_device_with_an_unreadable_sector_is_not_blank() {
        let guard = Guard {
            archive: Path::new("/a"),
            source: None,
            size_bytes: 0,
            force: false,
            observer: &Silent,
        };
        let len = 3 << 20;
        let blank = |buffer: &mut [u8], offset: u64| {
            buffer.fill(0);
            Ok(buffer.len().min((len - offset) as usize))
        };
        assert_eq!(guard.first_data(Path::new("/x"), len, blank).unwrap(), None);
        let bad = |buffer: &mut [u8], offset: u64| match offset {
            0 => blank(buffer, offset),
            _ => Err(Errno::IO.into()),
        };
        let error = guard.first_data(Path::new("/x"), len, bad).expect_err("a bad sector");
        assert!(matches!(error, Error::Target { forcible: true, .. }), "{error}");
        assert!(error.to_string().contains("at offset 1048576 cannot be read"), "{error}");
    }
}
