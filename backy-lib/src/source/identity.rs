//! What identifies a file or a block device. Unknown facts are left out.
//!
//! Read from the first bytes of the source and the kernel's own files: no other program, and no database that
//! may be out of date.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};

use super::Source;
use crate::format::disk::{self, HEAD_BYTES};
use crate::format::manifest::SourceIdentity;

/// Longest part of a kernel file that is read.
const MAX_SYSTEM_BYTES: u64 = 4096;

/// The identity of an open file or device at `path`. With `by_content`, the disk or file that currently has
/// the content does not count.
pub(super) fn identify(
    source: &dyn Source,
    file: &File,
    (path, kind): (&Path, &str),
    by_content: bool,
) -> SourceIdentity {
    let mut identity = SourceIdentity::new(path.display().to_string(), kind);
    add_content(&mut identity, source);
    if by_content {
        return identity;
    }
    match file.metadata() {
        Ok(found) if found.is_file() => add_file(&mut identity, file),
        Ok(found) => {
            let number = format!("{}:{}", major(found.rdev()), minor(found.rdev()));
            add_device(&mut identity, &Path::new("/sys/dev/block").join(number));
        }
        Err(_) => {}
    }
    identity
}

pub(super) fn add_content(identity: &mut SourceIdentity, source: &dyn Source) {
    let len = source.size_bytes().min(HEAD_BYTES as u64);
    let mut head = vec![0; len as usize];
    // If the beginning cannot be read, the backup itself will report it.
    let Ok(found) = source.read_at(&mut head, 0) else { return };
    head.truncate(found);
    identity.partition_table_uuid = disk::partition_table_uuid(&head);
    identity.file_system_uuid = disk::file_system_uuid(&head);
    if let Some(container) = disk::container(&head) {
        identity.container = Some(container.format.to_owned());
        identity.backing_file = container.backing_file;
    }
}

fn add_file(identity: &mut SourceIdentity, file: &File) {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let Ok(found) = statx(file, "", AtFlags::EMPTY_PATH, wanted) else { return };
    let knows = |flag: StatxFlags| found.stx_mask & flag.bits() != 0;
    identity.inode = knows(StatxFlags::INO).then_some(found.stx_ino);
    let born = || Timestamp::new(found.stx_btime.tv_sec, found.stx_btime.tv_nsec as i32).ok();
    identity.born = knows(StatxFlags::BTIME).then(born).flatten();
}

/// From the kernel's folder for a block device.
fn add_device(identity: &mut SourceIdentity, folder: &Path) {
    let Ok(folder) = folder.canonicalize() else { return };
    let is_partition = folder.join("partition").exists();
    let disk = folder.parent().filter(|_| is_partition).unwrap_or(&folder);
    if is_partition {
        let uevent = system_text(&folder.join("uevent")).unwrap_or_default();
        let uuid = uevent.lines().find_map(|line| line.strip_prefix("PARTUUID="));
        identity.partition_uuid = uuid.map(str::to_owned);
    }
    let first = |names: &[&str]| names.iter().find_map(|name| system_text(&disk.join(name)));
    identity.wwid = first(&["wwid", "device/wwid"]);
    identity.serial = first(&["serial", "device/serial", "device/cid"]);
    identity.loop_file = system_text(&disk.join("loop/backing_file"));
    identity.dm_uuid = origin_of(disk).or_else(|| system_text(&disk.join("dm/uuid")));
}

/// The volume that an LVM snapshot was made of.
fn origin_of(disk: &Path) -> Option<String> {
    let below = disk.join("slaves").read_dir().ok()?.flatten();
    below.filter_map(|entry| system_text(&entry.path().join("dm/uuid"))).find_map(|uuid| {
        let origin = uuid.strip_prefix("LVM-")?.strip_suffix("-real")?;
        Some(format!("LVM-{origin}"))
    })
}

/// A line of a kernel file; `None` if the file is missing or empty.
fn system_text(path: &PathBuf) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_SYSTEM_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    // Some are padded with blanks or zero bytes.
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}
