//! L2 entries that are lost or lead elsewhere are restored where the digests prove the content.

use super::*;

fn is_whole(world: &mut World, what: &str) {
    world.assert_tidy(what);
    assert_eq!(check(&world.disk).findings, [], "{what}");
    if qemu::available() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&world.disk, folder.path());
        qemu::check(folder.path(), &world.expected, 0, true)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

/// A scrub restores an L2 entry that became zero or invalid, whatever kind of cluster it led to: the content is still
/// in the file, and the digests prove it. It also restores all entries of a table at once.
#[test]
fn scrub_restores_a_lost_entry() {
    for older in [1, 2] {
        let held: Vec<usize> = {
            let world = all_kinds();
            let delta = &world.disk.files()[&delta_of(&world, older)];
            (0..7).filter(|&n| delta[entry(n)] != [0; 8]).collect()
        };
        assert_eq!(held, [0, 2, 4, 5, 6], "revision {older}");
        for lost in held.iter().map(|n| vec![*n]).chain([vec![0, 2, 5, 6]]) {
            for wrong in [[0; 8], [0xff; 8], [0x3f, 0, 0, 0, 0, 0, 0, 0]] {
                let mut world = all_kinds();
                let name = delta_of(&world, older);
                world.disk.tamper(name, |delta| {
                    lost.iter().for_each(|n| delta[entry(*n)].copy_from_slice(&wrong));
                });
                let what = format!("entries {lost:?} of revision {older} are {wrong:x?}");
                assert!(!check(&world.disk).is_clean(), "{what}: not found");
                let report = scrub(&world.disk);
                assert!(report.is_clean() && !report.findings.is_empty(), "{what}: {report:?}");
                is_whole(&mut world, &what);
            }
        }
    }
}

/// An entry that leads to another block's content is corrected, too.
#[test]
fn scrub_corrects_an_entry_that_leads_elsewhere() {
    let mut world = all_kinds();
    let name = delta_of(&world, 1);
    world.disk.tamper(name, |delta| {
        let other: Vec<u8> = delta[entry(5)].to_vec();
        delta[entry(2)].copy_from_slice(&other);
    });
    assert!(!check(&world.disk).is_clean());
    scrub(&world.disk);
    assert!(scrub(&world.disk).findings.iter().all(|finding| finding.repaired));
    is_whole(&mut world, "two entries lead to one cluster");
}

/// A lost entry is found again although a digest of the same delta is damaged as well: the data decides then.
#[test]
fn scrub_restores_a_lost_entry_beside_a_damaged_digest() {
    let mut world = all_kinds();
    let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    let name = delta_of(&world, 1);
    world.disk.tamper(name, |delta| delta[entry(2)].fill(0));
    world.disk.tamper(digests, |digests| digests[4096 + 5 * 32] ^= 1);
    assert!(!check(&world.disk).is_clean());
    assert!(scrub(&world.disk).is_clean());
    is_whole(&mut world, "an entry and a digest");
}

/// A block whose entry is lost and whose content is nowhere costs this block alone, and the scrub claims only what
/// can be proved.
#[test]
fn a_lost_entry_without_content_costs_one_block() {
    let world = all_kinds();
    let name = delta_of(&world, 1);
    world.disk.tamper(name, |delta| {
        let raw: [u8; 8] = delta[entry(2)].try_into().expect("eight bytes");
        let offset = (u64::from_be_bytes(raw) & 0x00ff_ffff_ffff_fe00) as usize;
        delta[offset + 7] ^= 1;
        delta[entry(2)].fill(0);
        delta[entry(6)].fill(0);
    });
    let report = scrub(&world.disk);
    let open: Vec<_> = report.findings.iter().filter(|finding| !finding.repaired).collect();
    assert_eq!(open.len(), 1, "{report:?}");
    assert_eq!(open[0].blocks.map(|range| (range.first.0, range.count)), Some((2, 1)));
    let archive = world::open(&world.disk).expect("open");
    let report = archive.restore_to(
        archive.id(1).unwrap(),
        &backy_tests::memory::MemoryTarget::absent(),
        &backy_lib::RestoreOptions { keep_going: true, ..world::restore_options() },
        &Silent,
    );
    assert_eq!(
        report.expect("a restore").unreadable,
        [Extent::new(2 * BLOCK as u64, BLOCK as u64)]
    );
    assert!(world::read_revision(&archive, 0).expect("the newest") == world.expected[0].bytes);
}

/// A block with an invalid entry and lost content does not keep its revision forever: once somebody has confirmed the
/// finding, the revision can be deleted. Those behind it lose only what they had there.
#[test]
fn revisions_beyond_repair_can_be_deleted() {
    let mut world = all_kinds();
    world.disk.tamper(delta_of(&world, 1), |delta| {
        let raw: [u8; 8] = delta[entry(2)].try_into().expect("eight bytes");
        let offset = (u64::from_be_bytes(raw) & 0x00ff_ffff_ffff_fe00) as usize;
        delta[offset + 7] ^= 1;
        delta[entry(2)].copy_from_slice(&((1u64 << 62) | (1 << 50)).to_be_bytes());
    });
    let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
    assert!(!scrub(&world.disk).is_clean());
    let error = world::remove(&world.disk, &[1]).expect_err("somebody has to confirm that");
    assert!(error.to_string().contains("'backy maintenance --confirm' allows it"), "{error}");
    world::maintain(&world.disk, Some(3)).expect("confirmed");
    world::remove(&world.disk, &[1]).expect("it goes");
    world.expected.remove(1);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.revisions().len(), world.expected.len());
    for (number, expected) in world.expected.iter().enumerate() {
        let target = backy_tests::memory::MemoryTarget::absent();
        let options = backy_lib::RestoreOptions { keep_going: true, ..world::restore_options() };
        let report = archive
            .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
            .expect("a restore");
        let lost: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
        assert!(lost <= BLOCK as u64, "revision {number}: {lost} bytes are lost");
        for (at, (found, was)) in
            target.content().chunks(BLOCK).zip(expected.bytes.chunks(BLOCK)).enumerate()
        {
            assert!(at == 2 || found == was, "revision {number}, block {at}");
        }
    }
}

/// What cannot be repaired stays as it is: nothing that may still be recovered is freed, at the end of the file or in
/// it, by this scrub, by the next one or by the cleanup after an interrupted merge.
#[test]
fn blocks_that_may_still_be_recovered_are_kept() {
    let mut world = all_kinds();
    let (name, digests) =
        (delta_of(&world, 1), FileName::Digests(world.expected[1].uuid, DigestsKind::Delta));
    let before = world.disk.files();
    world.disk.tamper(name, |delta| {
        delta[entry(2)].fill(0);
        delta[entry(5)].fill(0);
    });
    // Nothing proves which blocks these are as long as the digests are damaged.
    world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
    for _ in 0..2 {
        assert!(!scrub(&world.disk).is_clean());
        let options = backy_lib::MaintenanceOptions { keep: Some(1), ..Default::default() };
        let mut writer =
            ArchiveWriter::open(world::open(&world.disk).expect("open"), "a test", &Silent)
                .expect("open");
        let done = writer.maintain(&options, &clock(), &Silent).expect("maintenance");
        assert_eq!(done.plan.steps, [], "{:?}", done.plan.frozen);
        drop(writer);
        assert_eq!(
            world::remove(&world.disk, &[1]).expect_err("a merge").kind(),
            ErrorKind::Damaged
        );
    }
    if qemu::available() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&world.disk, folder.path());
        let delta = folder.path().join(name.to_string());
        let out = std::process::Command::new("qemu-img").arg("check").arg(&delta).output();
        let text = String::from_utf8_lossy(&out.expect("qemu-img").stdout).into_owned();
        assert!(text.contains("leaked cluster"), "{text}");
    }
    // With the digests from a copy all of it is there again.
    world.disk.tamper(digests, |content| *content = before[&digests].clone());
    assert!(scrub(&world.disk).is_clean());
    is_whole(&mut world, "the digests from a copy");
}
