//! Revision specifications: what a person types to name one revision, or several.
//!
//! What was typed is parsed first ([`RevisionSpec`], [`RevisionsSpec`]), apart from what it means in an archive.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::format::manifest::Revision;
use crate::revision::{RevisionId, Tag};

/// Names one revision: `latest`, `last`, `first`, a number from 0 (the newest), `tag:NAME`, or a UUID or its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevisionSpec {
    /// The newest.
    Latest,
    /// The oldest.
    First,
    /// Counted from the newest, which is 0.
    Number(usize),
    /// The newest that has the tag.
    Tag(Tag),
    /// Lower-case hex digits and hyphens that the UUID begins with.
    Uuid(String),
}

/// Names several revisions: `all`, `A..B`, `tag:NAME` (all that have it), one revision, or a comma list of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionsSpec(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    All,
    Tagged(Tag),
    One(RevisionSpec),
    Between(RevisionSpec, RevisionSpec),
    /// The name of a tag with `..` in it, which may also mean one of these ranges: the tag, if a revision has it.
    TaggedOrBetween(Tag, Vec<(RevisionSpec, RevisionSpec)>),
}

/// Shortest beginning of a UUID that is taken.
const MIN_PREFIX_DIGITS: usize = 4;

impl FromStr for RevisionSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(tag) = text.strip_prefix("tag:") {
            return Ok(RevisionSpec::Tag(parse_tag(tag)?));
        }
        match text {
            "latest" | "last" => return Ok(RevisionSpec::Latest),
            "first" => return Ok(RevisionSpec::First),
            _ => {}
        }
        // Up to three digits are always a number; longer ones are when a UUID could not begin so.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && text.len() < MIN_PREFIX_DIGITS {
            return text.parse().map(RevisionSpec::Number).map_err(|_| malformed(text));
        }
        let lower = text.to_ascii_lowercase();
        let hex_digits = lower.bytes().filter(u8::is_ascii_hexdigit).count();
        let only_hex = lower.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if only_hex && (MIN_PREFIX_DIGITS..=32).contains(&hex_digits) && lower.len() <= 36 {
            return Ok(RevisionSpec::Uuid(lower));
        }
        Err(malformed(text))
    }
}

impl RevisionSpec {
    /// Number of the revision that is meant, counted from the newest.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] when there is none, or more than one; says what there is.
    pub fn resolve(&self, revisions: &[Revision]) -> Result<usize> {
        let Some(last) = revisions.len().checked_sub(1) else {
            return Err(no_such("there are no revisions yet".to_owned()));
        };
        match self {
            RevisionSpec::Latest => Ok(0),
            RevisionSpec::First => Ok(last),
            RevisionSpec::Number(number) if *number <= last => Ok(*number),
            RevisionSpec::Number(number) => {
                Err(no_such(format!("there is no revision {number}; there are 0 to {last}")))
            }
            RevisionSpec::Tag(tag) => revisions
                .iter()
                .position(|revision| revision.tags.contains(tag))
                .ok_or_else(|| no_tag(tag, revisions)),
            RevisionSpec::Uuid(prefix) => resolve_prefix(prefix, revisions),
        }
    }
}

fn resolve_prefix(prefix: &str, revisions: &[Revision]) -> Result<usize> {
    let plain = |text: &str| text.replace('-', "");
    let wanted = plain(prefix);
    let matches: Vec<usize> = revisions
        .iter()
        .enumerate()
        .filter(|(_, revision)| plain(&revision.uuid.to_string()).starts_with(&wanted))
        .map(|(number, _)| number)
        .collect();
    match matches.as_slice() {
        [one] => Ok(*one),
        [] => match prefix.parse::<usize>() {
            // Four or more digits that no UUID begins with: a number, when there is one.
            Ok(number) => RevisionSpec::Number(number).resolve(revisions),
            Err(_) => Err(no_such(format!(
                "no revision's UUID begins with '{prefix}'; there are {} revisions, see 'status'",
                revisions.len()
            ))),
        },
        several => {
            let shown: Vec<String> = several
                .iter()
                .take(5)
                .filter_map(|&number| revisions.get(number))
                .map(|revision| revision.uuid.to_string())
                .collect();
            Err(no_such(format!(
                "'{prefix}' is ambiguous: {} revisions begin with it: {}{}",
                several.len(),
                shown.join(", "),
                if several.len() > shown.len() { ", …" } else { "" }
            )))
        }
    }
}

impl FromStr for RevisionsSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split(',').map(str::trim).map(parse_part).collect::<Result<_>>().map(RevisionsSpec)
    }
}

impl RevisionsSpec {
    /// All revisions.
    pub fn all() -> Self {
        RevisionsSpec(vec![Part::All])
    }

    /// Numbers of the revisions that are meant, ascending and each once. `all` of an empty archive is no error.
    pub fn resolve(&self, revisions: &[Revision]) -> Result<Vec<usize>> {
        let mut numbers = Vec::new();
        for part in &self.0 {
            match part {
                Part::All => numbers.extend(0..revisions.len()),
                Part::One(spec) => numbers.push(spec.resolve(revisions)?),
                Part::Between(a, b) => numbers.extend(between(a, b, revisions)?),
                Part::Tagged(tag) => match with_tag(tag, revisions) {
                    tagged if tagged.is_empty() => return Err(no_tag(tag, revisions)),
                    tagged => numbers.extend(tagged),
                },
                Part::TaggedOrBetween(tag, ranges) => match with_tag(tag, revisions) {
                    tagged if tagged.is_empty() => {
                        let mut found = ranges.iter().map(|(a, b)| between(a, b, revisions));
                        let first = found.next().unwrap_or_else(|| Err(no_tag(tag, revisions)));
                        numbers.extend(first.or_else(|error| found.flatten().next().ok_or(error))?);
                    }
                    tagged => numbers.extend(tagged),
                },
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }
}

/// The numbers of all revisions from one to another, whichever is the newer.
fn between(
    a: &RevisionSpec,
    b: &RevisionSpec,
    revisions: &[Revision],
) -> Result<RangeInclusive<usize>> {
    let (a, b) = (a.resolve(revisions)?, b.resolve(revisions)?);
    Ok(a.min(b)..=a.max(b))
}

/// The numbers of all revisions that have a tag.
fn with_tag(tag: &Tag, revisions: &[Revision]) -> Vec<usize> {
    let tagged = revisions.iter().enumerate().filter(|(_, revision)| revision.tags.contains(tag));
    tagged.map(|(number, _)| number).collect()
}

/// What the revisions with these numbers are called. Numbers mean others once somebody else has made a revision; so
/// whoever changes an archive takes the names before the lock, and the numbers after.
pub fn names(revisions: &[Revision], numbers: &[usize]) -> Vec<RevisionId> {
    let chosen = numbers.iter().filter_map(|&number| revisions.get(number));
    chosen.map(|revision| revision.uuid).collect()
}

/// The numbers of the revisions that are called so.
///
/// # Errors
/// [`Error::NoSuchRevision`] when one has gone.
pub fn numbers(revisions: &[Revision], names: &[RevisionId]) -> Result<Vec<usize>> {
    let number = |name: &RevisionId| {
        let number = revisions.iter().position(|revision| revision.uuid == *name);
        number.ok_or_else(|| no_such(format!("revision {name} has gone meanwhile")))
    };
    names.iter().map(number).collect()
}

/// That none of these revisions is pinned: whoever has pinned one wants it kept.
///
/// # Errors
/// [`Error::Specification`] names those that are.
pub fn check_unpinned(revisions: &[Revision], numbers: &[usize]) -> Result<()> {
    let pinned = numbers.iter().filter_map(|&number| {
        let tags: Vec<&str> = revisions.get(number)?.pinned_tags.iter().map(Tag::as_str).collect();
        (!tags.is_empty()).then(|| format!("revision {number} ({})", tags.join(", ")))
    });
    let pinned: Vec<String> = pinned.collect();
    match pinned.is_empty() {
        true => Ok(()),
        false => Err(Error::Specification { message: format!("pinned: {}", pinned.join(", ")) }),
    }
}

/// That a revision has these tags: whoever removes one that is not there means another revision, or another tag.
///
/// # Errors
/// [`Error::Specification`] says which it has; [`Error::NoSuchRevision`] when there is no such number.
pub fn check_tagged(revisions: &[Revision], number: usize, tags: &BTreeSet<Tag>) -> Result<()> {
    let Some(revision) = revisions.get(number) else {
        return Err(no_such(format!("there is no revision {number}")));
    };
    let Some(tag) = tags.difference(&revision.tags).next() else { return Ok(()) };
    let mark = |tag: &Tag| match revision.pinned_tags.contains(tag) {
        true => format!("{tag} (pinned)"),
        false => tag.to_string(),
    };
    let has = match revision.tags.iter().map(mark).collect::<Vec<_>>().join(", ") {
        tags if tags.is_empty() => "none".to_owned(),
        tags => tags,
    };
    let message = format!(
        "revision {number} ({}) has no tag '{tag}' to be removed; it has {has}",
        revision.uuid
    );
    Err(Error::Specification { message })
}

fn parse_part(text: &str) -> Result<Part> {
    if text == "all" {
        return Ok(Part::All);
    }
    if let Some(name) = text.strip_prefix("tag:") {
        // Tags of older archives may have `..` in their names.
        match name.parse() {
            Ok(tag) if name.contains("..") => {
                let ranges = ranges(text).collect();
                return Ok(Part::TaggedOrBetween(tag, ranges));
            }
            Ok(tag) => return Ok(Part::Tagged(tag)),
            Err(_) => {}
        }
    }
    match text.split_once("..") {
        Some((from, to)) => match ranges(text).next() {
            Some((from, to)) => Ok(Part::Between(from, to)),
            None => Ok(Part::Between(from.parse()?, to.parse()?)),
        },
        None => Ok(Part::One(text.parse()?)),
    }
}

/// The ranges that a text can mean, wherever in it two dots are.
fn ranges(text: &str) -> impl Iterator<Item = (RevisionSpec, RevisionSpec)> {
    let places = text.char_indices().map(|(at, _)| text.split_at(at));
    places.filter_map(|(from, to)| Some((from.parse().ok()?, to.strip_prefix("..")?.parse().ok()?)))
}

fn parse_tag(text: &str) -> Result<Tag> {
    text.parse().map_err(|message| Error::Specification { message })
}

fn malformed(text: &str) -> Error {
    Error::Specification {
        message: format!(
            "'{}' names no revision; expected a number (0 is the newest), latest, last, first, tag:NAME, \
             or a UUID or at least {MIN_PREFIX_DIGITS} hex digits of its beginning",
            text.escape_default()
        ),
    }
}

fn no_such(message: String) -> Error {
    Error::NoSuchRevision { message }
}

fn no_tag(tag: &Tag, revisions: &[Revision]) -> Error {
    let tags: std::collections::BTreeSet<&str> =
        revisions.iter().flat_map(|revision| &revision.tags).map(Tag::as_str).collect();
    let there_is = match tags.is_empty() {
        true => "no revision has a tag".to_owned(),
        false => format!("there are {}", tags.into_iter().collect::<Vec<_>>().join(", ")),
    };
    no_such(format!("no revision has the tag '{tag}'; {there_is}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::format::manifest::Statistics;
    use jiff::Timestamp;

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
            let spec: RevisionSpec = text.parse().unwrap();
            assert_eq!(spec.resolve(&revisions()).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn what_names_no_revision_is_an_error_that_says_what_there_is() {
        for (text, word) in [
            ("3", "0 to 2"),
            ("tag:yearly", "daily"),
            ("abcd", "3 revisions"),
            ("0193", "ambiguous"),
            ("9999", "0 to 2"),
        ] {
            let spec: RevisionSpec = text.parse().unwrap();
            let error = spec.resolve(&revisions()).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        for text in ["", "abc", "-1", "x", "tag:", "tag:a b", "latest ", "..", "1..2", "g1234567"] {
            assert!(text.parse::<RevisionSpec>().is_err(), "{text}");
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
            let spec: RevisionsSpec = text.parse().unwrap();
            assert_eq!(spec.resolve(&revisions()).unwrap(), numbers, "{text}");
        }
        let numbers = |text: &str| text.parse::<RevisionsSpec>().unwrap().resolve(&revisions());
        // A tag with dots in its name is meant where a revision has it; else the dots are a range.
        assert_eq!(numbers("tag:a..b").unwrap(), [2]);
        assert_eq!(numbers("tag:a..b..1").unwrap(), [1, 2]);
        assert_eq!(numbers("0..tag:a..b").unwrap(), [0, 1, 2]);
        assert_eq!(numbers("tag:weekly..0").unwrap(), [0, 1]);
        assert!(numbers("tag:x..y").unwrap_err().to_string().contains("'x..y'"));
        for text in ["", "0,", "0..", "..", "everything"] {
            assert!(text.parse::<RevisionsSpec>().is_err(), "{text}");
        }
        assert_eq!(RevisionsSpec::all().resolve(&[]).unwrap(), Vec::<usize>::new());
    }
}
