//! Damaged archives of 2014: what is provably right is imported, and the rest is named.

use super::*;

/// A wrong byte in a delta costs that block in the revisions that read it there, and it is named. All other blocks
/// are imported.
#[test]
fn a_wrong_byte_in_a_delta_costs_its_block() {
    let scene = Scene::small();
    // Revision 2 holds its blocks 1 and 5; revisions 0 and 1 have others there but for block 5.
    scene.old.change_data(2, |data| data[1500] ^= 1);
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2]);
    let damaged: Vec<_> = report.imported[2].damaged.iter().map(|e| (e.offset, e.len)).collect();
    assert_eq!(damaged, [(5000, 1000)]);
    said(&told, &[&uuid(2), "block 5", "another MD5"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!report.is_complete());
}

/// A block that is marked as bad is lost although its bytes are there. A source that knows it heals it.
#[test]
fn a_block_that_is_marked_as_bad_is_lost() {
    let scene = Scene::small();
    scene.old.change_rev(4, |rev| {
        let sum = rev["blocksums"]["8"].as_str().expect("an MD5").to_owned();
        rev["blocksums"]["8"] = json!(format!("bad:{sum}"));
    });
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
    said(&told, &[&uuid(4), "block 8", "marked as bad"]);
    let newest = &scene.old.revisions[4].1;
    world::backup(&scene.disk, &MemorySource::new(newest)).expect("a backup");
    let archive = scene.archive();
    assert!(world::read_revision(&archive, 0).expect("the new revision") == *newest);
    assert_eq!(archive.revisions()[0].findings.bad_block_count(), 0);
    world::read_revision(&archive, 1).expect_err("a lost block that became right by itself");
}

/// Data files that are too short, too long, or missing: what is right of them is imported.
#[test]
fn data_files_of_wrong_length() {
    let scene = Scene::small();
    scene.old.change_data(4, |data| data.truncate(7_300));
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
    let damaged: Vec<_> = report.imported[4].damaged.iter().map(|e| (e.offset, e.len)).collect();
    assert_eq!(damaged, [(7000, 3000)]);
    said(&told, &[&uuid(4), "blocks 8 to 9", "not in the file"]);
    said(&report.notes, &[&uuid(4), "last block is not there"]);

    let scene = Scene::small();
    scene.old.change_data(4, |data| data.extend([7; 5000]));
    scene.old.change_data(1, |data| data.extend([7; 5000]));
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[]);
    assert!(told.is_empty(), "{told:?}");
    said(&report.notes, &[&uuid(4), "last block of the image has 700 bytes"]);
    said(&report.notes, &[&uuid(1), "found 7000 bytes, expected 2000"]);

    let scene = Scene::small();
    fs::remove_file(scene.old.data(2)).expect("remove a data file");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2]);
    said(&report.notes, &[&uuid(2), "missing"]);

    let scene = Scene::small();
    fs::remove_file(scene.old.data(4)).expect("remove a data file");
    let (report, _) = scene.import();
    // The oldest holds half of its blocks itself, the others less.
    scene.check(&report, &[0], &[0]);
    assert!(reason(&report, &uuid(4)).contains("only 0 of its 10 blocks"), "{report:?}");
}

/// The last block of an older image, padded with zeros when the source grew, is cut where its MD5 says.
#[test]
fn a_padded_last_block_is_cut_where_its_md5_says() {
    let mut state: Vec<u8> = (0..2_300u32).map(|at| (at % 13) as u8).collect();
    let mut states = vec![state.clone()];
    state.extend([9; 3000]);
    states.push(state);
    let scene = Scene::new(1000, &states);
    scene.old.change_data(0, |data| data.resize(1000, 0));
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1], &[]);
    said(&report.notes, &[&uuid(0), "300 bytes"]);
}

/// Numbers of blocks that are not in the image do not harm the other blocks.
#[test]
fn blocks_past_the_end_are_left_out() {
    let scene = Scene::small();
    scene.old.change_rev(1, |rev| rev["blocksums"]["77"] = json!(md5_hex(b"x")));
    scene.old.change_data(1, |data| data.push(b'x'));
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[]);
    said(&report.notes, &[&uuid(1), "block 77", "10"]);
}

/// A number of blocks, or of one block, far past what is stored is named, and costs nothing else.
#[test]
fn numbers_far_past_what_is_stored() {
    let scene = Scene::small();
    scene.old.change_rev(4, |rev| {
        rev["blocks"] = json!(1 << 24);
        rev["blocksums"]["16777215"] = json!(md5_hex(b"x"));
    });
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3], &[]);
    assert!(reason(&report, &uuid(4)).contains("only 10 of its 16777216"), "{report:?}");
    said(&told, &[&uuid(4), "block 16777215", "not in the file"]);
}

/// An image whose blocks all seem right although it is wrong is not imported, nor is one that is mostly missing.
#[test]
fn unproven_blocks_are_not_imported() {
    let scene = Scene::small();
    // As after a crash before the sums were written.
    scene.old.change_rev(1, |rev| rev["blocksums"] = json!({}));
    scene.old.change_rev(3, |rev| rev["blocks"] = json!(5_000_000));
    let (report, _) = scene.import();
    scene.check(&report, &[2, 4], &[]);
    assert!(reason(&report, &uuid(1)).contains("expected"), "{report:?}");
    assert!(reason(&report, &uuid(0)).contains("MD5"), "{report:?}");
    assert!(reason(&report, &uuid(3)).contains("only 10 of its 5000000"), "{report:?}");

    let scene = Scene::small();
    scene.old.change_rev(4, |rev| rev["checksum"] = Value::Null);
    scene.old.change_rev(3, |rev| rev["checksum"] = Value::Null);
    scene.old.change_rev(2, |rev| rev["checksum"] = json!(md5_hex(b"another")));
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 3, 4], &[]);
}

/// A delta whose parent has neither a `.rev` nor a data file is not imported, nor are the deltas that depend on it.
#[test]
fn a_delta_without_its_parent() {
    let scene = Scene::small();
    fs::remove_file(scene.old.rev(2)).expect("remove");
    fs::remove_file(scene.old.data(2)).expect("remove");
    let (report, told) = scene.import();
    scene.check(&report, &[3, 4], &[]);
    assert!(reason(&report, &uuid(1)).contains(&uuid(2)), "{report:?}");
    assert!(reason(&report, &uuid(0)).contains(&uuid(2)), "{report:?}");
    said(&told, &[&uuid(1), "not imported"]);
}

/// The wedge of a backup that crashed in 2014: the parent is a data file without `.rev`. What it proves by MD5 is
/// imported.
#[test]
fn a_parent_without_rev_proves_what_it_can() {
    // Before anything was written: the data file is the image of the newest delta.
    let scene = Scene::small();
    fs::remove_file(scene.old.rev(4)).expect("remove");
    scene.old.change_rev(3, |rev| rev["blocksums"] = json!({}));
    fs::write(scene.old.data(4), &scene.old.revisions[3].1).expect("write");
    fs::write(scene.old.data(3), b"").expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2, 3], &[]);
    assert!(reason(&report, &uuid(4)).contains("no .rev"), "{report:?}");

    // After a part was written, revision 3 cannot be proved. Of what was overwritten, revisions 0 to 2 need only
    // block 6.
    let scene = Scene::small();
    fs::remove_file(scene.old.rev(4)).expect("remove");
    scene.old.change_rev(3, |rev| rev["blocksums"] = json!({}));
    let mut image = scene.old.revisions[3].1.clone();
    image[1000..2000].fill(1);
    fs::write(scene.old.data(4), &image).expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2], &[]);
    let why = reason(&report, &uuid(3));
    assert!(why.contains("MD5") && why.contains(&uuid(4)), "{why}");
}

/// Any damage to any file of an old archive: each imported revision has the right bytes, except where it is reported
/// as damaged and refuses to be read.
#[test]
fn any_damage_gives_right_bytes_or_a_report() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let scene = Scene::small();
        let files: Vec<PathBuf> = listing(&scene.old.folder).into_keys().collect();
        for _ in 0..=random.below(2) {
            let path = &files[random.below(files.len() as u64) as usize];
            let mut content = fs::read(path).expect("read");
            let at = random.below(content.len().max(1) as u64) as usize;
            match random.below(4) {
                _ if content.is_empty() => content.push(b'7'),
                0 => content.truncate(at),
                1 => content[at] ^= 1 << random.below(8),
                2 => content.extend(vec![b'7'; at]),
                _ => content[at] = b'0' + random.below(10) as u8,
            }
            fs::write(path, content).expect("write");
        }
        let Ok(report) = scene.try_import(&Silent) else { continue };
        let archive = scene.archive();
        assert_eq!(report.imported.len(), archive.revisions().len());
        for (at, revision) in report.imported.iter().rev().enumerate() {
            let name = revision.uuid.to_string();
            let expected = scene.old.revisions.iter().find(|(uuid, _)| *uuid == name);
            let (_, expected) = expected.expect("a revision that there was");
            match world::read_revision(&archive, at) {
                Ok(bytes) => {
                    assert!(revision.damaged.is_empty(), "seed {seed}: {name}");
                    assert!(bytes == *expected, "seed {seed}: {name} has wrong bytes");
                }
                Err(error) => assert!(!revision.damaged.is_empty(), "seed {seed}: {error}"),
            }
        }
    }
}
