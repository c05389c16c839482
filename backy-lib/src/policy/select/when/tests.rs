use super::*;
use crate::base::digest::Digest;
use crate::base::error::ErrorKind;
use crate::format::manifest::Statistics;
use crate::policy::select::{RevisionSpec, RevisionsSpec};

/// Noon in Berlin on the last Sunday of October, when its clocks show 02:00 to 03:00 twice.
fn here() -> Here {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("the zone");
    Here { now: "2026-10-25T11:00:00Z".parse().unwrap(), zone }
}

fn revision(uuid: &str, started: &str) -> Revision {
    let started: Timestamp = started.parse().unwrap();
    let statistics = Statistics::default();
    Revision::newest(uuid.parse().unwrap(), started, started, 0, Digest::of(b""), statistics)
}

/// Newest first; local times are 03:10, 02:40 (winter), 02:20 (summer) of the 25th, 20:00 and 02:00:13 of the
/// 24th, 02:00:13 of the 20th.
fn revisions() -> Vec<Revision> {
    vec![
        revision("01935470-2f5e-7cc0-9d1a-3f0c5a3be006", "2026-10-25T02:10:00Z"),
        revision("01935470-2f5e-7cc0-9d1a-3f0c5a3be005", "2026-10-25T01:40:00Z"),
        revision("01935470-2f5e-7cc0-9d1a-3f0c5a3be004", "2026-10-25T00:20:00Z"),
        revision("01935470-2f5e-7cc0-9d1a-3f0c5a3be003", "2026-10-24T18:00:00Z"),
        revision("01935470-2f5e-7cc0-9d1a-3f0c5a3be002", "2026-10-24T00:00:13Z"),
        revision("20260101-2f5e-7cc0-9d1a-3f0c5a3be001", "2026-10-20T00:00:13Z"),
    ]
}

fn one(text: &str) -> Result<usize> {
    RevisionSpec::parse(text, &here())?.number(&revisions())
}

fn several(text: &str) -> Result<Vec<usize>> {
    RevisionsSpec::parse(text, &here())?.numbers(&revisions())
}

#[test]
fn a_time_names_the_newest_revision_not_made_after_it() {
    for (text, number) in [
        ("today", 0),
        ("2026-10-25", 0),
        ("yesterday", 3),
        ("1 day ago", 3),
        ("2026-10-24", 3),
        // A day without a backup.
        ("2026-10-22", 5),
        ("3 days ago", 5),
        ("1 week ago", 99),
        ("2030-01-01", 0),
        // Until the end of the minute or of the second.
        ("2026-10-24 02:00", 4),
        ("2026-10-24T02:00", 4),
        ("2026-10-24 02:00:13", 4),
        ("2026-10-24 02:00:12", 5),
        ("2026-10-24T00:00:13Z", 4),
        ("2026-10-24T02:00:13.5+02:00", 4),
        ("2026-10-24 00:00Z", 4),
        ("2026-10-24 02:00+0200", 4),
        ("2026-10-24 01:59", 5),
        ("yesterday 19:59", 4),
        ("yesterday 20:00", 3),
        ("today 03:10", 0),
        ("10 hours ago", 2),
        ("520 minutes ago", 0),
    ] {
        match one(text) {
            Ok(found) => assert_eq!(found, number, "{text}"),
            Err(error) => assert!(
                number == 99
                    && error.to_string().contains("the oldest was made on 2026-10-20 02:00"),
                "{text}: {error}"
            ),
        }
    }
}

/// The clocks show 02:30 twice that night. If both mean the same revision, the user need not choose.
#[test]
fn a_time_that_occurs_twice_is_an_error_that_lists_both_readings() {
    let error = one("2026-10-25 02:40").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchRevision);
    let text = error.to_string();
    for word in ["revision 2", "02:40+02", "revision 1", "02:40+01"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(one("2026-10-25 02:40+01:00").unwrap(), 1);
    assert_eq!(one("2026-10-25 02:40+02:00").unwrap(), 2);
    // Before 02:40 of the second round, and after 02:20 of the first one.
    assert_eq!(one("2026-10-25 02:30").unwrap(), 2);
    assert!(several("2026-10-25 02:40").unwrap_err().to_string().contains("ambiguous"));
    assert!(several("2026-10-25 02:40..0").unwrap_err().to_string().contains("ambiguous"));
}

#[test]
fn a_day_that_a_uuid_begins_with_is_an_error_that_lists_both_readings() {
    let mut revisions = revisions();
    revisions.push(revision("01935470-2f5e-7cc0-9d1a-3f0c5a3be000", "2026-01-01T00:00:00Z"));
    let spec = RevisionSpec::parse("2026-01-01", &here()).unwrap();
    let text = spec.resolve(&revisions).unwrap_err().to_string();
    for word in
        ["ambiguous", "revision 6 (the newest not after", "revision 5 (its UUID begins with that)"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let spec = RevisionsSpec::parse("2026-01-01", &here()).unwrap();
    assert!(spec.resolve(&revisions).unwrap_err().to_string().contains("ambiguous"));
    // Without the youngest of that day, only the UUID is left.
    assert_eq!(several("2026-01-01").unwrap(), [5]);
}

#[test]
fn an_invalid_time_is_an_error_that_says_why() {
    for (text, word) in [
        ("2026-02-30", "no such day"),
        ("2026-13-01", "no such day"),
        ("2026-11-28 25:00", "such as 02:00"),
        ("2026-11-28 2:00", "such as 02:00"),
        ("2026-11-28 02:00+99:00", "such as 02:00"),
        ("2026-11-28 02:00 CET", "such as 02:00"),
        ("2026-11-28 ", "such as 02:00"),
        ("2026-03-29 02:30", "put forward"),
        ("two days ago", "3 days ago"),
        ("-1 days ago", "3 days ago"),
        ("2 years ago", "3 days ago"),
        ("2147483647 weeks ago", "too long ago"),
        ("99999999999 days ago", "3 days ago"),
        ("tomorrow", "names no revision"),
        ("2026-11", "no revision's UUID begins"),
        ("02:00", "names no revision"),
        ("today2", "names no revision"),
    ] {
        let error = one(text).expect_err(text).to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{text}: {error}");
    }
}

/// In place of several revisions, a time means all those made then, and the ends of a range exclude those
/// made before or after.
#[test]
fn a_time_means_all_revisions_made_then() {
    for (text, numbers) in [
        ("yesterday", &[3, 4][..]),
        ("2026-10-24", &[3, 4]),
        ("2026-10-24 02:00", &[4]),
        ("2026-10-21..2026-10-24", &[3, 4]),
        ("2026-10-24..2026-10-21", &[3, 4]),
        ("yesterday..0", &[0, 1, 2, 3, 4]),
        ("first..2026-10-24 12:00", &[4, 5]),
        ("2026-10-22..first", &[5]),
        ("4..yesterday", &[3, 4]),
        ("yesterday, 5", &[3, 4, 5]),
        ("10 hours ago..0", &[0, 1]),
    ] {
        assert_eq!(several(text).unwrap(), numbers, "{text}");
    }
    for (text, word) in [
        ("2026-10-22", "no revision was made on"),
        ("2026-10-21..2026-10-22", "between"),
        ("2 hours ago", "is a moment"),
    ] {
        let error = several(text).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}
