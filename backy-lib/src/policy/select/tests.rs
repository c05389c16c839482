//! Tests of what names revisions.

use super::*;
use crate::base::digest::Digest;
use crate::format::manifest::Statistics;
use jiff::tz::TimeZone;

fn here() -> Here {
    Here { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC }
}

fn one(text: &str) -> Result<RevisionSpec> {
    RevisionSpec::parse(text, &here())
}

fn several(text: &str) -> Result<RevisionsSpec> {
    RevisionsSpec::parse(text, &here())
}

fn revisions() -> Vec<Revision> {
    [
        ("01935470-2f5e-7cc0-9d1a-3f0c5a3be003", &["daily"][..]),
        ("01935470-2f5e-7cc0-9d1a-3f0c5a3be002", &["daily", "weekly"]),
        ("12345470-2f5e-7cc0-9d1a-3f0c5a3be001", &["a..b"]),
    ]
    .map(|(uuid, tags)| {
        let time = Timestamp::UNIX_EPOCH;
        let statistics = Statistics::default();
        let mut revision =
            Revision::newest(uuid.parse().unwrap(), time, time, 0, Digest::of(b""), statistics);
        revision.tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        revision
    })
    .to_vec()
}

#[test]
fn every_way_to_name_one_revision() {
    for (text, number) in [
        ("0", 0),
        ("2", 2),
        ("latest", 0),
        ("last", 0),
        ("first", 2),
        ("tag:weekly", 1),
        ("tag:daily", 0),
        ("1234", 2),
        ("12345470-2F5E", 2),
        ("01935470-2f5e-7cc0-9d1a-3f0c5a3be002", 1),
        ("019354702f5e7cc09d1a3f0c5a3be003", 0),
        ("0002", 2),
    ] {
        let spec = one(text).unwrap();
        assert_eq!(spec.number(&revisions()).unwrap(), number, "{text}");
        assert_eq!(spec.resolve(&revisions()).unwrap(), revisions()[number].uuid, "{text}");
    }
}

#[test]
fn a_name_without_a_revision_is_an_error_that_lists_what_exists() {
    for (text, word) in [
        ("3", "0 to 2"),
        ("tag:yearly", "daily"),
        ("abcd", "3 revisions"),
        ("0193", "ambiguous"),
        ("9999", "0 to 2"),
    ] {
        let spec = one(text).unwrap();
        let error = spec.resolve(&revisions()).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
    for text in ["", "abc", "-1", "x", "tag:", "tag:a b", "latest ", "..", "1..2", "g1234567"] {
        assert!(one(text).is_err(), "{text}");
    }
    assert!(RevisionSpec::Latest.resolve(&[]).is_err());
}

#[test]
fn every_way_to_name_several_revisions() {
    for (text, numbers) in [
        ("all", vec![0, 1, 2]),
        ("1", vec![1]),
        ("2,0,2", vec![0, 2]),
        ("0..1", vec![0, 1]),
        ("first..1", vec![1, 2]),
        ("tag:daily", vec![0, 1]),
        ("tag:weekly..first", vec![1, 2]),
        ("tag:weekly, 1234", vec![1, 2]),
    ] {
        let spec = several(text).unwrap();
        assert_eq!(spec.numbers(&revisions()).unwrap(), numbers, "{text}");
        let ids: Vec<RevisionId> = numbers.iter().map(|&number| revisions()[number].uuid).collect();
        assert_eq!(spec.resolve(&revisions()).unwrap(), ids, "{text}");
    }
    let numbers = |text: &str| several(text).unwrap().numbers(&revisions());
    // `..` is part of a tag if a revision has that tag; otherwise it is a range.
    assert_eq!(numbers("tag:a..b").unwrap(), [2]);
    assert_eq!(numbers("tag:a..b..1").unwrap(), [1, 2]);
    assert_eq!(numbers("0..tag:a..b").unwrap(), [0, 1, 2]);
    assert_eq!(numbers("tag:weekly..0").unwrap(), [0, 1]);
    assert!(numbers("tag:x..y").unwrap_err().to_string().contains("'x..y'"));
    for text in ["", "0,", "0..", "..", "everything"] {
        assert!(several(text).is_err(), "{text}");
    }
    assert_eq!(RevisionsSpec::all().resolve(&[]).unwrap(), Vec::<RevisionId>::new());
}
