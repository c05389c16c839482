//! Finds who uses a file or a device. Subjects are identified by device number and inode: a hard link, a bind
//! mount or another node of a device is the same subject.
//!
//! A user of a partition counts as a user of its disk, and a user of the whole disk as one of each partition.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, major, makedev, minor};

use crate::storage::device::{Member, family};
use crate::storage::mounts::{mounts_of, unescape};
use crate::storage::system;

/// How long to wait for programs that open every new device for a moment.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(100);

/// A file or a device, as the kernel identifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// The device of its file system, and its inode.
    File(u64, u64),
    /// The numbers of a device, and of those that share its sectors.
    Devices(Vec<u64>),
}

impl Subject {
    pub(super) fn of(found: &Metadata) -> Self {
        if !found.file_type().is_block_device() {
            return Subject::File(found.dev(), found.ino());
        }
        let own = found.rdev();
        let members = overlapping(own);
        let numbers = members.iter().map(|member| member.number).filter(|number| *number != own);
        Subject::Devices(std::iter::once(own).chain(numbers).collect())
    }

    fn has(&self, found: &Metadata) -> bool {
        match self {
            Subject::File(device, inode) => (found.dev(), found.ino()) == (*device, *inode),
            Subject::Devices(numbers) => {
                found.file_type().is_block_device() && numbers.contains(&found.rdev())
            }
        }
    }

    /// A user that does not have it open in a process, in words that follow `it is`.
    pub(super) fn user(&self) -> Option<String> {
        let mounted =
            || mounted_at(self).map(|place| format!("mounted at {place}; unmount it first"));
        let others = || swap(self).or_else(|| loop_device(self)).or_else(|| holder(self));
        mounted().or_else(|| others().map(|user| format!("in use as {user}")))
    }
}

impl Subject {
    /// Another process that has it open for writing, if this process may see it. Waits a little for programs
    /// that open every new device for a moment.
    pub(super) fn opener(&self) -> Option<String> {
        let began = Instant::now();
        loop {
            let opener = self.opener_now()?;
            if began.elapsed() > PATIENCE {
                return Some(opener);
            }
            std::thread::sleep(POLL);
        }
    }

    fn opener_now(&self) -> Option<String> {
        let own = std::process::id();
        for entry in Path::new("/proc").read_dir().into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(number) = number.filter(|number| *number != own) else { continue };
            let process = entry.path();
            let open = process.join("fd").read_dir().into_iter().flatten().flatten();
            if open.map(|open| open.path()).any(|open| self.is_open_as(&process, &open)) {
                let name = system::read(&process.join("comm")).unwrap_or_default();
                let name: String = name
                    .trim_end()
                    .chars()
                    .filter(|c| !crate::base::escape::is_unsafe(*c))
                    .collect();
                return Some(format!("process {number} ({name})"));
            }
        }
        None
    }

    /// Looks up an open file only if it may be this one: a file system that does not answer would block the lookup.
    fn is_open_as(&self, process: &Path, open: &Path) -> bool {
        let about = open.file_name().map(|number| process.join("fdinfo").join(number));
        let about = about.and_then(|about| system::read(&about)).unwrap_or_default();
        let told = |name| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let may_be = match self {
            Subject::File(_, inode) => told("ino:").is_none_or(|told| told == inode.to_string()),
            Subject::Devices(_) => open.read_link().is_ok_and(|path| path.starts_with("/dev")),
        };
        let flags = told("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
        // Without known flags, assume that it is open for writing.
        let writes = flags.is_none_or(|flags| flags & OFlags::RWMODE.bits() != 0);
        writes && may_be && open.metadata().is_ok_and(|found| self.has(&found))
    }
}

/// The device, and those that share sectors with it.
fn overlapping(number: u64) -> Vec<Member> {
    let members = family(number);
    let is_disk = members.first().is_some_and(|disk| disk.number == number);
    let disk = members.first().map(|disk| disk.number);
    let counts =
        |member: &Member| is_disk || member.number == number || Some(member.number) == disk;
    members.into_iter().filter(counts).collect()
}

/// Where a device is mounted, in the mount namespaces of all processes that this one may see.
fn mounted_at(subject: &Subject) -> Option<String> {
    let Subject::Devices(numbers) = subject else { return None };
    let own = Path::new("/proc/self");
    if let Some(place) = mounted_in(own, subject, numbers) {
        return Some(place);
    }
    let mut seen = vec![own.join("ns/mnt").read_link().ok()?];
    for entry in Path::new("/proc").read_dir().into_iter().flatten().flatten() {
        let process = entry.path();
        let Ok(namespace) = process.join("ns/mnt").read_link() else { continue };
        if seen.contains(&namespace) {
            continue;
        }
        seen.push(namespace);
        if let Some(place) = mounted_in(&process, subject, numbers) {
            let number = entry.file_name().to_string_lossy().into_owned();
            return Some(format!("{place} in the mount namespace of process {number}"));
        }
    }
    None
}

fn mounted_in(process: &Path, subject: &Subject, numbers: &[u64]) -> Option<String> {
    mounts_of(process).ok()?.into_iter().find_map(|mount| {
        // A file system on several devices has a number of its own.
        let is_source = || {
            mount.source.is_absolute()
                && mount.source.metadata().is_ok_and(|found| subject.has(&found))
        };
        let found = numbers.contains(&mount.device) || is_source();
        found.then(|| mount.path.display().to_string())
    })
}

fn swap(subject: &Subject) -> Option<String> {
    let text = system::read(Path::new("/proc/swaps"))?;
    let mut paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let found = paths
        .any(|path| unescape(path.as_bytes()).metadata().is_ok_and(|found| subject.has(&found)));
    found.then(|| "swap".to_owned())
}

/// The loop device whose backing file or device this is.
fn loop_device(subject: &Subject) -> Option<String> {
    let devices = Path::new("/sys/block").read_dir().into_iter().flatten().flatten();
    devices
        .map(|entry| entry.path())
        .filter(|folder| folder.join("loop/backing_file").exists())
        .find(|folder| {
            let by_name = system::read(&folder.join("loop/backing_file")).is_some_and(|path| {
                Path::new(path.trim_end_matches('\n'))
                    .metadata()
                    .is_ok_and(|found| subject.has(&found))
            });
            by_name || LoopStatus::of(folder).is_some_and(|status| status.is_over(subject))
        })
        .and_then(|folder| Some(format!("the loop device /dev/{}", folder.file_name()?.to_str()?)))
}

/// The backing file of a loop device, by inode, whatever its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoopStatus {
    device: u64,
    inode: u64,
    /// Only for a backing device: its number.
    number: u64,
}

impl LoopStatus {
    /// For the loop device with this number; `None` for other devices.
    pub(super) fn of_device(number: u64) -> Option<Self> {
        let own = overlapping(number);
        own.iter().find_map(|member| Self::of(&member.folder))
    }

    /// Source: `loop(4)`, `LOOP_GET_STATUS64`.
    #[expect(unsafe_code, reason = "only this call returns the inode")]
    fn of(folder: &Path) -> Option<Self> {
        const LOOP_GET_STATUS64: rustix::ioctl::Opcode = 0x4c05;
        /// `struct loop_info64`, which begins with device, inode and device number.
        type LoopInfo = [u64; 29];
        let path = Path::new("/dev").join(folder.file_name()?);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        if !folder.join("loop").exists() || !file.metadata().ok()?.file_type().is_block_device() {
            return None;
        }
        // SAFETY: the device is a loop device, which knows this call, and the call writes 232 bytes of plain numbers.
        let info: LoopInfo = unsafe {
            rustix::ioctl::ioctl(&file, rustix::ioctl::Getter::<LOOP_GET_STATUS64, LoopInfo>::new())
        }
        .ok()?;
        let [device, inode, number, ..] = info;
        Some(LoopStatus { device: decode(device), inode, number: decode(number) })
    }

    fn is_over(self, subject: &Subject) -> bool {
        match subject {
            Subject::File(device, inode) => (self.device, self.inode) == (*device, *inode),
            Subject::Devices(numbers) => self.number != 0 && numbers.contains(&self.number),
        }
    }

    /// Whether it is the backing file of the loop device.
    pub(super) fn is_over_file(self, file: (u64, u64)) -> bool {
        (self.device, self.inode) == file
    }
}

/// Decodes a device number in such a structure of the kernel.
fn decode(number: u64) -> u64 {
    let major = (number & 0xfff00) >> 8;
    let minor = (number & 0xff) | ((number >> 12) & 0xfff00);
    makedev(major as u32, minor as u32)
}

/// What the kernel has built on a device: LVM, RAID, encryption.
fn holder(subject: &Subject) -> Option<String> {
    let Subject::Devices(numbers) = subject else { return None };
    numbers.iter().find_map(|number| {
        let place = format!("/sys/dev/block/{}:{}", major(*number), minor(*number));
        let holder = Path::new(&place).join("holders").read_dir().ok()?.flatten().next()?;
        let name = system::read(&holder.path().join("dm/name"));
        let device = holder.file_name().to_string_lossy().into_owned();
        Some(match name {
            Some(name) => format!("a part of {device} ({})", name.trim_end()),
            None => format!("a part of {device}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decoded numbers of devices with large minors equal those of `stat`.
    #[test]
    fn device_numbers_are_those_of_stat() {
        assert_eq!(decode(0x0701), makedev(7, 1));
        assert_eq!(decode((259 << 8) | 0x12 | (0x345 << 20)), makedev(259, 0x34512));
    }
}
