//! Revision specifications: what a person types to name one revision, or several.
//!
//! Parsing ([`RevisionSpec`], [`RevisionsSpec`]) is separate from finding what the text means in an archive.
//! Text with several readings that mean different revisions is an error that lists them.

mod when;

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;

use crate::base::error::{Error, Result};
use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::Revision;

pub use when::{Here, When};

/// Names one revision: `latest`, `last`, `first`, a number from 0 (the newest), `tag:NAME`, a UUID or its
/// prefix, or a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevisionSpec {
    /// The newest.
    Latest,
    /// The oldest.
    First,
    /// Counted from the newest, which is 0.
    Number(usize),
    /// The newest with the tag.
    Tag(Tag),
    /// A prefix of the UUID, in lower-case hex digits and hyphens.
    Uuid(String),
    /// The newest that was not made after this time.
    NotAfter(When),
}

/// Names several revisions: `all`, `A..B`, `tag:NAME` (all that have it), a time (all made then), one
/// revision, or a comma-separated list of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionsSpec(Vec<Part>);

impl From<When> for RevisionsSpec {
    /// All revisions made in that time.
    fn from(when: When) -> Self {
        RevisionsSpec(vec![Part::Made(when)])
    }
}

impl From<RevisionSpec> for RevisionsSpec {
    /// One revision; of a time all that were made then, so that whoever deletes them deletes none from before it.
    fn from(spec: RevisionSpec) -> Self {
        match spec {
            RevisionSpec::NotAfter(when) => when.into(),
            one => RevisionsSpec(vec![Part::One(one)]),
        }
    }
}

impl FromIterator<RevisionsSpec> for RevisionsSpec {
    /// All that one of them means.
    fn from_iter<I: IntoIterator<Item = RevisionsSpec>>(specs: I) -> Self {
        RevisionsSpec(specs.into_iter().flat_map(|spec| spec.0).collect())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    All,
    Tagged(Tag),
    Made(When),
    One(RevisionSpec),
    Between(RevisionSpec, RevisionSpec),
    /// A tag with `..` in its name, which may also be one of these ranges: the tag, if a revision has it.
    TaggedOrBetween(Tag, Vec<(RevisionSpec, RevisionSpec)>),
}

/// Shortest accepted prefix of a UUID.
const MIN_PREFIX_DIGITS: usize = 4;

impl RevisionSpec {
    /// Parses what the user typed; `here` gives times their meaning.
    ///
    /// # Errors
    /// [`Error::Specification`] with what is expected.
    pub fn parse(text: &str, here: &Here) -> Result<Self> {
        if let Some(tag) = text.strip_prefix("tag:") {
            return Ok(RevisionSpec::Tag(parse_tag(tag)?));
        }
        match text {
            "latest" | "last" => return Ok(RevisionSpec::Latest),
            "first" => return Ok(RevisionSpec::First),
            _ => {}
        }
        // Up to three digits are always a number; longer ones are a number if no UUID can begin with them.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && text.len() < MIN_PREFIX_DIGITS {
            return text.parse().map(RevisionSpec::Number).map_err(|_| malformed(text));
        }
        if let Some(when) = When::parse(text, here) {
            return when.map(RevisionSpec::NotAfter);
        }
        let lower = text.to_ascii_lowercase();
        let hex_digits = lower.bytes().filter(u8::is_ascii_hexdigit).count();
        let only_hex = lower.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if only_hex && (MIN_PREFIX_DIGITS..=32).contains(&hex_digits) && lower.len() <= 36 {
            return Ok(RevisionSpec::Uuid(lower));
        }
        Err(malformed(text))
    }

    /// The revision that it means.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] if there is none or more than one, with those that exist.
    pub fn resolve(&self, revisions: &[Revision]) -> Result<RevisionId> {
        let number = self.number(revisions)?;
        let found = revisions.get(number).map(|revision| revision.uuid);
        found.ok_or_else(|| no_such(format!("there is no revision {number}")))
    }

    /// The same as its number, counted from the newest.
    fn number(&self, revisions: &[Revision]) -> Result<usize> {
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
            RevisionSpec::NotAfter(when) => when.newest_not_after(revisions),
        }
    }
}

fn resolve_prefix(prefix: &str, revisions: &[Revision]) -> Result<usize> {
    // Four or more digits may also be the number of an existing revision.
    let number = prefix.parse::<usize>().ok();
    let there = number.filter(|number| *number < revisions.len());
    let matches = with_prefix(prefix, revisions);
    let uuids = || {
        let uuid = |&number: &usize| revisions.get(number).map(|found| found.uuid.to_string());
        matches.iter().filter_map(uuid)
    };
    match (matches.as_slice(), there) {
        ([one], None) => Ok(*one),
        ([one], Some(number)) if *one == number => Ok(number),
        ([], _) => match number {
            Some(number) => RevisionSpec::Number(number).number(revisions),
            None => Err(no_such(format!(
                "no revision's UUID begins with '{prefix}'; there are {} revisions, see 'status'",
                revisions.len()
            ))),
        },
        (several, None) => {
            let shown: Vec<String> = uuids().take(5).collect();
            Err(no_such(format!(
                "'{prefix}' is ambiguous: {} revisions begin with it: {}{}",
                several.len(),
                shown.join(", "),
                if several.len() > shown.len() { ", …" } else { "" }
            )))
        }
        (_, Some(number)) => {
            let begins = uuids().take(5).map(|uuid| format!("the UUID {uuid}"));
            let ways = std::iter::once(format!("revision {number}")).chain(begins);
            Err(ambiguous(prefix, ways.collect(), "give more of the UUID, or another name"))
        }
    }
}

/// The numbers of the revisions whose UUID has this prefix, with or without hyphens.
fn with_prefix(prefix: &str, revisions: &[Revision]) -> Vec<usize> {
    let plain = |text: &str| text.replace('-', "");
    let wanted = plain(prefix);
    let begins = |revision: &Revision| plain(&revision.uuid.to_string()).starts_with(&wanted);
    let numbered = revisions.iter().enumerate().filter(|(_, revision)| begins(revision));
    numbered.map(|(number, _)| number).collect()
}

impl RevisionsSpec {
    /// Parses what the user typed; `here` gives times their meaning.
    ///
    /// # Errors
    /// [`Error::Specification`] with what is expected.
    pub fn parse(text: &str, here: &Here) -> Result<Self> {
        let parts = text.split(',').map(|part| parse_part(part.trim(), here));
        parts.collect::<Result<_>>().map(RevisionsSpec)
    }

    /// All revisions.
    pub fn all() -> Self {
        RevisionsSpec(vec![Part::All])
    }

    /// The revisions with these names.
    pub(crate) fn of(ids: &[RevisionId]) -> Self {
        let one = |id: &RevisionId| Part::One(RevisionSpec::Uuid(id.to_string()));
        RevisionsSpec(ids.iter().map(one).collect())
    }

    /// Whether all revisions are meant, however many there are.
    pub fn is_all(&self) -> bool {
        self.0.contains(&Part::All)
    }

    /// The revisions that it means, newest first and without duplicates. `all` of an empty archive is not an error.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`].
    pub fn resolve(&self, revisions: &[Revision]) -> Result<Vec<RevisionId>> {
        let numbers = self.numbers(revisions)?.into_iter();
        Ok(numbers.filter_map(|number| Some(revisions.get(number)?.uuid)).collect())
    }

    /// The same as numbers, ascending.
    fn numbers(&self, revisions: &[Revision]) -> Result<Vec<usize>> {
        let mut numbers = Vec::new();
        for part in &self.0 {
            match part {
                Part::All => numbers.extend(0..revisions.len()),
                Part::One(spec) => numbers.push(spec.number(revisions)?),
                Part::Made(when) => numbers.extend(when.all_made(revisions)?),
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

/// The numbers of all revisions that have a tag.
fn with_tag(tag: &Tag, revisions: &[Revision]) -> Vec<usize> {
    let tagged = revisions.iter().enumerate().filter(|(_, revision)| revision.tags.contains(tag));
    tagged.map(|(number, _)| number).collect()
}

/// The revisions between two ends, in either order. If an end is a time, nothing made before or after it is included.
fn between(a: &RevisionSpec, b: &RevisionSpec, revisions: &[Revision]) -> Result<Vec<usize>> {
    let made = |wanted: &dyn Fn(usize, Timestamp) -> bool| -> Result<Vec<usize>> {
        let numbered = revisions.iter().enumerate();
        let made = numbered.filter(|(number, revision)| wanted(*number, revision.started));
        let made: Vec<usize> = made.map(|(number, _)| number).collect();
        let none = "no revision was made between the ends of the range".to_owned();
        if made.is_empty() { Err(no_such(none)) } else { Ok(made) }
    };
    match (a, b) {
        (RevisionSpec::NotAfter(a), RevisionSpec::NotAfter(b)) => {
            let (a, b) = (a.only_reading()?, b.only_reading()?);
            let (start, end) = (a.start.min(b.start), a.end.max(b.end));
            made(&|_, time| start <= time && time < end)
        }
        (RevisionSpec::NotAfter(when), other) | (other, RevisionSpec::NotAfter(when)) => {
            let (stretch, end) = (when.only_reading()?, other.number(revisions)?);
            let of_end = revisions.get(end).map_or(stretch.start, |found| found.started);
            match of_end {
                of_end if of_end < stretch.start => {
                    made(&|number, time| number <= end && time < stretch.end)
                }
                of_end if of_end >= stretch.end => {
                    made(&|number, time| number >= end && time >= stretch.start)
                }
                _ => made(&|_, time| stretch.start <= time && time < stretch.end),
            }
        }
        (a, b) => {
            let (a, b) = (a.number(revisions)?, b.number(revisions)?);
            Ok((a.min(b)..=a.max(b)).collect())
        }
    }
}

/// Refuses pinned revisions: a person who pinned one wants to keep it.
///
/// # Errors
/// [`Error::Pinned`] names those that are.
pub fn check_unpinned(revisions: &[Revision], ids: &[RevisionId]) -> Result<()> {
    let ids: HashSet<RevisionId> = ids.iter().copied().collect();
    let named = revisions.iter().enumerate().filter(|(_, revision)| ids.contains(&revision.uuid));
    let pinned = named.filter_map(|(number, revision)| {
        let tags: Vec<&str> = revision.pinned_tags.iter().map(Tag::as_str).collect();
        (!tags.is_empty()).then(|| format!("revision {number} ({})", tags.join(", ")))
    });
    let pinned: Vec<String> = pinned.collect();
    match pinned.is_empty() {
        true => Ok(()),
        false => Err(Error::Pinned { revisions: pinned.join(", ") }),
    }
}

/// Refuses to remove tags that a revision does not have: the user means another revision or another tag.
///
/// # Errors
/// [`Error::Specification`] with the tags it has; [`Error::NoSuchRevision`].
pub fn check_tagged(revisions: &[Revision], id: RevisionId, tags: &BTreeSet<Tag>) -> Result<()> {
    let mut numbered = revisions.iter().enumerate();
    let Some((number, revision)) = numbered.find(|(_, revision)| revision.uuid == id) else {
        return Err(no_such(format!("revision {id} no longer exists")));
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
    let message = format!("revision {number} ({id}) has no tag '{tag}' to remove; it has {has}");
    Err(Error::Specification { message })
}

fn parse_part(text: &str, here: &Here) -> Result<Part> {
    if text == "all" {
        return Ok(Part::All);
    }
    if let Some(name) = text.strip_prefix("tag:") {
        // Tags of older archives may contain `..`.
        match name.parse() {
            Ok(tag) if name.contains("..") => {
                let ranges = ranges(text, here).collect();
                return Ok(Part::TaggedOrBetween(tag, ranges));
            }
            Ok(tag) => return Ok(Part::Tagged(tag)),
            Err(_) => {}
        }
    }
    match text.split_once("..") {
        Some((from, to)) => match ranges(text, here).next() {
            Some((from, to)) => Ok(Part::Between(from, to)),
            None => {
                let end = |text: &str| RevisionSpec::parse(text.trim(), here);
                Ok(Part::Between(end(from)?, end(to)?))
            }
        },
        None => Ok(match RevisionSpec::parse(text, here)? {
            RevisionSpec::NotAfter(when) => Part::Made(when),
            one => Part::One(one),
        }),
    }
}

/// The ranges that a text can mean: one for each place with two dots.
fn ranges(text: &str, here: &Here) -> impl Iterator<Item = (RevisionSpec, RevisionSpec)> {
    let end = |text: &str| RevisionSpec::parse(text.trim(), here).ok();
    let places = text.char_indices().map(|(at, _)| text.split_at(at));
    places.filter_map(move |(from, to)| Some((end(from)?, end(to.strip_prefix("..")?)?)))
}

fn parse_tag(text: &str) -> Result<Tag> {
    text.parse().map_err(|message| Error::Specification { message })
}

fn malformed(text: &str) -> Error {
    Error::Specification {
        message: format!(
            "'{}' names no revision; expected a number (0 is the newest), latest, last, first, tag:NAME, \
             a UUID or at least {MIN_PREFIX_DIGITS} hex digits of its beginning, or a time such as '2026-11-28', \
             '2026-11-28 02:00', yesterday or '3 days ago'",
            text.escape_default()
        ),
    }
}

fn no_such(message: String) -> Error {
    Error::NoSuchRevision { message }
}

/// An error for text with several readings, with a way to be specific.
fn ambiguous(text: &str, ways: Vec<String>, advice: &str) -> Error {
    let text = text.escape_default();
    no_such(format!("'{text}' is ambiguous; it can mean {}; {advice}", ways.join(", or ")))
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
mod tests;
