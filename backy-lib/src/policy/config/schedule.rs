//! The tables `[schedule.TAG]`: how often a tag is due, at what time of day, and how many revisions keep it.

use jiff::SignedDuration;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

use super::{Flaw, at_least_one, flaw, parse_interval};

/// The length of a day in intervals.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// How often a tag is due, and how many revisions keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// Time from one revision with the tag to the next.
    pub interval: SignedDuration,
    /// How many revisions keep the tag.
    pub keep: u32,
    /// Whether each revision with the tag is made standalone: a compressed image of its own that needs no other file.
    pub full: bool,
    /// The time of day at which it is due, to the minute. `None`: the time at which the first one was made.
    /// Only with an interval of whole days, or one that divides a day.
    pub at: Option<Time>,
    /// The part of the day in which revisions with the tag are made; `None` for any time.
    pub window: Option<Window>,
    /// The time zone of `at` and `window`; `None` for the system's.
    pub timezone: Option<TimeZone>,
}

/// A part of each day, possibly across midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its first minute.
    pub begin: Time,
    /// The first minute after it; never equal to `begin`.
    pub end: Time,
}

impl Window {
    /// Its length on a day with 24 hours.
    pub fn length(&self) -> SignedDuration {
        let length = self.end.duration_since(self.begin);
        if length.is_negative() { length + DAY } else { length }
    }

    /// Whether it includes a time of day.
    pub fn contains(&self, time: Time) -> bool {
        match self.begin < self.end {
            true => self.begin <= time && time < self.end,
            false => self.begin <= time || time < self.end,
        }
    }
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a section such as [schedule.daily] with interval and keep"
)]
pub(super) struct RawInterval {
    interval: Spanned<String>,
    keep: Spanned<i64>,
    #[serde(default)]
    full: bool,
    at: Option<Spanned<String>>,
    window: Option<Spanned<String>>,
    timezone: Option<Spanned<String>>,
}

pub(super) fn check(raw: &RawInterval) -> Result<Interval, Flaw> {
    let interval = parse_interval(raw.interval.get_ref()).map_err(|m| flaw(&raw.interval, m))?;
    let keep = at_least_one("keep", &raw.keep)?;
    let at = raw.at.as_ref().map(parse_at).transpose()?;
    let window = raw.window.as_ref().map(parse_window).transpose()?;
    if let (Some(at), Some(text)) = (at, &raw.at) {
        if let Some(window) = window.filter(|window| !window.contains(at)) {
            let message = format!(
                "at: found {:?}, which is not in the window from {} to {}",
                text.get_ref(),
                window.begin.strftime("%H:%M"),
                window.end.strftime("%H:%M")
            );
            return Err(flaw(text, message));
        }
        if !fits_into_days(interval) {
            let message = format!(
                "at: with the interval {:?} the time of the day changes; expected whole days, or an interval that \
                 divides a day",
                raw.interval.get_ref()
            );
            return Err(flaw(text, message));
        }
    }
    let timezone = raw.timezone.as_ref().map(find_zone).transpose()?;
    Ok(Interval { interval, keep, full: raw.full, at, window, timezone })
}

/// Whether the interval gives the same times every day.
fn fits_into_days(interval: SignedDuration) -> bool {
    let (day, interval) = (DAY.as_secs(), interval.as_secs());
    interval % day == 0 || day % interval == 0
}

fn parse_at(text: &Spanned<String>) -> Result<Time, Flaw> {
    parse_time(text.get_ref()).ok_or_else(|| {
        flaw(text, format!("at: found {:?}, expected a time like \"02:00\"", text.get_ref()))
    })
}

fn parse_window(text: &Spanned<String>) -> Result<Window, Flaw> {
    let times = text.get_ref().split_once('-');
    let times = times.and_then(|(begin, end)| Some((parse_time(begin)?, parse_time(end)?)));
    times.filter(|(begin, end)| begin != end).map(|(begin, end)| Window { begin, end }).ok_or_else(
        || {
            let found = text.get_ref();
            flaw(text, format!("window: found {found:?}, expected two times like \"01:00-05:00\""))
        },
    )
}

/// `02:00`: two digits each.
fn parse_time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        if plain { text.parse::<i8>().ok() } else { None }
    };
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

fn find_zone(name: &Spanned<String>) -> Result<TimeZone, Flaw> {
    TimeZone::get(name.get_ref()).map_err(|_| {
        let found = name.get_ref();
        let message = format!(
            "timezone: found {found:?}, which this machine does not know; expected a name like \"Europe/Berlin\" \
             (they are in the package tzdata)"
        );
        flaw(name, message)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::config::Config;

    fn parse(interval: &str, more: &str) -> Result<Interval, String> {
        let text = format!("[schedule.x]\ninterval = \"{interval}\"\nkeep = 1\n{more}");
        let config = Config::parse(&text, Path::new("x")).map_err(|error| error.to_string())?;
        Ok(config.schedule.into_values().next().unwrap())
    }

    #[test]
    fn times_of_the_day_are_read() {
        let interval =
            parse("1d", "at = \"02:05\"\nwindow = \"01:00-05:30\"\ntimezone = \"UTC\"").unwrap();
        assert_eq!(interval.at, Some(Time::constant(2, 5, 0, 0)));
        let window = interval.window.unwrap();
        assert_eq!(window.begin, Time::constant(1, 0, 0, 0));
        assert_eq!(window.end, Time::constant(5, 30, 0, 0));
        assert_eq!(interval.timezone, Some(TimeZone::UTC));
        let plain = parse("1d", "").unwrap();
        assert_eq!((plain.at, plain.window, plain.timezone), (None, None, None));
    }

    #[test]
    fn a_window_may_go_beyond_midnight() {
        let window = parse("1d", "window = \"22:00-04:00\"").unwrap().window.unwrap();
        for (hour, is_in) in [(21, false), (22, true), (0, true), (3, true), (4, false)] {
            assert_eq!(window.contains(Time::constant(hour, 0, 0, 0)), is_in, "{hour}");
        }
        let window = parse("1d", "window = \"01:00-05:00\"").unwrap().window.unwrap();
        for (hour, is_in) in [(0, false), (1, true), (4, true), (5, false), (23, false)] {
            assert_eq!(window.contains(Time::constant(hour, 0, 0, 0)), is_in, "{hour}");
        }
    }

    #[test]
    fn a_time_that_changes_from_day_to_day_is_refused() {
        for interval in ["1d", "7d", "2w", "12h", "1h", "15m"] {
            assert!(parse(interval, "at = \"02:00\"").is_ok(), "{interval}");
        }
        for interval in ["36h", "7h", "25m", "90000s"] {
            let message = parse(interval, "at = \"02:00\"").unwrap_err();
            assert!(message.contains("divides a day"), "{message}");
        }
    }
}
