//! Times that a person types to name a revision: `2026-11-28`, `2026-11-28 02:00`, `yesterday`, `3 hours ago`.
//!
//! A time covers as much as was written: a day until midnight, a minute until its 60th second. So
//! `2026-11-28` names the newest revision of that day if there is one, and `02:00` the one that `status`
//! shows at 02:00, although its backup began at 02:00:13. The time of a revision is the start of its backup.
//! A time without an offset is in the reader's time zone.

use std::fmt::Display;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::{ambiguous, no_such};
use crate::base::error::{Error, Result};
use crate::format::manifest::Revision;

/// The time and zone of the request, without which `yesterday` and `02:00` mean nothing.
#[derive(Debug, Clone)]
pub struct Here {
    /// The current time.
    pub now: Timestamp,
    /// The time zone of the person who names the revision.
    pub zone: TimeZone,
}

/// A time as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    text: String,
    /// Two for a time that the clocks show twice when they go back, otherwise one.
    readings: Vec<Stretch>,
    zone: TimeZone,
    /// The same text as the prefix of a UUID, if it can be one.
    prefix: Option<String>,
}

/// From one moment to another, exclusive; a single moment lasts a nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    offset: Offset,
    is_moment: bool,
}

impl Stretch {
    fn has(self, time: Timestamp) -> bool {
        self.start <= time && time < self.end
    }
}

impl When {
    /// Parses a time; `None` if the text does not look like one.
    ///
    /// # Errors
    /// [`Error::Specification`] if it looks like one but no such time exists.
    pub(super) fn parse(text: &str, here: &Here) -> Option<Result<Self>> {
        let readings = stretches(text, here)?.map_err(|why| Error::Specification {
            message: format!("'{}' names no time: {why}", text.escape_default()),
        });
        Some(readings.map(|readings| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            let prefix = is_plain.then(|| text.to_owned());
            When { text: text.to_owned(), readings, zone: here.zone.clone(), prefix }
        }))
    }

    /// A moment given by a program, with the precision of its clock: revisions made within `exactness` after
    /// it count as made then. `None` at the end of time.
    pub fn moment(time: Timestamp, exactness: SignedDuration, zone: TimeZone) -> Option<Self> {
        let end = time.checked_add(exactness).ok()?;
        let reading = Stretch { start: time, end, offset: zone.to_offset(time), is_moment: true };
        Some(When { text: time.to_string(), readings: vec![reading], zone, prefix: None })
    }

    /// The number of the newest revision that was not made after this time.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] if all are younger, or if several readings mean different revisions.
    pub(super) fn newest_not_after(&self, revisions: &[Revision]) -> Result<usize> {
        let mut ways = Ways::default();
        for reading in &self.readings {
            if let Some(number) = revisions.iter().position(|r| r.started < reading.end) {
                ways.add(number, format!("the newest not after {}", self.name(*reading)));
            }
        }
        self.add_uuids(&mut ways, revisions);
        let oldest = || match revisions.last() {
            Some(oldest) => format!("the oldest was made on {}", self.local(oldest.started)),
            None => "there are no revisions yet".to_owned(),
        };
        ways.only(self, || no_such(format!("no revision is as old as {self}; {}", oldest())))
    }

    /// The numbers of all revisions made in this time.
    ///
    /// # Errors
    /// [`Error::Specification`] if it is a single moment; [`Error::NoSuchRevision`] if there are none, or if
    /// it has several readings.
    pub(super) fn all_made(&self, revisions: &[Revision]) -> Result<Vec<usize>> {
        if self.readings.iter().any(|reading| reading.is_moment) {
            let message = format!(
                "{self} is a moment, not a day; give a day, or a range such as '{}..0'",
                self.text
            );
            return Err(Error::Specification { message });
        }
        let stretch = self.only_reading()?;
        let made: Vec<usize> = (0..revisions.len())
            .filter(|&number| revisions.get(number).is_some_and(|r| stretch.has(r.started)))
            .collect();
        let mut ways = Ways::default();
        if let Some(&number) = made.first() {
            ways.add(number, "made then".to_owned());
        }
        self.add_uuids(&mut ways, revisions);
        ways.only(self, || no_such(format!("no revision was made on {self}")))?;
        // If no revision was made then, it is the one whose UUID has this prefix.
        Ok(if made.is_empty() { ways.numbers() } else { made })
    }

    /// The time as the end of a range.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] if it has several readings.
    pub(super) fn only_reading(&self) -> Result<Stretch> {
        match self.readings.as_slice() {
            [one] => Ok(*one),
            several => {
                let ways = several.iter().map(|reading| self.name(*reading)).collect();
                Err(ambiguous(&self.text, ways, "add the offset"))
            }
        }
    }

    /// A time in the format of this one.
    pub(super) fn local(&self, time: Timestamp) -> impl Display {
        time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
    }

    fn name(&self, reading: Stretch) -> String {
        match self.readings.len() {
            1 => self.to_string(),
            _ => format!("{}{}", self.text, reading.offset),
        }
    }

    fn add_uuids(&self, ways: &mut Ways, revisions: &[Revision]) {
        let Some(prefix) = &self.prefix else { return };
        for number in super::with_prefix(prefix, revisions) {
            ways.add(number, "its UUID begins with that".to_owned());
        }
    }
}

impl Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}'", self.text.escape_default())
    }
}

/// The revisions that a text can mean, and why.
#[derive(Default)]
struct Ways(Vec<(usize, String)>);

impl Ways {
    fn add(&mut self, number: usize, why: String) {
        self.0.push((number, why));
    }

    fn numbers(&self) -> Vec<usize> {
        self.0.iter().map(|(number, _)| *number).collect()
    }

    fn only(&self, when: &When, none: impl FnOnce() -> Error) -> Result<usize> {
        let Some((first, _)) = self.0.first() else { return Err(none()) };
        if self.0.iter().all(|(number, _)| number == first) {
            return Ok(*first);
        }
        let ways = self.0.iter().map(|(number, why)| format!("revision {number} ({why})"));
        Err(ambiguous(&when.text, ways.collect(), "give the number"))
    }
}

/// The readings of a text; `None` if it does not look like a time, and the reason if it does but is not valid.
fn stretches(text: &str, here: &Here) -> Option<std::result::Result<Vec<Stretch>, String>> {
    if let Some(count) = text.strip_suffix(" ago") {
        return Some(ago(count, here));
    }
    let (day, time) = match text.split_once(' ') {
        Some((day, time)) => (day, Some(time)),
        None => match text.split_at_checked(10) {
            Some((day, time)) if has_shape_of_date(day) => (day, time.strip_prefix(['T', 't'])),
            _ => (text, None),
        },
    };
    if time.is_none() && day.len() != text.len() {
        return None;
    }
    let today = || here.now.to_zoned(here.zone.clone()).date();
    let date = match day {
        "today" => Ok(today()),
        "yesterday" => today().checked_sub(1.day()).map_err(|_| "it is too long ago".to_owned()),
        day if has_shape_of_date(day) => {
            day.parse::<Date>().map_err(|_| "the calendar has no such day".to_owned())
        }
        _ => return None,
    };
    Some(date.and_then(|date| match time {
        None => whole_day(date, &here.zone).map(|day| vec![day]),
        Some(time) => at_time(date, time, &here.zone),
    }))
}

/// `2026-11-28`
fn has_shape_of_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// `3 days`, `1 hour`: days and weeks are calendar days, as in `yesterday`; hours and minutes are exact.
fn ago(text: &str, here: &Here) -> std::result::Result<Vec<Stretch>, String> {
    let expected = "expected a number of minutes, hours, days or weeks, as in '3 days ago'";
    let far = || "it is too long ago".to_owned();
    let (count, unit) = text.split_once(' ').ok_or(expected)?;
    let is_plain = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let count: i32 = count.parse().ok().filter(|_| is_plain).ok_or(expected)?;
    let days = match unit.strip_suffix('s').unwrap_or(unit) {
        "week" => i64::from(count) * 7,
        "day" => i64::from(count),
        unit @ ("hour" | "minute") => {
            let seconds = i64::from(count) * if unit == "hour" { 3600 } else { 60 };
            let time =
                here.now.checked_sub(SignedDuration::from_secs(seconds)).map_err(|_| far())?;
            return moment(time, &here.zone).map(|moment| vec![moment]).ok_or_else(far);
        }
        _ => return Err(expected.to_owned()),
    };
    let today = here.now.to_zoned(here.zone.clone()).date();
    let span = SignedDuration::from_hours(days * 24);
    let date = today.checked_sub(span).map_err(|_| far())?;
    Ok(vec![whole_day(date, &here.zone)?])
}

fn moment(time: Timestamp, zone: &TimeZone) -> Option<Stretch> {
    let end = time.checked_add(SignedDuration::from_nanos(1)).ok()?;
    Some(Stretch { start: time, end, offset: zone.to_offset(time), is_moment: true })
}

fn whole_day(date: Date, zone: &TimeZone) -> std::result::Result<Stretch, String> {
    let start = |date: Date| date.to_zoned(zone.clone()).ok().map(|day| day.timestamp());
    let next = date.tomorrow().ok().and_then(start);
    let day = start(date).zip(next).map(|(start, end)| Stretch {
        start,
        end,
        offset: zone.to_offset(start),
        is_moment: false,
    });
    day.ok_or_else(|| "it is out of range".to_owned())
}

/// `02:00`, `02:00:13`, `02:00:13.5`, each with or without an offset such as `Z` or `+01:00`.
fn at_time(date: Date, text: &str, zone: &TimeZone) -> std::result::Result<Vec<Stretch>, String> {
    let expected =
        || "expected a time such as 02:00, 02:00:13 or 02:00+01:00 after the day".to_owned();
    let at_offset = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (time, offset) = text.split_at_checked(at_offset).ok_or_else(expected)?;
    let colons = time.bytes().filter(|byte| *byte == b':').count();
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b':' || byte == b'.';
    if !time.bytes().all(plain) || !(1..=2).contains(&colons) || time.len() < 5 {
        return Err(expected());
    }
    let civil: DateTime = format!("{date}T{time}").parse().map_err(|_| expected())?;
    let len = match (colons, time.contains('.')) {
        (1, _) => SignedDuration::from_mins(1),
        (_, false) => SignedDuration::from_secs(1),
        (_, true) => SignedDuration::from_nanos(1),
    };
    let stretch = |offset: Offset| {
        let start = offset.to_timestamp(civil).ok()?;
        let end = start.checked_add(len).ok()?;
        Some(Stretch { start, end, offset, is_moment: len.as_secs() == 0 })
    };
    let offsets = match offset {
        "" => match zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Fold { before, after } => vec![before, after],
            AmbiguousOffset::Gap { .. } => {
                return Err("the clocks are put forward over that time on that day".to_owned());
            }
        },
        given => vec![parse_offset(given).ok_or_else(expected)?],
    };
    let stretches: Option<Vec<Stretch>> = offsets.into_iter().map(stretch).collect();
    stretches.ok_or_else(|| "it is out of range".to_owned())
}

/// `Z`, `+01:00`, `+0100` or `+01`
fn parse_offset(text: &str) -> Option<Offset> {
    if text.eq_ignore_ascii_case("z") {
        return Some(Offset::UTC);
    }
    let (sign, digits) = match text.strip_prefix('+') {
        Some(digits) => (1, digits),
        None => (-1, text.strip_prefix('-')?),
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None => digits.split_at_checked(2)?,
    };
    let number = |text: &str| -> Option<i32> {
        let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse().ok()).flatten()
    };
    let minutes = if minutes.is_empty() && digits.len() == 2 { 0 } else { number(minutes)? };
    let hours = number(hours)?;
    let is_right = hours < 24 && minutes < 60;
    is_right.then(|| Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()).flatten()
}

#[cfg(test)]
mod tests;
