//! Which tags are due: a pure function of what there is, the config and the time.
//!
//! A tag is due at slots: its series keeps the hour and the weekday at which it was first made, or has those of
//! the config (`slots`). A revision stands for the slot before it, or for the next one if that is near. So
//! nothing drifts, whatever asks and however often: what was missed is made as soon as somebody asks, and the
//! one after it is due at the old hour.
//!
//! Whoever asks once a night asks some minutes, or with summer time an hour, too early or too late. So a tag is
//! due early where nobody is known to ask often, and at its time where somebody does.
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

/// The most by which a backup may come late without anybody's being at fault.
const MAX_TOLERANCE: SignedDuration = SignedDuration::from_hours(2);

/// The most by which a backup is made early where nobody is known to ask often: an hour of summer time, and jitter.
const MAX_EARLY: SignedDuration = SignedDuration::from_mins(75);

/// What the schedule says at a given time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// There is no schedule: a backup is always due.
    Always,
    /// These tags are due; none when it is empty.
    Tags(BTreeSet<Tag>),
}

impl Due {
    /// Whether a backup should be made.
    pub fn is_due(&self) -> bool {
        match self {
            Due::Always => true,
            Due::Tags(tags) => !tags.is_empty(),
        }
    }
}

/// What the next due time follows from.
#[derive(Debug, Clone)]
pub struct Past<'a> {
    /// The revisions, in any order.
    pub revisions: &'a [Revision],
    /// When series began; without an entry, a series began with the oldest revision of it.
    pub series: &'a [Series],
    /// The system's time zone.
    pub zone: TimeZone,
    /// When somebody last asked for a backup in vain, as far as that is known.
    pub asked: Option<Timestamp>,
}

impl<'a> Past<'a> {
    /// Of revisions alone, in UTC.
    pub fn of(revisions: &'a [Revision]) -> Self {
        Past { revisions, series: &[], zone: TimeZone::UTC, asked: None }
    }

    /// Of a manifest.
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

/// At which time a tag is due next, or since when it is; `None` when it is due at once, because no revision up
/// to `now` has it and the config has no time of the day for it.
///
/// Revisions from the future, more than five minutes ahead, are left out: a clock that was wrong once must not
/// stop the backups until it would be right.
pub fn next_due(
    past: &Past<'_>,
    tag: &Tag,
    interval: &Interval,
    now: Timestamp,
) -> Option<Timestamp> {
    Turn::of(past, tag, interval, now).map(|turn| turn.next)
}

/// When the next revision is made if somebody asks then, and the tag that it has; `None` when one is due at
/// once, and without a schedule. What was missed outside of its window waits for the next one.
pub fn next(past: &Past<'_>, config: &Config, now: Timestamp) -> Option<(Timestamp, Tag)> {
    let turn = |(tag, interval)| {
        let turn = Turn::of(past, tag, interval, now)?;
        Some((turn.made_from(now), Tag::clone(tag)))
    };
    config.schedule.iter().map(turn).collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// Whether it makes a difference for `due` when somebody last asked in vain.
pub fn minds_asking(past: &Past<'_>, config: &Config, now: Timestamp) -> bool {
    turns(past, config, now).any(|turn| turn.asks_from() <= now && now < turn.opens(true))
}

/// Whether it should be noted that somebody asks in vain now: shortly before a tag is due, and once for that time.
pub fn notes_asking(past: &Past<'_>, config: &Config, now: Timestamp) -> bool {
    let known = past.asked.filter(|asked| *asked <= now);
    turns(past, config, now).any(|turn| {
        let from = turn.asks_from();
        from <= now && now < turn.opens(false) && known.is_none_or(|asked| asked < from)
    })
}

/// When the series of the tags of the schedule began, once a revision that began at `started` has `scheduled`
/// because they were due. A series that is known keeps its beginning, unless that is in the future.
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

/// Whether a revision that began at `started` has begun at `now`, and is not from the future.
pub(crate) fn has_begun(started: Timestamp, now: Timestamp) -> bool {
    started <= latest(now)
}

/// By how much a backup may come late without anybody's being at fault.
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

/// The slot of a tag that no revision stands for yet.
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
        // One that was made so early stands for the next slot.
        let next = slots.after(later(last, early(length)));
        Some(Turn { slots, length, last: Some(last), next })
    }

    /// Of a tag that no revision has, in an archive whose newest revision began at `newest`: at the first time
    /// of the day that is right.
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

    /// Outside of its window only when another slot has passed: then a whole interval was missed.
    fn is_due(&self, asked: Option<Timestamp>, now: Timestamp) -> bool {
        let from = self.asks_from();
        // Whoever has made the last one asks as well.
        let mut asks = asked.into_iter().chain(self.last).filter(|asked| *asked <= now);
        let is_polled = asks.any(|asked| asked >= from);
        now >= self.opens(is_polled)
            && (self.slots.is_made_at(self.next, now) || now >= self.slots.after(self.next))
    }

    /// When it is made if somebody asks then.
    fn made_from(&self, now: Timestamp) -> Timestamp {
        if self.next > now || self.slots.is_made_at(self.next, now) {
            return self.next;
        }
        self.slots.window_begin_after(now).min(self.slots.after(self.next))
    }

    /// From when on it is due, by whether somebody asks often.
    fn opens(&self, is_polled: bool) -> Timestamp {
        if is_polled { self.next } else { later(self.next, -early(self.length)) }
    }

    /// Whoever has asked since then asks often.
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
