//! Any text as a revision specification, on any revisions: it resolves as `doc` describes, implemented here a second
//! time, or it is an error of one line.

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Unstructured};
use backy_lib::digest::Digest;
use backy_lib::format::manifest::Statistics;
use backy_lib::{Error, Here, Revision, RevisionId, RevisionSpec, RevisionsSpec};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::retention::tag;

const TAGS: [&str; 6] = ["daily", "weekly", "a..b", "0", "x-1", "all"];
const MAX_REVISIONS: usize = 12;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let Some((revisions, text)) = input(data) else { return };
    check_one(&text, &revisions);
    check_several(&text, &revisions);
}

/// The first byte is how many revisions there are; each has a byte for its tags and three for its UUID, of few
/// different digits, so that beginnings are shared. The rest is the text.
fn input(data: &[u8]) -> Option<(Vec<Revision>, String)> {
    let mut bytes = Unstructured::new(data);
    let count = usize::from(u8::arbitrary(&mut bytes).ok()?) % (MAX_REVISIONS + 1);
    let mut revisions: Vec<Revision> = Vec::new();
    for number in 0..count {
        let [bits, a, b, c] = <[u8; 4]>::arbitrary(&mut bytes).ok()?;
        let start = u128::from(u32::from_be_bytes([a, b, c, a ^ b]));
        let id = RevisionId::from(uuid::Uuid::from_u128(start << 96 | number as u128));
        // A day apart, the newest today.
        let age = SignedDuration::from_hours(24 * number as i64 + i64::from(c % 24));
        let (time, statistics) = (now().saturating_sub(age).ok()?, Statistics::default());
        let mut one = Revision::newest(id, time, time, 0, Digest::of(b""), statistics);
        let chosen = TAGS.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        one.tags = chosen.map(|(_, word)| tag(word)).collect();
        revisions.push(one);
    }
    let text = std::str::from_utf8(bytes.take_rest()).ok()?.to_owned();
    Some((revisions, text))
}

fn check_one(text: &str, revisions: &[Revision]) {
    let parsed = RevisionSpec::parse(text, &here());
    if looks_like_a_time(text) && !is_day(text) {
        let found = parsed.and_then(|spec| spec.resolve(revisions));
        return check_error(found.as_ref().err());
    }
    let expected = one(text, revisions).map(|number| revisions[number].uuid);
    let found = match parsed {
        Ok(spec) => {
            assert!(is_spec(text), "{text:?} is taken");
            spec.resolve(revisions)
        }
        Err(error) => {
            assert!(!is_spec(text), "{text:?} is not taken: {error}");
            Err(error)
        }
    };
    check_error(found.as_ref().err());
    assert_eq!(found.ok(), expected, "{text:?}");
}

fn check_several(text: &str, revisions: &[Revision]) {
    let found = RevisionsSpec::parse(text, &here()).and_then(|spec| spec.resolve(revisions));
    check_error(found.as_ref().err());
    let ends = text.split(',').flat_map(|part| part.split("..").map(str::trim));
    let is_single = |end: &str| is_day(end) && !text.contains("..");
    let mut times = ends.filter(|end| looks_like_a_time(end) && !is_single(end));
    if times.next().is_some() {
        return;
    }
    let expected = several(text, revisions);
    let expected = expected.map(|all| all.iter().map(|&n| revisions[n].uuid).collect::<Vec<_>>());
    assert_eq!(found.ok(), expected, "{text:?}");
}

fn check_error(error: Option<&Error>) {
    let Some(error) = error else { return };
    assert!(matches!(error, Error::Specification { .. } | Error::NoSuchRevision { .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "not one line: {error:?}");
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

fn here() -> Here {
    Here { now: now(), zone: TimeZone::UTC }
}

fn looks_like_a_time(text: &str) -> bool {
    let has_day = text.as_bytes().get(..10).is_some_and(|day| {
        day.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
    });
    has_day || text.starts_with("today") || text.starts_with("yesterday") || text.ends_with(" ago")
}

/// Whether it is a day, as digits.
fn is_day(text: &str) -> bool {
    looks_like_a_time(text) && text.len() == 10 && text.as_bytes()[4] == b'-'
}

/// The day of a text that is one; `None` when the calendar does not have it.
fn day(text: &str) -> Option<Date> {
    text.parse().ok().filter(|_| is_day(text))
}

fn made_on(revision: &Revision) -> Date {
    revision.started.to_zoned(TimeZone::UTC).date()
}

fn is_tag(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    (1..=64).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || b"_-.".contains(&byte))
}

/// Whether a text names one revision of some archive.
fn is_spec(text: &str) -> bool {
    if let Some(name) = text.strip_prefix("tag:") {
        return is_tag(name);
    }
    if is_day(text) {
        return day(text).is_some();
    }
    let hex = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let short = (1..4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && (4..=32).contains(&hex)
        && text.len() <= 36;
    ["latest", "last", "first"].contains(&text) || short || prefix
}

/// The revision that a text names.
fn one(text: &str, revisions: &[Revision]) -> Option<usize> {
    let count = revisions.len();
    if count == 0 || !is_spec(text) {
        return None;
    }
    if let Some(name) = text.strip_prefix("tag:") {
        return revisions.iter().position(|each| each.tags.iter().any(|tag| tag.as_str() == name));
    }
    match text {
        "latest" | "last" => return Some(0),
        "first" => return Some(count - 1),
        _ => {}
    }
    let as_number = text.parse::<usize>().ok().filter(|number| *number < count);
    if text.len() < 4 {
        return as_number;
    }
    let wanted = text.replace('-', "").to_ascii_lowercase();
    let begins = |each: &Revision| each.uuid.to_string().replace('-', "").starts_with(&wanted);
    let mut found: BTreeSet<usize> =
        (0..count).filter(|&number| begins(&revisions[number])).collect();
    match day(text) {
        Some(day) => found.extend(revisions.iter().position(|each| made_on(each) <= day)),
        None => found.extend(as_number),
    }
    found.first().copied().filter(|_| found.len() == 1)
}

/// The revisions that were made on a day, or the one whose UUID begins so.
fn of_day(text: &str, revisions: &[Revision]) -> Option<Vec<usize>> {
    let wanted = text.replace('-', "");
    let all = || (0..revisions.len()).map(|number| (number, &revisions[number]));
    let made: Vec<usize> =
        all().filter(|(_, each)| Some(made_on(each)) == day(text)).map(|(n, _)| n).collect();
    let begins = |each: &Revision| each.uuid.to_string().replace('-', "").starts_with(&wanted);
    let called: Vec<usize> = all().filter(|(_, each)| begins(each)).map(|(n, _)| n).collect();
    match (made.as_slice(), called.as_slice()) {
        ([], [one]) => Some(vec![*one]),
        ([], _) => None,
        ([first, ..], called) if called.iter().all(|number| number == first) => Some(made),
        _ => None,
    }
}

/// The ends of the ranges that a text can mean, wherever in it two dots are.
fn ranges(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let places = text.char_indices().map(|(at, _)| text.split_at(at));
    let ends = places.filter_map(|(from, to)| Some((from.trim(), to.strip_prefix("..")?.trim())));
    ends.filter(|(from, to)| is_spec(from) && is_spec(to))
}

fn between((from, to): (&str, &str), revisions: &[Revision]) -> Option<Vec<usize>> {
    let (from, to) = (one(from, revisions)?, one(to, revisions)?);
    Some((from.min(to)..=from.max(to)).collect())
}

/// The revisions that a text names, ascending.
fn several(text: &str, revisions: &[Revision]) -> Option<Vec<usize>> {
    let mut found = BTreeSet::new();
    // What is malformed anywhere is an error, whatever the rest.
    for part in text.split(',').map(str::trim) {
        let name = part.strip_prefix("tag:").filter(|name| is_tag(name) || !name.contains(".."));
        if part == "all" {
            found.extend(0..revisions.len());
        } else if is_day(part) {
            day(part)?;
            found.extend(of_day(part, revisions)?);
        } else if let Some(name) = name {
            let has = |each: &Revision| each.tags.iter().any(|tag| tag.as_str() == name);
            let tagged: Vec<usize> =
                (0..revisions.len()).filter(|&number| has(&revisions[number])).collect();
            if tagged.is_empty() {
                // No revision has such a tag: its dots may be those of a range.
                found.extend(ranges(part).find_map(|ends| between(ends, revisions))?);
            }
            found.extend(tagged);
        } else if part.contains("..") {
            found.extend(between(ranges(part).next()?, revisions)?);
        } else {
            found.insert(one(part, revisions)?);
        }
    }
    Some(found.into_iter().collect())
}
