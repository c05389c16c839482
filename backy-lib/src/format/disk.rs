//! What the first bytes of a disk show: identifiers of partition tables and file systems, and formats of disk images.
//!
//! The bytes may be anything. This module reports nothing that is not certain, and follows a header only within the
//! given bytes.

use uuid::Uuid;

/// This many bytes contain everything that this module looks for.
pub const HEAD_BYTES: usize = 128 << 10;

/// The longest name of another file to believe. QEMU takes 1023 bytes.
const MAX_NAME_BYTES: usize = 1023;

/// A disk image in another format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The name of the format.
    pub format: &'static str,
    /// The file that has the data that this one lacks.
    pub backing_file: Option<String>,
}

/// The identifier of a partition table: GPT's UUID, or the signature of an MBR in eight digits.
pub fn partition_table_uuid(head: &[u8]) -> Option<String> {
    for sector in [512, 4096] {
        if bytes::<8>(head, sector)? == *b"EFI PART" {
            return uuid_text(Uuid::from_bytes_le(bytes(head, sector + 56)?));
        }
    }
    // The boot sector of a file system ends in the same way, but has no partitions.
    let partitions = (0..4).map(|number| bytes::<16>(head, 446 + 16 * number));
    let partitions: Option<Vec<[u8; 16]>> = partitions.collect();
    let is_empty = |partition: &[u8; 16]| partition == &[0; 16];
    let is_right = |[status, _, _, _, kind, ..]: &[u8; 16]| status & 0x7f == 0 && *kind != 0;
    let partitions = partitions?;
    let is_table = partitions.iter().all(|p| is_empty(p) || is_right(p))
        && !partitions.iter().all(is_empty)
        && bytes(head, 510)? == [0x55, 0xaa];
    let signature = u32::from_le_bytes(bytes(head, 440)?);
    (is_table && signature != 0).then(|| format!("{signature:08x}"))
}

/// The UUID or serial number of the file system, encrypted volume or physical volume that begins here.
pub fn file_system_uuid(head: &[u8]) -> Option<String> {
    let at = |offset| bytes::<16>(head, offset).map(Uuid::from_bytes).and_then(uuid_text);
    let has = |offset, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    if has(0, b"LUKS\xba\xbe") {
        return text(head.get(168..208)?);
    }
    if has(0, b"XFSB") {
        return at(32);
    }
    if has(0x10040, b"_BHRfS_M") {
        return at(0x10020);
    }
    if has(1024 + 56, &[0x53, 0xef]) {
        return at(1024 + 104);
    }
    if let Some(sector) = (0..4).map(|n| n * 512).find(|&sector| has(sector, b"LABELONE")) {
        return text(head.get(sector + 32..sector + 64)?);
    }
    if has(3, b"NTFS    ") {
        return Some(format!("{:016x}", u64::from_le_bytes(bytes(head, 72)?)));
    }
    let serial = [(82, 67), (54, 39)].into_iter().find(|&(name, _)| has(name, b"FAT"));
    let serial = u32::from_le_bytes(bytes(head, serial?.1)?);
    (serial != 0).then(|| format!("{serial:08x}"))
}

/// Whether a disk image in another format begins here.
pub fn container(head: &[u8]) -> Option<Container> {
    let has = |offset, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    let found = |format, backing_file| Some(Container { format, backing_file });
    if has(0, b"QFI\xfb") {
        return found("qcow2", qcow2_other_file(head));
    }
    if has(0, b"QED\0") {
        return found("QED", qed_backing(head));
    }
    if has(0, b"KDMV") || has(0, b"COWD") {
        return found("VMDK", vmdk_parent(head.get(512..)?));
    }
    if has(0, b"# Disk DescriptorFile") {
        return found("VMDK", vmdk_parent(head).or_else(|| vmdk_data(head)));
    }
    let plain = [
        (0, &b"vhdxfile"[..], "VHDX"),
        (0, b"conectix", "VHD"),
        (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
        (0, b"WithoutFreeSpace", "Parallels"),
        (0, b"WithouFreSpacExt", "Parallels"),
    ];
    let (_, _, format) = plain.into_iter().find(|&(offset, magic, _)| has(offset, magic))?;
    found(format, None)
}

/// The backing file of a qcow2 image, or the one that has its data.
fn qcow2_other_file(head: &[u8]) -> Option<String> {
    let offset = u64::from_be_bytes(bytes(head, 8)?);
    let len = u32::from_be_bytes(bytes(head, 16)?);
    if let Some(name) = name_at(head, offset, len) {
        return Some(name);
    }
    // Only version 3 has extensions.
    const DATA_FILE: u32 = 0x4441_5441;
    if u32::from_be_bytes(bytes(head, 4)?) < 3 {
        return None;
    }
    let mut next = u64::from(u32::from_be_bytes(bytes(head, 100)?));
    // Each is eight bytes at least, so that this ends.
    while let Ok(at) = usize::try_from(next) {
        let kind = u32::from_be_bytes(bytes(head, at)?);
        let len = u32::from_be_bytes(bytes(head, at.checked_add(4)?)?);
        match kind {
            0 => return None,
            DATA_FILE => return name_at(head, next + 8, len),
            _ => next += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    None
}

fn qed_backing(head: &[u8]) -> Option<String> {
    let has_backing = u64::from_le_bytes(bytes(head, 16)?) & 1 != 0;
    let offset = u32::from_le_bytes(bytes(head, 56)?);
    let len = u32::from_le_bytes(bytes(head, 60)?);
    name_at(head, offset.into(), len).filter(|_| has_backing)
}

/// A VMDK describes itself in text.
fn vmdk_parent(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(head.get(..20 << 10).unwrap_or(head));
    let line = text.lines().find_map(|line| line.trim().strip_prefix("parentFileNameHint"))?;
    let name = line.trim_start().strip_prefix('=')?.trim().trim_matches('"');
    (!name.is_empty() && name.len() <= MAX_NAME_BYTES).then(|| name.to_owned())
}

/// The data file of a VMDK that is only a description.
fn vmdk_data(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(head.get(..20 << 10).unwrap_or(head));
    let extent =
        text.lines().find(|line| line.starts_with("RW ") || line.starts_with("RDONLY "))?;
    let name = extent.split('"').nth(1)?;
    (!name.is_empty() && name.len() <= MAX_NAME_BYTES).then(|| name.to_owned())
}

fn name_at(head: &[u8], offset: u64, len: u32) -> Option<String> {
    let len = usize::try_from(len).ok().filter(|len| (1..=MAX_NAME_BYTES).contains(len))?;
    let offset = usize::try_from(offset).ok().filter(|&offset| offset > 0)?;
    let name = head.get(offset..offset.checked_add(len)?)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn bytes<const N: usize>(head: &[u8], offset: usize) -> Option<[u8; N]> {
    head.get(offset..)?.first_chunk().copied()
}

fn uuid_text(uuid: Uuid) -> Option<String> {
    (!uuid.is_nil()).then(|| uuid.to_string())
}

/// Letters, digits and the like up to the first zero byte.
fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| text.to_owned())
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

    const UUID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

    /// Reads identifiers where each format has them; an identifier of zeros does not count.
    #[test]
    fn identifiers_are_read_from_what_begins_a_disk() {
        let plain = Some("01020304-0506-0708-090a-0b0c0d0e0f10".to_owned());
        for (what, magic, at) in [
            ("ext4", (1080, &[0x53, 0xef][..]), 1128),
            ("XFS", (0, b"XFSB"), 32),
            ("btrfs", (0x10040, b"_BHRfS_M"), 0x10020),
        ] {
            assert_eq!(file_system_uuid(&head(&[magic, (at, &UUID)])), plain, "{what}");
            assert_eq!(file_system_uuid(&head(&[magic])), None, "{what}");
        }
        let luks = head(&[(0, b"LUKS\xba\xbe"), (168, b"f00-ba")]);
        assert_eq!(file_system_uuid(&luks).as_deref(), Some("f00-ba"));
        let volume = [b'x'; 32];
        let lvm = head(&[(512, b"LABELONE"), (544, &volume)]);
        assert_eq!(file_system_uuid(&lvm).map(|uuid| uuid.len()), Some(32));
        let fat = head(&[(82, b"FAT32"), (67, &[0x78, 0x56, 0x34, 0x12])]);
        assert_eq!(file_system_uuid(&fat).as_deref(), Some("12345678"));
        for sector in [512, 4096] {
            let gpt = head(&[(sector, b"EFI PART"), (sector + 56, &UUID)]);
            let expected = Some("04030201-0605-0807-090a-0b0c0d0e0f10".to_owned());
            assert_eq!(partition_table_uuid(&gpt), expected);
        }
    }

    /// The signature of an MBR counts if there are partitions; the boot sector of a file system has none.
    #[test]
    fn a_boot_sector_is_no_partition_table() {
        let (signature, end): (&[u8], &[u8]) = (&[0x78, 0x56, 0x34, 0x12], &[0x55, 0xaa]);
        let linux = [0x80, 0, 0, 0, 0x83];
        let mbr = head(&[(440, signature), (446, &linux), (510, end)]);
        assert_eq!(partition_table_uuid(&mbr).as_deref(), Some("12345678"));
        let code = head(&[(440, signature), (446, b"boot code"), (510, end)]);
        assert_eq!(partition_table_uuid(&code), None);
        assert_eq!(partition_table_uuid(&head(&[(440, signature), (510, end)])), None);
    }

    /// Recognises disk images by their first bytes, and names the file that they need.
    #[test]
    fn disk_images_are_recognised_with_what_they_need() {
        let named = |format, name: Option<&str>| {
            Some(Container { format, backing_file: name.map(str::to_owned) })
        };
        let qcow2 = |version, parts: &[(usize, &[u8])]| {
            let start = [&b"QFI\xfb"[..], &u32::to_be_bytes(version)].concat();
            container(&head(&[&[(0, start.as_slice())], parts].concat()))
        };
        let at = |offset: u64, len: u32| [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
        let base = (700, &b"base.img"[..]);
        assert_eq!(qcow2(2, &[(8, &at(700, 8)), base]), named("qcow2", Some("base.img")));
        assert_eq!(qcow2(3, &[(8, &at(700, 0)), base]), named("qcow2", None));
        let extension =
            [&[0, 0, 0, 9, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0][..], b"DATA\0\0\0\x05d.raw"];
        let extension = [(100, &[0, 0, 0, 112][..]), (112, &extension.concat())];
        assert_eq!(qcow2(3, &extension), named("qcow2", Some("d.raw")));
        assert_eq!(qcow2(2, &extension), named("qcow2", None));
        let vmdk = b"# Disk DescriptorFile\nparentFileNameHint=\"base.vmdk\"\n";
        assert_eq!(container(vmdk.as_slice()), named("VMDK", Some("base.vmdk")));
        assert_eq!(
            container(&head(&[(0, b"KDMV"), (512, vmdk)])),
            named("VMDK", Some("base.vmdk"))
        );
        let flat = b"# Disk DescriptorFile\nRW 99 FLAT \"x-flat.vmdk\" 0\n";
        assert_eq!(container(flat.as_slice()), named("VMDK", Some("x-flat.vmdk")));
        assert_eq!(container(&head(&[(64, &[0x7f, 0x10, 0xda, 0xbe])])), named("VDI", None));
        assert_eq!(container(&head(&[(0, b"LUKS\xba\xbe")])), None);
    }

    /// False lengths and offsets, headers that end early and extensions without an end cost nothing but the name.
    #[test]
    fn a_hostile_head_is_only_believed_as_far_as_it_goes() {
        let mut state = 7_u64;
        for cut in (0..1200).chain([4096, HEAD_BYTES]) {
            for magic in
                [&b"QFI\xfb\0\0\0\x03"[..], b"QED\0", b"KDMV", b"# Disk DescriptorFile", b"XFSB"]
            {
                let mut bytes = vec![0; cut];
                for byte in &mut bytes {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = if state >> 63 == 0 { 0xff } else { (state >> 40) as u8 };
                }
                let len = magic.len().min(cut);
                bytes[..len].copy_from_slice(&magic[..len]);
                let found = container(&bytes).and_then(|found| found.backing_file);
                assert!(found.is_none_or(|name| name.len() <= 4 * MAX_NAME_BYTES));
                let _ = (partition_table_uuid(&bytes), file_system_uuid(&bytes));
            }
        }
    }
}
