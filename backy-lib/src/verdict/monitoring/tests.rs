//! Every figure has the meaning and the unit of its name: each has a different value here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{nagios, nagios_host, prometheus, prometheus_names};
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::FixedClock;
use crate::base::progress::Silent;
use crate::base::units::BlockSize;
use crate::policy::health::{
    Change, Freeze, Health, Level, OriginStatus, Problem, ProblemKind, Run, Space, TagStatus,
};
use crate::source::DeviceSource;
use crate::verb::backup::BackupOptions;
use crate::verdict::check::{Checked, HostReport};
use crate::verdict::status::{StatusReport, status};

/// A time with these last digits.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The report on an archive with one revision, with a different value for every figure.
fn figures() -> StatusReport {
    let folder = tempfile::tempdir().unwrap();
    let source = tempfile::NamedTempFile::new().unwrap();
    source.as_file().set_len(100_000).unwrap();
    let archive = Archive::init(&folder.path().join("a"), None, BlockSize::DEFAULT).unwrap();
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).unwrap();
    let source = DeviceSource::open(source.path()).unwrap();
    let options = BackupOptions { force: true, ..BackupOptions::default() };
    let clock = FixedClock(at(0));
    writer.backup(&source, &options, &clock, &Silent).unwrap().unwrap();
    let mut report = status(writer.archive(), &[], &clock).unwrap();
    let newest = report.newest.as_mut().unwrap();
    (newest.started, newest.finished) = (at(101), at(102));
    (newest.size_bytes, newest.read_bytes) = (1001, 1002);
    (newest.changed_bytes, newest.stored_bytes) = (1003, 1004);
    newest.seconds = 10.5;
    report.archive = "/srv/a \"b\"\\c\nd".into();
    report.checked = at(5000);
    (report.revision_count, report.damaged_count) = (7, 3);
    (report.chain_length, report.long_chain) = (5, 55);
    report.coverage.verified_share = 0.6789;
    report.last_scrub = Some(at(201));
    report.unchecked_since = Some(at(202));
    let drill = serde_json::json!({
        "revision": report.newest.as_ref().unwrap().uuid, "started": at(203), "seconds": 1.0,
        "size_bytes": 1, "read_bytes": 2, "bytes_per_second": 3, "passed": true, "message": "",
    });
    report.drill = Some(serde_json::from_value(drill).unwrap());
    let tag = |tag: &str, interval_seconds, last| TagStatus {
        tag: tag.parse().unwrap(),
        interval_seconds,
        keep: 1,
        revisions: 1,
        last,
        due_at: Some(at(1)),
        overdue_at: Some(at(6301)),
        critical_at: Some(at(7301)),
        level: Level::Ok,
    };
    report.schedule = vec![tag("hourly", 3600, Some(at(301))), tag("daily", 86400, None)];
    report.origin = Some(OriginStatus {
        url: "/srv/origin".to_owned(),
        interval_seconds: 7200,
        last_pull: Some(at(302)),
        left_out: Some(11),
        behind_seconds: Some(12),
        due_at: Some(at(1)),
        overdue_at: Some(at(6302)),
        critical_at: Some(at(7302)),
        level: Level::Ok,
    });
    let run = |operation: &str, finished, result: &str| Run {
        operation: operation.to_owned(),
        started: at(400),
        finished,
        result: result.to_owned(),
        error: None,
    };
    report.last_runs = vec![
        run("backup", at(401), "ok"),
        run("maintenance", at(402), "failed"),
        run("scrub", at(403), "interrupted"),
    ];
    report.space = Some(Space {
        used_bytes: 2001,
        free_bytes: 2002,
        size_bytes: 9003,
        growth_bytes_per_day: Some(864_000),
        full_at: Some(at(501)),
        device: 1,
    });
    report.change = Some(Change { share: 0.25, usual_share: 0.125, limit_share: 0.5 });
    let revision = report.newest.as_ref().unwrap().uuid;
    let message = "why".to_owned();
    report.frozen = vec![Freeze { kind: ProblemKind::Damage, revision, message }];
    report.lock_holder = None;
    let problem = |kind, level| Problem {
        kind,
        level,
        message: format!("{level:?} | of\n{kind:?}"),
        advice: "do something".to_owned(),
    };
    let problems = vec![
        problem(ProblemKind::Space, Level::Warning),
        problem(ProblemKind::Damage, Level::Critical),
        problem(ProblemKind::Space, Level::Critical),
        problem(ProblemKind::Scrub, Level::Warning),
    ];
    report.health = Health::of(problems, String::new);
    report
}

/// The samples of each name, without the name.
fn samples(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('{').unwrap();
        found.entry(name).or_default().push(rest);
    }
    found
}

/// Each metric has its own figure, as text: value, labels, escapes.
#[test]
fn each_metric_has_its_own_figure() {
    let text = prometheus([&Checked::of(figures())]);
    let mut found = samples(&text);
    let archive = r#"archive="/srv/a \"b\"\\c\nd""#;
    for (name, expected) in [
        ("backy_status", &["} 2"][..]),
        ("backy_check_timestamp_seconds", &["} 1800005000"]),
        ("backy_revisions", &["} 7"]),
        ("backy_damaged_revisions", &["} 3"]),
        ("backy_last_backup_timestamp_seconds", &["} 1800000101"]),
        ("backy_last_backup_duration_seconds", &["} 10.5"]),
        ("backy_last_backup_read_bytes", &["} 1002"]),
        ("backy_last_backup_changed_bytes", &["} 1003"]),
        ("backy_last_backup_stored_bytes", &["} 1004"]),
        ("backy_image_size_bytes", &["} 1001"]),
        ("backy_tag_last_timestamp_seconds", &[",tag=\"hourly\"} 1800000301"]),
        ("backy_tag_interval_seconds", &[",tag=\"hourly\"} 3600", ",tag=\"daily\"} 86400"]),
        ("backy_last_pull_timestamp_seconds", &["} 1800000302"]),
        ("backy_pull_interval_seconds", &["} 7200"]),
        (
            "backy_run_timestamp_seconds",
            &[
                ",operation=\"backup\"} 1800000401",
                ",operation=\"maintenance\"} 1800000402",
                ",operation=\"scrub\"} 1800000403",
            ],
        ),
        (
            "backy_run_success",
            &[
                ",operation=\"backup\"} 1",
                ",operation=\"maintenance\"} 0",
                ",operation=\"scrub\"} 0",
            ],
        ),
        ("backy_checked_ratio", &["} 0.6789"]),
        ("backy_last_scrub_timestamp_seconds", &["} 1800000201"]),
        ("backy_unchecked_since_timestamp_seconds", &["} 1800000202"]),
        ("backy_last_drill_timestamp_seconds", &["} 1800000203"]),
        ("backy_drill_success", &["} 1"]),
        ("backy_chain_length", &["} 5"]),
        ("backy_changed_ratio", &["} 0.25"]),
        ("backy_usual_changed_ratio", &["} 0.125"]),
        ("backy_expiry_frozen", &["} 1"]),
        ("backy_locked", &["} 0"]),
        ("backy_archive_bytes", &["} 2001"]),
        ("backy_filesystem_free_bytes", &["} 2002"]),
        ("backy_filesystem_size_bytes", &["} 9003"]),
        ("backy_growth_bytes_per_second", &["} 10"]),
        ("backy_full_timestamp_seconds", &["} 1800000501"]),
    ] {
        let expected: Vec<String> = expected.iter().map(|end| format!("{archive}{end}")).collect();
        assert_eq!(found.remove(name).unwrap_or_default(), expected, "{name}");
    }
    let problems = found.remove("backy_problem").unwrap();
    for (kind, line) in ProblemKind::ALL.into_iter().zip(problems) {
        let level = match kind {
            // The worse of the two.
            ProblemKind::Space | ProblemKind::Damage => 2,
            ProblemKind::Scrub => 1,
            _ => 0,
        };
        assert_eq!(line, format!("{archive},kind=\"{}\"}} {level}", kind.as_str()));
    }
    assert_eq!(found, BTreeMap::new(), "a metric without an expected value");
    let named: BTreeSet<&str> = prometheus_names().collect();
    assert_eq!(named, samples(&text).into_keys().collect());
}

/// Flags that are inverted in another archive are inverted in its figures, and unknown values are left out.
#[test]
fn flags_are_inverted_and_unknown_values_are_left_out() {
    let mut other = figures();
    other.frozen.clear();
    other.lock_holder = Some("somebody".to_owned());
    if let Some(drill) = &mut other.drill {
        drill.passed = false;
    }
    let text = prometheus([&Checked::of(other.clone())]);
    let found = samples(&text);
    for (name, value) in
        [("backy_expiry_frozen", "0"), ("backy_locked", "1"), ("backy_drill_success", "0")]
    {
        assert!(found[name][0].ends_with(&format!("}} {value}")), "{name}: {:?}", found[name]);
    }
    (other.drill, other.space, other.change, other.newest) = (None, None, None, None);
    (other.last_scrub, other.unchecked_since, other.origin) = (None, None, None);
    let text = prometheus([&Checked::of(other)]);
    let found = samples(&text);
    for name in prometheus_names() {
        let words = ["drill", "filesystem", "changed_ratio", "last_backup", "image", "scrub"];
        let words = words.iter().chain(&["unchecked", "archive_bytes", "growth", "full", "pull"]);
        let unknown = words.clone().any(|word| name.contains(word));
        assert_eq!(found.contains_key(name), !unknown, "{name}");
    }
    for (level, value) in
        [(Level::Ok, 0), (Level::Warning, 1), (Level::Critical, 2), (Level::Unknown, 3)]
    {
        let mut checked = Checked::of(figures());
        checked.health.level = level;
        let text = prometheus([&checked]);
        assert!(samples(&text)["backy_status"][0].ends_with(&format!("}} {value}")), "{level:?}");
    }
}

/// Each figure of the Nagios line has its own unit and limits, and nothing in the text can end the line.
#[test]
fn each_nagios_figure_has_its_own_value_and_limits() {
    let line = nagios(&figures());
    let (said, figures) = line.trim_end_matches('\n').split_once(" | ").unwrap();
    assert_eq!(said, "BACKY CRITICAL - Critical / of Damage (and 3 more)");
    let found: Vec<&str> = figures.split(' ').collect();
    assert_eq!(
        found,
        [
            "'revisions'=7;;;0",
            // Since the last revision with the most frequent tag.
            "'age'=4699s;6000;7000;0",
            "'pulled'=4698s;6000;7000;0",
            "'damaged'=3;;0;0",
            "'chain'=5;55;;0",
            "'checked'=67.8%;;;0;100",
            "'unchecked'=4798s;;;0",
            "'size'=1001B;;;0",
            "'changed'=1003B;;;0",
            "'took'=10.5s;;;0",
            "'used'=2001B;;;0;9003",
            "'free'=2002B;;;0;9003",
        ]
    );
}

/// Without a schedule, the age is that of the newest revision and has no limits.
#[test]
fn the_age_without_a_schedule_is_that_of_the_newest() {
    let mut without = figures();
    without.schedule.clear();
    let line = nagios(&without);
    assert!(line.contains(" 'age'=4899s;;;0 "), "{line}");
}

/// The line of a host counts its archives by level.
#[test]
fn the_line_of_a_host_counts_by_level() {
    let levels = [(Level::Critical, 4), (Level::Unknown, 3), (Level::Warning, 2), (Level::Ok, 5)];
    let of = |level: Level| {
        let mut checked = Checked::of(figures());
        checked.health.level = level;
        checked
    };
    let archives: Vec<Checked> =
        levels.into_iter().flat_map(|(level, count)| (0..count).map(move |_| of(level))).collect();
    let host = HostReport {
        schema: 1,
        checked: at(0),
        level: Level::Critical,
        summary: "14 archives".to_owned(),
        archives,
        file_systems: Vec::new(),
        problems: Vec::new(),
    };
    let line = nagios_host(&host);
    assert_eq!(
        line,
        "BACKY CRITICAL - 14 archives | 'archives'=14;;;0 'ok'=5;;;0 'warning'=2;0;;0 \
         'critical'=4;;0;0 'unknown'=3;;;0\n"
    );
}
