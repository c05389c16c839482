//! The verdict as a whole: its order, and how much of the history it repeats.

use std::path::Path;

use proptest::prelude::*;

use super::super::{LastPull, Level, Run, Space};
use super::*;
use crate::base::digest::Digest;
use crate::base::revision::RevisionId;
use crate::base::units::BlockSize;
use crate::format::manifest::{Alarm, Manifest, SourceIdentity, Statistics};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() - seconds).unwrap()
}

/// Revisions that began this many seconds ago, oldest first.
fn manifest(ages: &[i64]) -> Manifest {
    let mut manifest = Manifest::new(BlockSize::DEFAULT);
    for &age in ages {
        let (time, digest) = (ago(age), Digest::of(b""));
        let id = RevisionId::new(time);
        let statistics = Statistics::default();
        manifest.push_newest(Revision::newest(id, time, time, 1, digest, statistics));
    }
    manifest
}

static UTC: jiff::tz::TimeZone = jiff::tz::TimeZone::UTC;

fn facts<'a>(manifest: &'a Manifest, config: &'a Config) -> Facts<'a> {
    Facts {
        now: now(),
        zone: &UTC,
        manifest,
        config: Ok(config),
        lock_holder: None,
        progress: None,
        failures: &[],
        last_pull: None,
        missing: &[],
        replaced: None,
        set_aside: &[],
        ahead: &[],
        unwritable: None,
        bad_blocks: &[],
        space: None,
        exposed: None,
        mismatch: None,
        unknown: &[],
    }
}

fn config(text: &str) -> Config {
    Config::parse(&format!("source = \"/x\"\n{text}"), Path::new("x")).unwrap()
}

#[test]
fn space_is_judged_by_share_and_by_time() {
    let (manifest, config) = (manifest(&[60]), config(""));
    let level = |free_bytes: u64, days: Option<i64>| {
        let full_at = days.map(|days| ago(-days * 86400));
        let growth_bytes_per_day = days.map(|_| 1);
        let (used_bytes, size_bytes, device) = (1, 1000, 0);
        let space =
            Space { used_bytes, free_bytes, size_bytes, growth_bytes_per_day, full_at, device };
        judge(&Facts { space: Some(&space), ..facts(&manifest, &config) }).level
    };
    assert_eq!([level(50, None), level(49, None)], [Level::Ok, Level::Warning]);
    assert_eq!([level(10, None), level(9, None)], [Level::Warning, Level::Critical]);
    assert_eq!([level(500, Some(15)), level(500, Some(14))], [Level::Ok, Level::Warning]);
    assert_eq!([level(500, Some(3)), level(500, Some(2))], [Level::Warning, Level::Critical]);
}

/// A copy is judged by its pulls: its tags are never overdue, and nobody asks for backups of it.
#[test]
fn a_copy_is_judged_by_its_pulls() {
    let schedule = "[schedule.daily]\ninterval = \"1d\"\nkeep = 3\n";
    let of = |more: &str| {
        let text = format!("[origin]\nurl = \"/srv/a\"\n{schedule}{more}");
        Config::parse(&text, Path::new("x")).unwrap()
    };
    let (config, old, none) = (of(""), manifest(&[90 * 3600]), manifest(&[]));
    let verdict = |manifest, config, pulled: Option<i64>| {
        let last = pulled.map(|age| LastPull { started: ago(age), left_out: None });
        let health = judge(&Facts { last_pull: last.as_ref(), ..facts(manifest, config) });
        let kinds: Vec<_> = health.problems.iter().map(|one| (one.kind, one.level)).collect();
        (kinds, health.summary, health.problems.into_iter().map(|one| one.advice).collect())
    };
    let (kinds, summary, _): (_, _, Vec<String>) = verdict(&old, &config, Some(3600));
    assert_eq!(
        (kinds, summary.as_str()),
        (vec![], "1 revision, the newest 3 days old, pulled 60 min ago")
    );
    let (kinds, summary, advice) = verdict(&old, &config, Some(30 * 3600));
    assert_eq!(kinds, [(ProblemKind::Overdue, Level::Warning)]);
    assert!(summary.starts_with("the last pull is overdue: it began 30 h ago"), "{summary}");
    assert!(advice[0].contains("'backy pull'"), "{advice:?}");
    let (kinds, ..) = verdict(&old, &config, None);
    assert_eq!(kinds, [(ProblemKind::Overdue, Level::Critical)]);
    let (kinds, summary, advice) = verdict(&none, &config, None);
    assert_eq!(kinds, [(ProblemKind::NoBackup, Level::Warning)]);
    assert_eq!(summary, "nothing has been pulled from /srv/a yet");
    assert!(advice[0].contains("'backy pull'"), "{advice:?}");
    // The pulls work, and the origin makes no backups.
    let config = of("[monitoring]\nmax_age = \"1d\"\n");
    let (kinds, _, advice) = verdict(&old, &config, Some(3600));
    assert_eq!(kinds, [(ProblemKind::Overdue, Level::Critical)]);
    assert!(advice[0].contains("origin makes no backups"), "{advice:?}");
}

/// An archive that gets its revisions by `push` needs neither a source nor an origin, and is overdue by its schedule.
#[test]
fn a_pushed_copy_is_judged_by_its_schedule() {
    let schedule = "[schedule.daily]\ninterval = \"1d\"\nkeep = 3\n";
    let config = Config::parse(schedule, Path::new("x")).unwrap();
    let kinds = |age: i64, kind: &str| {
        let mut manifest = manifest(&[age]);
        manifest.source = Some(SourceIdentity::new("host", kind));
        let health = judge(&facts(&manifest, &config));
        health.problems.iter().map(|one| (one.kind, one.advice.clone())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(3600, "archive"), []);
    let advice = "find out why its origin makes no backups, or does not push them".to_owned();
    assert_eq!(kinds(90 * 3600, "archive"), [(ProblemKind::Overdue, advice)]);
    assert_eq!(kinds(3600, "file")[0].0, ProblemKind::NoSource);
}

#[test]
fn long_errors_from_the_history_are_cut() {
    let (manifest, config) = (manifest(&[60]), config(""));
    let run = Run {
        operation: "backup".to_owned(),
        started: ago(9000),
        finished: ago(8000),
        result: "failed".to_owned(),
        error: Some("ü".repeat(5000)),
    };
    let health = judge(&Facts { failures: &[run], ..facts(&manifest, &config) });
    assert!(health.summary.starts_with("the last backup failed 2 h ago: üü"));
    assert!(health.summary.chars().count() < 340 && health.summary.ends_with('…'));
}

proptest! {
    /// Every problem has a message and advice of one line. They are sorted worst first, and the first one
    /// sets the level. One more fact never improves the verdict.
    #[test]
    fn verdicts_are_sorted_and_monotonic(
        ages in prop::collection::vec(-100_000_i64..10_000_000, 0..12),
        bad in prop::collection::vec(0_u64..3, 12),
        missing in 0_usize..3,
        alarms in 0_usize..4,
        is_locked in any::<bool>(),
        free in 0_u64..=1000,
    ) {
        let mut manifest = manifest(&ages);
        for number in 0..alarms.min(ages.len()) {
            let uuid = manifest.revisions[number].uuid;
            manifest.alarms.push(Alarm::new(uuid, now(), u64::MAX, 0));
        }
        let (schedule, missing) = ("[schedule.daily]\ninterval = \"1d\"\nkeep = 9", vec!["x".to_owned(); missing]);
        let config = config(schedule);
        let space = Space {
            used_bytes: 1, free_bytes: free, size_bytes: 1000, growth_bytes_per_day: None, full_at: None, device: 0,
        };
        let lock_holder = is_locked.then_some("somebody");
        let some = Facts { lock_holder, bad_blocks: &bad[..ages.len()], ..facts(&manifest, &config) };
        let more = Facts { missing: &missing, space: Some(&space), ..some };
        let (some, more) = (judge(&some), judge(&more));
        prop_assert!(more.level >= some.level && more.problems.len() >= some.problems.len());
        prop_assert!(more.problems.is_sorted_by(|a, b| a.level >= b.level));
        prop_assert_eq!(more.level, more.problems.first().map_or(Level::Ok, |problem| problem.level));
        for problem in &more.problems {
            prop_assert!(problem.level > Level::Ok);
            for text in [&problem.message, &problem.advice] {
                prop_assert!(!text.is_empty() && !text.contains('\n'), "{:?}", text);
            }
        }
    }
}
