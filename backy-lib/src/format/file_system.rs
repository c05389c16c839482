//! Which file system begins in the first bytes of a disk or partition: its kind, its label, and when it was last
//! written to.
//!
//! This helps a person to recognise a disk. The bytes may be anything: this module leaves out what is not certain,
//! and follows no reference out of the bytes that were read.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// This many bytes contain everything that this module looks for, except the label of an NTFS.
pub const HEAD_BYTES: usize = super::disk::HEAD_BYTES;

/// The longest record of an NTFS to read.
const MAX_RECORD_BYTES: usize = 64 << 10;

/// A file system, swap space or volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Its name, as blkid(8) has it.
    pub kind: Cow<'static, str>,
    /// The name that somebody gave it.
    pub label: Option<String>,
    /// When it was last written to, if it records that.
    pub written: Option<Timestamp>,
}

/// The file system that begins with `head`. `read` returns other bytes of it, by offset and length; `None` if it
/// cannot.
pub fn find(head: &[u8], read: impl Fn(u64, usize) -> Option<Vec<u8>>) -> Option<FileSystem> {
    let has = |offset, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    let found = |kind, label| Some(FileSystem { kind: Cow::Borrowed(kind), label, written: None });
    let label = |offset, len| text(head.get(offset..offset + len)?);
    if has(0, b"LUKS\xba\xbe") {
        let version = head.get(7) == Some(&2);
        return found("crypto_LUKS", if version { label(24, 48) } else { None });
    }
    if has(0, b"XFSB") {
        return found("xfs", label(108, 12));
    }
    if has(0x10040, b"_BHRfS_M") {
        return found("btrfs", label(0x1_012b, 256));
    }
    if has(1024 + 56, &[0x53, 0xef]) {
        return Some(ext(head.get(1024..)?));
    }
    if (0..4).any(|sector| has(sector * 512, b"LABELONE")) {
        return found("LVM2_member", None);
    }
    if has(4086, b"SWAPSPACE2") {
        return found("swap", label(1052, 16));
    }
    if has(0x8001, b"CD001") {
        return found("iso9660", label(0x8028, 32));
    }
    if has(3, b"NTFS    ") {
        return found("ntfs", ntfs_label(head, read));
    }
    if has(3, b"EXFAT   ") {
        return found("exfat", None);
    }
    let unnamed = |label: &String| label != "NO NAME";
    match (has(82, b"FAT32"), has(54, b"FAT")) {
        (true, _) => found("vfat", label(71, 11).filter(unnamed)),
        (_, true) => found("vfat", label(43, 11).filter(unnamed)),
        _ => None,
    }
}

/// Source: kernel documentation, `filesystems/ext4/super.rst`.
fn ext(superblock: &[u8]) -> FileSystem {
    let word = |offset: usize| bytes(superblock, offset).map(u32::from_le_bytes).unwrap_or(0);
    let has_journal = word(0x5c) & 0x4 != 0;
    // Extents, 64 bit and flexible block groups.
    let kind = match word(0x60) & (0x40 | 0x80 | 0x200) {
        0 if has_journal => "ext3",
        0 => "ext2",
        _ => "ext4",
    };
    let high = superblock.get(0x274).copied().unwrap_or(0);
    let seconds = i64::from(word(0x30)) | i64::from(high) << 32;
    let written = Timestamp::from_second(seconds).ok().filter(|_| seconds > 0);
    let kind = Cow::Borrowed(kind);
    FileSystem { kind, label: superblock.get(0x78..0x88).and_then(text), written }
}

/// The attribute "volume name" of the fourth record of the table of files. Source: `fs/ntfs3/ntfs.h`.
fn ntfs_label(head: &[u8], read: impl Fn(u64, usize) -> Option<Vec<u8>>) -> Option<String> {
    const VOLUME_RECORD: u64 = 3;
    const VOLUME_NAME: u32 = 0x60;
    const END: u32 = u32::MAX;
    let sector_bytes = u64::from(u16::from_le_bytes(bytes(head, 11)?));
    let cluster_bytes = sector_bytes.checked_mul(u64::from(*head.get(13)?))?;
    let table = u64::from_le_bytes(bytes(head, 48)?).checked_mul(cluster_bytes)?;
    // A negative number is the exponent of the size in bytes; any other number is the size in clusters.
    let size = i8::from_le_bytes(bytes(head, 64)?);
    let record_bytes = match size.unsigned_abs() {
        exponent if size < 0 => 1_u64.checked_shl(exponent.into())?,
        clusters => cluster_bytes.checked_mul(clusters.into())?,
    };
    let len = usize::try_from(record_bytes).ok().filter(|len| *len <= MAX_RECORD_BYTES)?;
    let record = read(table.checked_add(record_bytes.checked_mul(VOLUME_RECORD)?)?, len)?;
    if !record.starts_with(b"FILE") {
        return None;
    }
    let mut at = usize::from(u16::from_le_bytes(bytes(&record, 20)?));
    // An attribute has at least 16 bytes, so this ends.
    loop {
        let kind = u32::from_le_bytes(bytes(&record, at)?);
        let len = usize::try_from(u32::from_le_bytes(bytes(&record, at + 4)?)).ok()?;
        match kind {
            VOLUME_NAME => {
                let name_bytes =
                    usize::try_from(u32::from_le_bytes(bytes(&record, at + 16)?)).ok()?;
                let start = at + usize::from(u16::from_le_bytes(bytes(&record, at + 20)?));
                let name = record.get(start..start.checked_add(name_bytes)?)?;
                let units =
                    name.chunks_exact(2).filter_map(|pair| Some([*pair.first()?, *pair.get(1)?]));
                let name = String::from_utf16(&units.map(u16::from_le_bytes).collect::<Vec<_>>());
                return name.ok().filter(|name| !name.is_empty());
            }
            END => return None,
            _ if len < 16 => return None,
            _ => at = at.checked_add(len)?,
        }
    }
}

/// A name that ends at the first zero byte, or is padded with blanks.
fn text(field: &[u8]) -> Option<String> {
    let name = field.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).trim_end().to_owned();
    (!name.is_empty()).then_some(name)
}

fn bytes<const N: usize>(from: &[u8], offset: usize) -> Option<[u8; N]> {
    from.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zeros with `parts` put into them.
    fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        for (offset, bytes) in parts {
            head[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    fn nothing_else(_: u64, _: usize) -> Option<Vec<u8>> {
        None
    }

    #[test]
    fn a_file_system_is_known_by_its_magic_and_named_by_its_label() {
        for (kind, magic, label_at) in [
            ("xfs", (0, &b"XFSB"[..]), 108),
            ("btrfs", (0x10040, b"_BHRfS_M"), 0x1_012b),
            ("ext2", (1080, &[0x53, 0xef]), 1024 + 120),
            ("swap", (4086, b"SWAPSPACE2"), 1052),
            ("iso9660", (0x8001, b"CD001"), 0x8028),
            ("vfat", (82, b"FAT32   "), 71),
            ("vfat", (54, b"FAT16   "), 43),
            ("crypto_LUKS", (0, b"LUKS\xba\xbe\0\x02"), 24),
        ] {
            let found = find(&head(&[magic, (label_at, b"my disk  ")]), nothing_else).expect(kind);
            assert_eq!((&*found.kind, found.label.as_deref()), (kind, Some("my disk")));
            assert_eq!(find(&head(&[magic]), nothing_else).expect(kind).label, None, "{kind}");
        }
        assert_eq!(find(&head(&[]), nothing_else), None);
        assert_eq!(find(b"XFSB", nothing_else).map(|found| found.label), Some(None));
    }

    #[test]
    fn ext4_says_when_it_was_last_written_to() {
        let extents = (1024 + 0x60, &[0x40, 0, 0, 0][..]);
        let written = (1024 + 0x30, &1_790_000_000_u32.to_le_bytes()[..]);
        let found = find(&head(&[(1080, &[0x53, 0xef]), extents, written]), nothing_else).unwrap();
        assert_eq!(found.kind, "ext4");
        assert_eq!(found.written.map(Timestamp::as_second), Some(1_790_000_000));
    }

    /// Whatever an NTFS claims about the place of its label, nothing else is read, and no more than a record.
    #[test]
    fn the_label_of_an_ntfs_is_in_its_table_of_files() {
        let name: Vec<u8> = "Bärlin".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut record = vec![0; 1024];
        record[..4].copy_from_slice(b"FILE");
        record[20] = 56;
        record[56] = 0x10;
        record[60] = 24;
        record[80] = 0x60;
        record[84] = 48;
        record[96] = name.len() as u8;
        record[100] = 24;
        record[104..104 + name.len()].copy_from_slice(&name);
        let boot: [(usize, &[u8]); 5] =
            [(3, b"NTFS    "), (11, &[0, 2]), (13, &[8]), (48, &[4]), (64, &[0xf6])];
        let read = |offset, len| {
            assert_eq!((offset, len), (4 * 4096 + 3 * 1024, 1024));
            Some(record.clone())
        };
        let label = |record: &[u8]| {
            find(&head(&boot), |_, _| Some(record.to_vec())).expect("an NTFS").label
        };
        assert_eq!(find(&head(&boot), read).expect("an NTFS").label.as_deref(), Some("Bärlin"));
        for len in 0..record.len() {
            label(&record[..len]);
        }
        for at in 0..140 {
            let mut wrong = record.clone();
            wrong[at] = 0xff;
            label(&wrong);
        }
    }
}
