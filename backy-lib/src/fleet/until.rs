//! `--until 06:00`: the time after which a run starts nothing.

use jiff::civil::Time;
use jiff::{Timestamp, ToSpan};

use crate::base::clock::Clock;

/// The next time at which clocks here show `text`, such as `06:00`.
///
/// # Errors
/// A sentence, if it is no time of day.
pub fn parse_until(text: &str, clock: &dyn Clock) -> Result<Timestamp, String> {
    let wrong = || format!("'{text}' is no time of day; give hours and minutes, such as 06:00");
    let has_form = text.len() == 5 && text.is_ascii();
    let time = has_form.then(|| Time::strptime("%H:%M", text).ok()).flatten().ok_or_else(wrong)?;
    let now = clock.now().to_zoned(clock.zone());
    let on = |date: jiff::civil::Date| {
        date.to_datetime(time).to_zoned(clock.zone()).map_err(|_| wrong())
    };
    let today = on(now.date())?;
    let next = if today > now { today } else { on(now.date().saturating_add(1.day()))? };
    Ok(next.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    struct Berlin(&'static str);

    impl Clock for Berlin {
        fn now(&self) -> Timestamp {
            self.0.parse().unwrap()
        }

        fn zone(&self) -> TimeZone {
            TimeZone::get("Europe/Berlin").unwrap()
        }
    }

    /// The next such time, also when clocks change in between; a time that a day does not have is the one after it.
    #[test]
    fn until_is_the_next_such_time_of_day() {
        for (now, text, next) in [
            ("2026-11-28T21:00:00Z", "06:00", "2026-11-29T05:00:00Z"),
            ("2026-11-29T04:59:59Z", "06:00", "2026-11-29T05:00:00Z"),
            ("2026-11-29T05:00:00Z", "06:00", "2026-11-30T05:00:00Z"),
            ("2026-10-24T21:00:00Z", "06:00", "2026-10-25T05:00:00Z"),
            ("2026-03-28T22:00:00Z", "02:30", "2026-03-29T01:30:00Z"),
        ] {
            assert_eq!(parse_until(text, &Berlin(now)).unwrap(), next.parse().unwrap(), "{now}");
        }
        for text in ["", "6", "6:00", "24:00", "06:60", "06:00:00", "morgen", "0600 "] {
            let wrong = parse_until(text, &Berlin("2026-11-28T21:00:00Z")).unwrap_err();
            assert!(wrong.contains("06:00"), "{wrong}");
        }
    }
}
