//! What the manifest, the digests or another copy determine is repaired, and nothing else.

use super::*;

/// Everything that the manifest determines is rebuilt: headers, L1 tables, reference counts, lengths, digest files.
#[test]
fn scrub_repairs_what_the_manifest_determines() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, bool, Damage); 9] = [
        ("header", true, |delta| delta[..512].fill(0)),
        ("backing name", true, |delta| delta[137] ^= 1),
        ("dirty bit", true, |delta| delta[79] |= 1),
        ("L1 table", true, |delta| delta[2 * BLOCK + 5] ^= 0x10),
        ("reference count table", true, |delta| delta[BLOCK..BLOCK + 8].fill(0x11)),
        ("a reference count", true, |delta| {
            let len = delta.len();
            delta[len - BLOCK + 3] ^= 1;
        }),
        ("digest header", false, |digests| digests[70] ^= 1),
        ("a digest", false, |digests| digests[4096 + 32 + 3] ^= 1),
        ("digests cut off", false, |digests| digests.truncate(4096 + 40)),
    ];
    for older in [1, 2] {
        for (what, in_delta, damage) in damages {
            let mut world = three();
            let uuid = world.expected[older].uuid;
            let name = match in_delta {
                true => FileName::Delta(uuid),
                false => FileName::Digests(uuid, DigestsKind::Delta),
            };
            let before = world.disk.files()[&name].clone();
            world.disk.tamper(name, damage);
            assert_ne!(before, world.disk.files()[&name], "{what}");
            assert!(!check(&world.disk).is_clean(), "{what} of revision {older}: not found");
            let report = scrub(&world.disk);
            assert!(report.is_clean() && !report.findings.is_empty(), "{what}: {report:?}");
            assert!(scrub(&world.disk).findings.is_empty(), "{what}: not repaired");
            world.check_committed(None).and_then(|_| world.check_tidy()).expect(what);
            if qemu::available() {
                let folder = tempfile::tempdir().expect("a temporary folder");
                qemu::write_out(&world.disk, folder.path());
                qemu::check(folder.path(), &world.expected, 0, true).expect(what);
            }
        }
    }
}

/// The image's own length and digests, too.
#[test]
fn scrub_repairs_length_and_digests_of_the_image() {
    let newest = |world: &World| FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    for damage in 0..5 {
        let mut world = three();
        match damage {
            0 => world.disk.tamper(FileName::IMAGE, |image| image.extend([1, 2, 3])),
            1 => world.disk.tamper(newest(&world), |digests| digests[4096 + 5] ^= 1),
            2 => world.disk.tamper(newest(&world), |digests| digests[4096 + 4 * 32] ^= 1),
            3 => world.disk.tamper(newest(&world), |digests| digests.clear()),
            _ => backy_lib::storage::Storage::remove(&world.disk, newest(&world)).expect("remove"),
        }
        assert!(!check(&world.disk).is_clean(), "{damage}: not found");
        let report = scrub(&world.disk);
        assert!(report.is_clean() && !report.findings.is_empty(), "{damage}: {report:?}");
        world.check_committed(None).and_then(|_| world.check_tidy()).expect("repaired");
    }
}

/// A bad block is repaired from another copy in the archive. One without a copy is not.
#[test]
fn scrub_repairs_a_bad_block_from_a_copy() {
    let twice = [block(1), block(2), block(1), vec![0; BLOCK]].concat();
    let once = [block(3), block(2), block(3), block(4)].concat();
    let make = || World::with_backups(false, &[once.clone(), twice.clone()]);
    // In the image, a zero block in the image, and in the delta.
    for (name, offset, repaired) in [
        (None, 7, true),
        (None, 2 * BLOCK, true),
        (None, 3 * BLOCK + 5, true),
        (None, BLOCK, false),
        (Some(1usize), 40, true),
    ] {
        let mut world = make();
        let file = name.map_or(FileName::IMAGE, |n| FileName::Delta(world.expected[n].uuid));
        let start = if name.is_some() { 4 * BLOCK } else { 0 };
        world.disk.tamper(file, |content| content[start + offset] ^= 0x11);
        assert_eq!(check(&world.disk).findings.len(), 1);
        let report = scrub(&world.disk);
        assert_eq!(report.is_clean(), repaired, "{file} {offset}: {report:?}");
        let read = world.check_committed(None);
        assert_eq!(read.is_ok(), repaired, "{file} {offset}");
        if repaired {
            world.check_tidy().expect("tidy");
            if qemu::available() {
                let folder = tempfile::tempdir().expect("a temporary folder");
                qemu::write_out(&world.disk, folder.path());
                qemu::check(folder.path(), &world.expected, 0, true).expect("QEMU agrees");
            }
        }
    }
}

/// A digest table that is wrong as a whole is no reason to change a block: neither if it says that the block is zero
/// nor if it names another existing block.
#[test]
fn doubtful_digests_repair_nothing() {
    let world = three();
    let digests = FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    let entry = |number: usize| 4096 + 32 * number..4096 + 32 * (number + 1);
    // Block 4 is zero, and so is its entry.
    for other in [0, 4] {
        let damaged = world.fork();
        // So that the digests cannot be rebuilt from the image.
        damaged.disk.tamper(FileName::IMAGE, |image| image[2 * BLOCK + 9] ^= 1);
        damaged.disk.tamper(digests, |bytes| bytes.copy_within(entry(other), entry(5).start));
        let image = damaged.disk.files().remove(&FileName::IMAGE);
        assert!(!scrub(&damaged.disk).is_clean());
        let after = damaged.disk.files().remove(&FileName::IMAGE);
        assert!(after == image, "a good block was taken for block {other}");
    }
}
