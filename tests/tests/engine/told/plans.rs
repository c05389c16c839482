//! What a plan says about the space that it frees.

use backy_lib::MaintenanceOptions;
use backy_lib::plan::Step;
use backy_tests::world::{self, World, noise};

use super::{BLOCK, holey};

/// A plan frees as much as it says, within the few pages of tables that a merge adds. What it needs is included.
#[test]
fn a_plan_frees_what_it_promises() {
    // Of the same length, so that the image stays as large when the newest revision is deleted.
    let mut states = holey(5);
    states.iter_mut().for_each(|state| state.truncate(900 * BLOCK + 77));
    let world = World::with_backups(false, &states);
    world::configure(&world.disk, "max_chain = 2\n");
    for (numbers, exact) in
        [(&[4][..], true), (&[3, 4], true), (&[2], false), (&[1, 3], false), (&[0], false)]
    {
        let disk = world.disk.fork();
        let archive = world::open(&disk).expect("open");
        let ids = world::ids(&archive, numbers).expect("revisions");
        let plan = archive.plan_removal(&ids).expect("a plan");
        let report = world::remove(&disk, numbers).expect("a removal");
        assert_eq!(report.plan, plan, "{numbers:?}");
        let (said, came) = (plan.frees_bytes, report.freed_bytes);
        let slack = if exact { 0 } else { 24 * 4096 };
        assert!((said - came).abs() <= slack, "{numbers:?}: said {said}, came {came}");
        assert!(said > 100 * BLOCK as i64, "{numbers:?}: {said}");
    }
    // It frees nothing, and needs what it copies.
    let disk = world.disk.fork();
    let options = MaintenanceOptions { keep: Some(9), ..MaintenanceOptions::default() };
    let plan = world::open(&disk).expect("open").plan_maintenance(&options).expect("a plan");
    assert!(matches!(plan.steps[..], [Step::Standalone { .. }, ..]), "{plan:?}");
    let report = world::maintain(&disk, Some(9)).expect("maintenance");
    let (said, came) = (plan.frees_bytes, report.freed_bytes);
    assert!(said < -(200 * BLOCK as i64), "{said}");
    assert!((said - came).abs() <= -said / 20, "said {said}, came {came}");
}

/// Where a merge needs more than it frees, the plan says so.
#[test]
fn a_plan_knows_what_a_merge_needs() {
    // What the middle one holds is in the older one as well, so that nothing has to be copied; or half of it is not.
    let base = noise(1, 400 * BLOCK);
    let with = |blocks: std::ops::Range<usize>, seed| {
        let mut state = base.clone();
        state[blocks.start * BLOCK..blocks.end * BLOCK]
            .copy_from_slice(&noise(seed, blocks.len() * BLOCK));
        state
    };
    let frees = |states: &[Vec<u8>]| {
        let world = World::with_backups(false, states);
        let archive = world::open(&world.disk).expect("open");
        let said = archive.plan_removal(&[archive.id(1).unwrap()]).expect("a plan").frees_bytes;
        let came = world::remove(&world.disk, &[1]).expect("a removal").freed_bytes;
        assert!((said - came).abs() <= 16 * 4096, "said {said}, came {came}");
        said
    };
    let blocks = |bytes: i64| bytes / BLOCK as i64;
    let same = frees(&[with(0..200, 2), with(0..200, 3), with(0..200, 4)]);
    assert!((190..230).contains(&blocks(same)), "all of it comes free: {same}");
    // 400 blocks are deleted, and 200 of them are copied.
    let half = frees(&[with(0..200, 2), with(0..200, 3), with(200..400, 4)]);
    assert!((190..230).contains(&blocks(half)), "half of it is copied: {half}");
    let none = frees(&[with(0..200, 2), with(0..200, 2), with(200..400, 4)]);
    assert!((-20..20).contains(&blocks(none)), "all of it is copied: {none}");
}
