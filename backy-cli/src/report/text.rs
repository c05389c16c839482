//! Texts of the page: paths that may break between their parts, and times with their zone.

use backy_lib::escape;
use backy_lib::health::display_age;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use crate::output::local_minute;

/// A path, or another text with slashes, that a narrow page breaks between its parts.
pub(super) fn path(text: &str) -> Markup {
    let text = escape::line(text);
    html! {
        @for part in text.split_inclusive('/') { (part) wbr; }
    }
}

/// The last part of a path.
pub(super) fn name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// A point in time that programs can read as well.
pub(super) fn moment(time: Timestamp) -> Markup {
    html! { time datetime=(time.strftime("%Y-%m-%dT%H:%M:%SZ")) { (local_minute(time)) } }
}

/// The date where the page was made.
pub(super) fn day(time: Timestamp) -> String {
    local_minute(time).split(' ').next().unwrap_or_default().to_owned()
}

/// `Europe/Berlin (CET, UTC+01:00)`: the zone of all times on the page, and its offset at this one.
pub(super) fn zone(time: Timestamp) -> String {
    zone_of(time, TimeZone::system())
}

fn zone_of(time: Timestamp, zone: TimeZone) -> String {
    let zoned = time.to_zoned(zone);
    let (short, offset) = (zoned.strftime("%Z").to_string(), zoned.strftime("%:z").to_string());
    // Some zones have no short name but their offset.
    let has_name = short.chars().all(char::is_alphabetic);
    match zoned.time_zone().iana_name() {
        _ if short == "UTC" => short,
        Some(name) if has_name && name != short => format!("{name} ({short}, UTC{offset})"),
        Some(name) => format!("{name} (UTC{offset})"),
        None if has_name => format!("{short} (UTC{offset})"),
        None => format!("UTC{offset}"),
    }
}

/// `3 days`, without a word for the past.
pub(super) fn since(time: Timestamp, now: Timestamp) -> String {
    display_age((now.as_second() - time.as_second()).max(0))
}

/// `3 days`, without a word for the future.
pub(super) fn until(time: Timestamp, now: Timestamp) -> String {
    since(now, time)
}

/// Never rounded up to all.
pub(super) fn percent(share: f64) -> String {
    let share = share.clamp(0.0, 1.0);
    match (share * 100.0) as u32 {
        0 if share > 0.0 => "< 1 %".to_owned(),
        whole => format!("{whole} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is nearly all is not called all.
    #[test]
    fn shares_are_not_rounded_up() {
        for (share, text) in
            [(0.0, "0 %"), (0.001, "< 1 %"), (0.999, "99 %"), (1.0, "100 %"), (7.0, "100 %")]
        {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn a_path_may_break_after_each_slash_and_nothing_of_it_becomes_markup() {
        assert_eq!(path("/srv/a<b").into_string(), "/<wbr>srv/<wbr>a&lt;b<wbr>");
        assert_eq!((name("/srv/a/"), name("a"), name("/")), ("a", "a", "/"));
    }

    /// The zone has its name and its offset from UTC at that time, in summer as in winter.
    #[test]
    fn the_zone_is_named() {
        let zone = |time: &str, zone: &str| {
            let found = TimeZone::get(zone).or_else(|_| TimeZone::posix(zone)).unwrap();
            zone_of(time.parse().unwrap(), found)
        };
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        assert_eq!(zone("2026-11-28T12:00:00Z", berlin), "CET (UTC+01:00)");
        assert_eq!(zone("2026-07-28T12:00:00Z", berlin), "CEST (UTC+02:00)");
        assert_eq!(zone("2026-07-28T12:00:00Z", "<+03>-3"), "UTC+03:00");
        assert_eq!(zone_of(Timestamp::UNIX_EPOCH, TimeZone::UTC), "UTC");
    }
}
