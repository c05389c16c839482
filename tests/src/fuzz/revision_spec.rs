//! Any text as a revision specification, on any revisions: it is resolved as `doc` has it, said here a second time, or it is
//! an error of one line.

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Unstructured};
use backy_lib::digest::Digest;
use backy_lib::format::manifest::Statistics;
use backy_lib::select::{names, numbers};
use backy_lib::{Error, Revision, RevisionId, RevisionSpec, RevisionsSpec};
use jiff::Timestamp;

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

/// The first byte is how many revisions there are; each has a byte for its tags and three for its UUID, of few different digits, so
/// that beginnings are shared. The rest is the text.
fn input(data: &[u8]) -> Option<(Vec<Revision>, String)> {
    let mut bytes = Unstructured::new(data);
    let count = usize::from(u8::arbitrary(&mut bytes).ok()?) % (MAX_REVISIONS + 1);
    let mut revisions: Vec<Revision> = Vec::new();
    for number in 0..count {
        let [bits, a, b, c] = <[u8; 4]>::arbitrary(&mut bytes).ok()?;
        let start = u128::from(u32::from_be_bytes([a, b, c, a ^ b]));
        let id = RevisionId::from(uuid::Uuid::from_u128(start << 96 | number as u128));
        let (time, statistics) = (Timestamp::UNIX_EPOCH, Statistics::default());
        let mut one = Revision::newest(id, time, time, 0, Digest::of(b""), statistics);
        let chosen = TAGS.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        one.tags = chosen.map(|(_, word)| tag(word)).collect();
        revisions.push(one);
    }
    let text = std::str::from_utf8(bytes.take_rest()).ok()?.to_owned();
    Some((revisions, text))
}

fn check_one(text: &str, revisions: &[Revision]) {
    let expected = one(text, revisions);
    let found = match text.parse::<RevisionSpec>() {
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
    let found = text.parse::<RevisionsSpec>().and_then(|spec| spec.resolve(revisions));
    check_error(found.as_ref().err());
    let expected = several(text, revisions);
    if let Ok(found) = &found {
        let called = names(revisions, found);
        assert_eq!(called.len(), found.len());
        assert_eq!(numbers(revisions, &called).ok().as_ref(), Some(found));
    }
    assert_eq!(found.ok(), expected, "{text:?}");
}

fn check_error(error: Option<&Error>) {
    let Some(error) = error else { return };
    assert!(matches!(error, Error::Specification { .. } | Error::NoSuchRevision { .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "not one line: {error:?}");
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
    match revisions.iter().filter(|each| begins(each)).count() {
        0 => as_number,
        1 => revisions.iter().position(begins),
        _ => None,
    }
}

/// The revisions that a text names, ascending.
fn several(text: &str, revisions: &[Revision]) -> Option<Vec<usize>> {
    let mut found = BTreeSet::new();
    // What is malformed anywhere is an error, whatever the rest.
    for part in text.split(',').map(str::trim) {
        let name = part.strip_prefix("tag:").filter(|name| !name.contains(".."));
        if part == "all" {
            found.extend(0..revisions.len());
        } else if let Some(name) = name {
            let has = |each: &Revision| each.tags.iter().any(|tag| tag.as_str() == name);
            let tagged: Vec<usize> =
                (0..revisions.len()).filter(|&number| has(&revisions[number])).collect();
            if tagged.is_empty() {
                return None;
            }
            found.extend(tagged);
        } else if let Some((from, to)) = part.split_once("..") {
            let (from, to) = (one(from, revisions)?, one(to, revisions)?);
            found.extend(from.min(to)..=from.max(to));
        } else {
            found.insert(one(part, revisions)?);
        }
    }
    Some(found.into_iter().collect())
}
