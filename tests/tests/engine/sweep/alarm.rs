//! Alarms, and confirming them: an alarm exists with its revision or not at all, and nothing is deleted before
//! somebody confirms it.

use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Random, SimStorage, Unsynced};
use backy_lib::{MaintenanceOptions, Result};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, World};

use super::sweep_with;

/// Seven states that each differ from the one before in one block of twelve, and one that is all new.
fn states() -> (Vec<Vec<u8>>, Vec<u8>) {
    let block = BLOCK_SIZE.len();
    let mut random = Random(8);
    let mut noise = |len: usize| -> Vec<u8> { (0..len).map(|_| random.number() as u8).collect() };
    let mut state = noise(12 * block);
    let mut states = vec![state.clone()];
    for number in 1..7 {
        state[number * block..(number + 1) * block].copy_from_slice(&noise(block));
        states.push(state.clone());
    }
    (states, noise(12 * block))
}

fn open_alarms(world: &World) -> usize {
    world::open(&world.disk).expect("open").manifest().open_alarms().count()
}

fn maintain(disk: &SimStorage, confirm: bool) -> Result<()> {
    let options = MaintenanceOptions { keep: Some(3), confirm, threads: Some(1) };
    let mut writer = world::writer(disk)?;
    writer.maintain(&options, &world::clock(), &Silent).map(drop)
}

/// An unusual backup may fail at any call: the alarm exists exactly when its revision does.
#[test]
fn an_alarm_comes_with_its_revision() {
    let (states, unusual) = states();
    let world = World::with_backups(false, &states);
    let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
    let backup = |disk: &SimStorage| world::backup(disk, &MemorySource::new(&unusual)).map(drop);
    let mut seen = [0, 0];
    let seen_by_check = std::cell::RefCell::new(&mut seen);
    sweep_with(&world, 2, backup, |place, mut world, _| {
        let committed = world
            .check_committed(Some(&unusual))
            .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
        assert_eq!(open_alarms(&world), usize::from(committed), "{place}");
        seen_by_check.borrow_mut()[usize::from(committed)] += 1;
        if !committed {
            world.backup(&unusual);
        }
        assert_eq!(open_alarms(&world), 1, "{place}: again");
        // Now it holds back what would expire.
        maintain(&world.disk, false).unwrap_or_else(|error| panic!("{place}: {error}"));
        world.assert_tidy(format_args!("{place}: frozen"));
    });
    assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
}

/// Confirming, with the maintenance that follows, may fail at any call: nothing is deleted while the alarm is not
/// confirmed, and the next run does the rest. The next unusual backup is an alarm of its own.
#[test]
fn nothing_expires_before_the_alarm_is_confirmed() {
    let (mut states, unusual) = states();
    states.push(unusual);
    let world = World::with_backups(false, &states);
    let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
    assert_eq!(open_alarms(&world), 1);
    let confirm = |disk: &SimStorage| maintain(disk, true);
    sweep_with(&world, 2, confirm, |place, mut world, result| {
        let gone = world
            .check_removing(&[3, 4, 5, 6, 7])
            .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
        let some_gone = world.expected.len() < states.len();
        assert!(!some_gone || open_alarms(&world) == 0, "{place}: gone before it was confirmed");
        assert!(gone || result.is_err(), "{place}: told that it worked");
        confirm(&world.disk).unwrap_or_else(|error| panic!("{place}: again: {error}"));
        world.expected.truncate(3);
        world.assert_tidy(format_args!("{place}: after recovery"));
        assert_eq!(open_alarms(&world), 0, "{place}: again");
    });
}
