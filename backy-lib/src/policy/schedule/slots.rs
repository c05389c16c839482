//! The times at which one tag is due: a grid through the start of its series.
//!
//! Intervals of two hours and more follow the local clock, so that a daily backup stays at its hour when
//! summer time begins and ends. Shorter ones follow elapsed time, so that no hour is skipped when the clock
//! shows it twice.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::policy::config::{Interval, Window};

/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// Intervals of at least this many seconds follow the local clock.
const CIVIL_SECONDS: i64 = 2 * 3600;

/// A series without a configured time begins at a multiple of this many minutes, because callers are late by
/// a little, and by a different amount each time.
const MINUTES: i8 = 5;

/// How many steps of the grid to search for the first one after a time: more than the local clock ever moves.
const MAX_STEPS: i64 = 16;

/// The grid of one tag.
#[derive(Debug)]
pub(super) struct Slots {
    zone: TimeZone,
    /// Whether seconds are local or those of UTC.
    is_civil: bool,
    /// Seconds of one slot.
    origin: i64,
    /// Seconds between slots.
    step: i64,
    window: Option<Window>,
}

impl Slots {
    /// `began`: the start of the series; `system`: the system's time zone.
    pub(super) fn new(interval: &Interval, began: Timestamp, system: &TimeZone) -> Self {
        let zone = interval.timezone.as_ref().unwrap_or(system).clone();
        let step = interval.interval.as_secs().max(1);
        let first = zone.to_datetime(began);
        let minute = first.minute() - first.minute() % MINUTES;
        let about = Time::new(first.hour(), minute, 0, 0).unwrap_or_default();
        let outside = interval.window.filter(|window| !window.contains(about));
        let time = match (interval.at, outside) {
            (Some(at), _) => at,
            (None, Some(window)) if step % DAY == 0 => window.begin,
            (None, _) => about,
        };
        let is_civil = step >= CIVIL_SECONDS;
        let mut slots = Slots { zone, is_civil, origin: 0, step, window: interval.window };
        slots.origin = slots.seconds(slots.instant_of(first.date().to_datetime(time)));
        slots
    }

    /// The first slot after a time.
    pub(super) fn after(&self, time: Timestamp) -> Timestamp {
        let slot = self.on_grid_after(time);
        let Some(window) = self.window.filter(|_| self.step % DAY != 0) else { return slot };
        if self.is_in_window(slot) {
            return slot;
        }
        // With less than a day between slots each window has one, possibly its beginning.
        let from = if self.step < DAY { time } else { slot };
        let begin = self.window_after(window, from);
        let first = self.on_grid_after(begin.saturating_sub(SECOND).unwrap_or(begin));
        let day_later = begin.saturating_add(SignedDuration::from_secs(DAY)).unwrap_or(begin);
        if self.is_in_window(first) && first < day_later { first } else { begin }
    }

    /// Whether a revision for a slot may be made at this time of day. If the clock skips the time of the
    /// slot, it skips the window as well, which then moves by as much.
    pub(super) fn is_made_at(&self, slot: Timestamp, now: Timestamp) -> bool {
        let Some(window) = self.window else { return true };
        let end = slot.saturating_add(window.length()).unwrap_or(Timestamp::MAX);
        self.is_in_window(now) || !self.is_in_window(slot) && slot <= now && now < end
    }

    /// Whether a time is in the window of its day.
    fn is_in_window(&self, time: Timestamp) -> bool {
        self.window.is_none_or(|window| window.contains(self.zone.to_datetime(time).time()))
    }

    /// When the next window begins.
    pub(super) fn window_begin_after(&self, time: Timestamp) -> Timestamp {
        self.window.map_or(time, |window| self.window_after(window, time))
    }

    fn on_grid_after(&self, time: Timestamp) -> Timestamp {
        let first = (self.seconds(time) - self.origin).div_euclid(self.step) - 1;
        let slot = |number: i64| self.instant(self.origin + number * self.step);
        let mut slots = (first..first + MAX_STEPS).map(slot);
        slots.find(|slot| *slot > time).unwrap_or(Timestamp::MAX)
    }

    /// The first start of a window after a time.
    fn window_after(&self, window: Window, time: Timestamp) -> Timestamp {
        let today = self.zone.to_datetime(time).date();
        let begin = |days: i64| {
            let day = today.saturating_add(days.days());
            self.instant_of(day.to_datetime(window.begin))
        };
        (0..3).map(begin).find(|begin| *begin > time).unwrap_or(Timestamp::MAX)
    }

    /// Seconds of an instant, local or UTC.
    fn seconds(&self, time: Timestamp) -> i64 {
        let offset = if self.is_civil { self.zone.to_offset(time).seconds() } else { 0 };
        time.as_second() + i64::from(offset)
    }

    fn instant(&self, seconds: i64) -> Timestamp {
        let end = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let Ok(time) = Timestamp::from_second(seconds) else { return end };
        match self.is_civil {
            true => self.instant_of(TimeZone::UTC.to_datetime(time)),
            false => time,
        }
    }

    /// When the local clock shows this. A time shown twice is the first of the two; a skipped time moves by
    /// the length of the gap.
    fn instant_of(&self, local: DateTime) -> Timestamp {
        let end = if local.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
        self.zone.to_ambiguous_timestamp(local).compatible().unwrap_or(end)
    }
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::config::Config;

    fn slots(interval: &str, more: &str, zone: &str, began: &str) -> Slots {
        let text = format!("[schedule.x]\ninterval = \"{interval}\"\nkeep = 1\n{more}");
        let config = Config::parse(&text, Path::new("x")).unwrap();
        let interval = config.schedule.values().next().unwrap();
        Slots::new(interval, at(began), &TimeZone::get(zone).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next slots after a time, in order.
    fn next(slots: &Slots, time: &str, count: usize) -> Vec<String> {
        let mut time = at(time);
        let mut found = Vec::new();
        for _ in 0..count {
            time = slots.after(time);
            found.push(time.to_string());
        }
        found
    }

    #[test]
    fn a_daily_slot_stays_at_its_hour_over_both_changes_of_the_clock() {
        let berlin = slots("1d", "", "Europe/Berlin", "2026-01-01T01:00:30Z");
        assert_eq!(
            next(&berlin, "2026-03-27T01:00:00Z", 3),
            ["2026-03-28T01:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]
        );
        assert_eq!(
            next(&berlin, "2026-10-24T00:00:00Z", 2),
            ["2026-10-25T00:00:00Z", "2026-10-26T01:00:00Z"]
        );
        let sydney = slots("12h", "", "Australia/Sydney", "2026-01-01T13:00:00Z");
        assert_eq!(
            next(&sydney, "2026-04-04T00:00:00Z", 3),
            ["2026-04-04T01:00:00Z", "2026-04-04T13:00:00Z", "2026-04-05T02:00:00Z"]
        );
    }

    #[test]
    fn an_hourly_slot_follows_elapsed_time() {
        let hourly = slots("1h", "", "Europe/Berlin", "2026-01-01T00:10:00Z");
        assert_eq!(
            next(&hourly, "2026-10-25T00:00:00Z", 3),
            ["2026-10-25T00:10:00Z", "2026-10-25T01:10:00Z", "2026-10-25T02:10:00Z"]
        );
    }

    #[test]
    fn a_slot_is_at_its_time_or_else_in_its_window() {
        let began = "2026-01-01T15:20:00Z";
        let weekly = slots("7d", "at = \"02:00\"", "UTC", began);
        assert_eq!(next(&weekly, began, 1), ["2026-01-08T02:00:00Z"]);
        let moved = slots("1d", "window = \"22:00-04:00\"", "UTC", began);
        assert_eq!(next(&moved, began, 1), ["2026-01-01T22:00:00Z"]);
        let own = "window = \"22:00-04:00\"\ntimezone = \"America/New_York\"";
        let moved = slots("1d", own, "UTC", began);
        assert_eq!(next(&moved, began, 1), ["2026-01-02T03:00:00Z"]);
    }

    #[test]
    fn short_intervals_have_slots_in_the_window_only_and_at_least_one() {
        let office = slots("6h", "window = \"08:00-18:00\"", "UTC", "2026-01-01T09:00:00Z");
        assert_eq!(
            next(&office, "2026-01-01T09:00:00Z", 3),
            ["2026-01-01T15:00:00Z", "2026-01-02T09:00:00Z", "2026-01-02T15:00:00Z"]
        );
        let narrow = slots("12h", "window = \"01:00-05:00\"", "UTC", "2026-01-01T00:00:00Z");
        assert_eq!(
            next(&narrow, "2026-01-01T00:30:00Z", 2),
            ["2026-01-01T01:00:00Z", "2026-01-02T01:00:00Z"]
        );
        let long = slots("36h", "window = \"01:00-05:00\"", "UTC", "2026-01-01T02:00:00Z");
        assert_eq!(next(&long, "2026-01-01T03:00:00Z", 1), ["2026-01-03T01:00:00Z"]);
    }

    /// A leap year, a skipped day (Samoa crossed the date line), and the ends of the supported time.
    #[test]
    fn odd_calendars_skip_no_slot() {
        let samoa = slots("1d", "", "Pacific/Apia", "2011-12-28T12:00:00Z");
        let mut time = at("2011-12-28T12:00:00Z");
        for _ in 0..6 {
            let next = samoa.after(time);
            let hours = next.duration_since(time).as_hours();
            assert!((1..=25).contains(&hours), "{time} to {next}");
            time = next;
        }
        for end in [Timestamp::MIN, Timestamp::MAX] {
            let slots = slots("1d", "", "Europe/Berlin", "2026-01-01T00:00:00Z");
            assert!(slots.after(end) >= end);
            let interval =
                Config::parse("[schedule.x]\ninterval = \"1d\"\nkeep = 1", Path::new("x"));
            let interval = interval.unwrap().schedule.into_values().next().unwrap();
            let slots = Slots::new(&interval, end, &TimeZone::get("Asia/Tokyo").unwrap());
            assert!(slots.after(end) >= end);
        }
    }
}
