//! Which tags are due: a pure function of the revisions, the config and the time.
//!
//! A tag is due at slots: its series keeps the hour and the weekday of its first revision, or has those of
//! the config (`slots`). A revision fills the slot before it, or the next one if that is near. So nothing
//! drifts, whatever runs backups and however often: a missed backup is made at the next call, and the one
//! after it is due at the old hour.
//!
//! A caller that runs once a night may be some minutes, or with summer time an hour, too early or too late.
//! So a tag is due early if no caller is known to run often, and exactly at its time otherwise.
//! `doc/decisions/22-the-hour-of-a-series.md` has the reasons.

mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::base::clock::latest;
use crate::base::revision::Tag;
use crate::format::manifest::{Manifest, Revision, Series};
use crate::policy::config::{Config, Interval};

use slots::{DAY, Slots};

/// How late a backup may be at most before that counts as a fault.
const MAX_TOLERANCE: SignedDuration = SignedDuration::from_hours(2);

/// How early a backup is made at most if no caller is known to run often: an hour of summer time, and jitter.
const MAX_EARLY: SignedDuration = SignedDuration::from_mins(75);

/// What the schedule says at a given time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// There is no schedule: a backup is always due.
    Always,
    /// These tags are due; none if empty.
    Tags(BTreeSet<Tag>),
}

impl Due {
    /// Whether to make a backup.
    pub fn is_due(&self) -> bool {
        match self {
            Due::Always => true,
            Due::Tags(tags) => !tags.is_empty(),
        }
    }
}

/// The input for the next due time.
#[derive(Debug, Clone)]
pub struct Past<'a> {
    /// The revisions, in any order.
    pub revisions: &'a [Revision],
    /// When series began; a tag without an entry began with its oldest revision.
    pub series: &'a [Series],
    /// The system's time zone.
    pub zone: TimeZone,
    /// When a caller last asked for a backup and none was due, if known.
    pub asked: Option<Timestamp>,
}

impl<'a> Past<'a> {
    /// From revisions alone, in UTC.
    pub fn of(revisions: &'a [Revision]) -> Self {
        Past { revisions, series: &[], zone: TimeZone::UTC, asked: None }
    }

    /// From a manifest.
    pub fn of_manifest(manifest: &'a Manifest, zone: TimeZone) -> Self {
        Past { zone, series: &manifest.series, ..Past::of(&manifest.revisions) }
    }
}

/// Which tags are due at `now`.
pub fn due(past: &Past<'_>, config: &Config, now: Timestamp) -> Due {
    if config.schedule.is_empty() {
        return Due::Always;
    }
    let due = |(tag, interval): &(&Tag, &Interval)| {
        Turn::of(past, tag, interval, now).is_none_or(|turn| turn.is_due(past.asked, now))
    };
    Due::Tags(config.schedule.iter().filter(due).map(|(tag, _)| tag.clone()).collect())
}

/// When a tag is due next, or since when it is due; `None` if it is due at once, because no revision up to
/// `now` has it and the config sets no time of day for it.
///
/// Ignores revisions from the future, more than five minutes ahead: a clock that was once wrong must not stop
/// backups until that date.
pub fn next_due(
    past: &Past<'_>,
    tag: &Tag,
    interval: &Interval,
    now: Timestamp,
) -> Option<Timestamp> {
    Turn::of(past, tag, interval, now).map(|turn| turn.next)
}

/// When the next revision is made if a caller asks then, and the tag that it gets; `None` if one is due at
/// once, and without a schedule. A backup missed outside of its window waits for the next window.
pub fn next(past: &Past<'_>, config: &Config, now: Timestamp) -> Option<(Timestamp, Tag)> {
    let turn = |(tag, interval)| {
        let turn = Turn::of(past, tag, interval, now)?;
        Some((turn.made_from(now), Tag::clone(tag)))
    };
    config.schedule.iter().map(turn).collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// Whether the time of the last unsuccessful request affects `due`.
pub fn minds_asking(past: &Past<'_>, config: &Config, now: Timestamp) -> bool {
    turns(past, config, now).any(|turn| turn.asks_from() <= now && now < turn.opens(true))
}

/// Whether to record that a caller asked now and nothing was due: shortly before a tag is due, and once for that time.
pub fn notes_asking(past: &Past<'_>, config: &Config, now: Timestamp) -> bool {
    let known = past.asked.filter(|asked| *asked <= now);
    turns(past, config, now).any(|turn| {
        let from = turn.asks_from();
        from <= now && now < turn.opens(false) && known.is_none_or(|asked| asked < from)
    })
}

/// When the series of the schedule's tags began, once a revision that began at `started` has `scheduled`
/// because they were due. A known series keeps its beginning, unless that is in the future.
pub fn series_after(
    past: &Past<'_>,
    config: &Config,
    scheduled: &BTreeSet<Tag>,
    started: Timestamp,
) -> Vec<Series> {
    let is_needed = |series: &&Series| {
        let tag = &series.tag;
        let is_carried = past.revisions.iter().any(|revision| revision.tags.contains(tag));
        let is_scheduled = config.schedule.contains_key(tag);
        is_scheduled && has_begun(series.began, started) || !is_scheduled && is_carried
    };
    let mut all: Vec<Series> = past.series.iter().filter(is_needed).cloned().collect();
    for tag in config.schedule.keys() {
        if all.iter().any(|series| series.tag == *tag) {
            continue;
        }
        let own = scheduled.contains(tag).then_some(started);
        let began = first_scheduled(past.revisions, tag, started).or(own);
        all.extend(began.map(|began| Series::new(tag.clone(), began)));
    }
    all
}

/// Whether a revision dated `started` had begun by `now`, and is not from the future.
pub(crate) fn has_begun(started: Timestamp, now: Timestamp) -> bool {
    started <= latest(now)
}

/// How late a backup with this interval may be before that counts as a fault.
pub(crate) fn tolerance(interval: SignedDuration) -> SignedDuration {
    (interval / 20).min(MAX_TOLERANCE)
}

fn turns<'a>(
    past: &'a Past<'_>,
    config: &'a Config,
    now: Timestamp,
) -> impl Iterator<Item = Turn> + 'a {
    config.schedule.iter().filter_map(move |(tag, interval)| Turn::of(past, tag, interval, now))
}

/// The oldest revision that has a tag because it was due.
fn first_scheduled(revisions: &[Revision], tag: &Tag, now: Timestamp) -> Option<Timestamp> {
    let with = revisions.iter().filter(|revision| {
        has_begun(revision.started, now)
            && revision.tags.contains(tag)
            && !revision.pinned_tags.contains(tag)
    });
    with.map(|revision| revision.started).min()
}

/// The slot of a tag that no revision fills yet.
struct Turn {
    slots: Slots,
    length: SignedDuration,
    /// When the last revision with the tag began.
    last: Option<Timestamp>,
    next: Timestamp,
}

impl Turn {
    fn of(past: &Past<'_>, tag: &Tag, interval: &Interval, now: Timestamp) -> Option<Self> {
        let there = || past.revisions.iter().filter(|revision| has_begun(revision.started, now));
        let with = || there().filter(|revision| revision.tags.contains(tag));
        let length = interval.interval;
        let Some(last) = with().map(|revision| revision.started).max() else {
            return Turn::first(past, interval, there().map(|revision| revision.started).max()?);
        };
        let stored = past.series.iter().find(|series| series.tag == *tag);
        let stored = stored.map(|series| series.began).filter(|began| has_begun(*began, now));
        let began = stored
            .or_else(|| first_scheduled(past.revisions, tag, now))
            .or_else(|| with().map(|revision| revision.started).min())?;
        let slots = Slots::new(interval, began, &past.zone);
        // A revision made this early fills the next slot.
        let next = slots.after(later(last, early(length)));
        Some(Turn { slots, length, last: Some(last), next })
    }

    /// For a tag that no revision has, in an archive whose newest revision began at `newest`: the first
    /// suitable time of day.
    fn first(past: &Past<'_>, interval: &Interval, newest: Timestamp) -> Option<Self> {
        if interval.at.is_none() && interval.window.is_none() {
            return None;
        }
        let length = interval.interval.min(SignedDuration::from_secs(DAY));
        let daily = Interval { interval: length, ..interval.clone() };
        let slots = Slots::new(&daily, newest, &past.zone);
        let next = slots.after(newest);
        Some(Turn { slots, length, last: None, next })
    }

    /// Outside of its window only if another slot has passed: then a whole interval was missed.
    fn is_due(&self, asked: Option<Timestamp>, now: Timestamp) -> bool {
        let from = self.asks_from();
        // The caller that made the last revision counts as asking.
        let mut asks = asked.into_iter().chain(self.last).filter(|asked| *asked <= now);
        let is_polled = asks.any(|asked| asked >= from);
        now >= self.opens(is_polled)
            && (self.slots.is_made_at(self.next, now) || now >= self.slots.after(self.next))
    }

    /// When it is made if a caller asks then.
    fn made_from(&self, now: Timestamp) -> Timestamp {
        if self.next > now || self.slots.is_made_at(self.next, now) {
            return self.next;
        }
        self.slots.window_begin_after(now).min(self.slots.after(self.next))
    }

    /// When it becomes due, depending on whether a caller asks often.
    fn opens(&self, is_polled: bool) -> Timestamp {
        if is_polled { self.next } else { later(self.next, -early(self.length)) }
    }

    /// A caller that has asked since then asks often.
    fn asks_from(&self) -> Timestamp {
        later(self.next, -2 * early(self.length))
    }
}

fn early(interval: SignedDuration) -> SignedDuration {
    (interval / 4).min(MAX_EARLY)
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    time.checked_add(by).unwrap_or(end)
}
