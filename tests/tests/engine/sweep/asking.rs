//! Noting that somebody asked for a backup: a hint, which may fail at any call and costs nothing but itself.

use backy_lib::Clock;
use backy_lib::clock::FixedClock;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::SimStorage;
use backy_tests::world::{self, World};
use jiff::SignedDuration;

use super::{scenarios, sweep};

/// Whatever fails, the archive is as it was, and the next backup works.
#[test]
fn noting_an_early_request_is_safe_at_every_fault() {
    let (_, states, _, later) = scenarios().swap_remove(2);
    let world = World::with_backups(false, &states);
    let shortly_before = world::clock().now() + SignedDuration::from_mins(24 * 60 - 100);
    let note = |disk: &SimStorage| {
        world::open(disk)?.note_asked("a test", &FixedClock(shortly_before));
        Ok(())
    };
    let trial = world.fork();
    note(&trial.disk).expect("a note");
    let noted = |disk: &SimStorage| {
        let history = disk.files().remove(&FileName::History).unwrap_or_default();
        String::from_utf8_lossy(&history).matches("asked").count()
    };
    assert_eq!(noted(&trial.disk), 1);
    note(&trial.disk).expect("another question");
    assert_eq!(noted(&trial.disk), 1, "once is enough");
    let calls = sweep(&world, note, |place, mut world, _| {
        world
            .check_committed(None)
            .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
        world.backup(&later);
        world.assert_tidy(format_args!("{place}: after recovery"));
    });
    assert!(calls > 3, "{calls} calls");
}
