//! Three years of asking whether a backup is due, in every way in which people ask: each series keeps its hour and
//! its weekday, and nothing is left out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use backy_lib::format::manifest::Series;
use backy_lib::retention::{Rule, retention};
use backy_lib::schedule::{self, Due, Past};
use backy_lib::storage::sim::Random;
use backy_lib::{Config, Revision, Tag};
use backy_tests::retention::{apply, revision, tag};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use super::documented;

const SEED: u64 = 16;
/// Days of the three years from 2026 on.
const DAYS: i64 = 1096;
const BERLIN: &str = "Europe/Berlin";
const NEW_YORK: &str = "America/New_York";
const SYDNEY: &str = "Australia/Sydney";
const TOKYO: &str = "Asia/Tokyo";
const ZONES: [&str; 4] = [BERLIN, NEW_YORK, SYDNEY, TOKYO];

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).expect("a time zone; they are in the package tzdata")
}

fn minutes(count: i64) -> SignedDuration {
    SignedDuration::from_mins(count)
}

/// A time of a day, counted from the first of January of 2026. What the clock skips runs as soon as it has jumped, as
/// with cron.
fn at(day: i64, minute: i64, name: &str) -> Timestamp {
    let first: Zoned = format!("2026-01-01T00:00[{name}]").parse().expect("a time");
    let day = first.date().checked_add(day.days()).expect("a day");
    let time = Time::midnight() + minutes(minute);
    let local = day.to_datetime(time).to_zoned(zone(name)).expect("a time that there is");
    local.timestamp()
}

/// Everything that was asked and made, for all tests together.
static RESULTS: LazyLock<Vec<(Machine, Made)>> = LazyLock::new(|| {
    let run = |machine: Machine| {
        let made = run(&machine, true);
        (machine, made)
    };
    machines().into_iter().map(run).collect()
});

/// Who asks, and where the machine is.
struct Machine {
    asked: &'static str,
    zone: &'static str,
    config: Config,
    asks: Vec<Timestamp>,
}

/// A timer that fires every so many minutes, a little late, from 02:00 on.
fn polling(every: i64, zone: &str, random: &mut Random) -> Vec<Timestamp> {
    let (first, last) = (at(0, 120, zone), at(DAYS, 0, zone));
    let mut asks = Vec::new();
    let mut time = first;
    while time < last {
        let late = random.below(if every < 15 { 5 } else { 120 }).cast_signed();
        asks.push(time + SignedDuration::from_secs(late));
        time += minutes(every);
    }
    asks
}

/// A job at a minute of each day, up to `jitter` minutes late.
fn nightly(minute: i64, jitter: u64, zone: &str, random: &mut Random) -> Vec<Timestamp> {
    let late = |random: &mut Random| {
        SignedDuration::from_secs(random.below(jitter * 60 + 1).cast_signed())
    };
    (0..DAYS).map(|day| at(day, minute, zone) + late(random)).collect()
}

/// Without those while the machine is off: on every thirtieth day from the evening on for some hours, and once for
/// two weeks.
fn with_outages(asks: Vec<Timestamp>, zone: &str, random: &mut Random) -> Vec<Timestamp> {
    let mut off: Vec<(Timestamp, Timestamp)> = (1..DAYS / 30)
        .map(|number| {
            let from = at(30 * number, 20 * 60, zone);
            (from, from + SignedDuration::from_hours(7 + random.below(40).cast_signed()))
        })
        .collect();
    off.push((at(400, 600, zone), at(414, 600, zone)));
    let is_on = |time: &Timestamp| !off.iter().any(|(from, to)| from <= time && time < to);
    asks.into_iter().filter(is_on).collect()
}

/// Every quarter of an hour while a laptop is used: from some time after `from` on, for some hours, every day.
fn laptop(from: i64, spread: u64, hours: i64, zone: &str, random: &mut Random) -> Vec<Timestamp> {
    let day = |day: i64| {
        let begin = at(day, from, zone) + minutes(random.below(spread).cast_signed());
        (0..hours * 4).map(move |quarter| begin + minutes(15 * quarter))
    };
    (0..DAYS).flat_map(day).collect()
}

fn template() -> Config {
    Config::parse(&Config::template(None).expect("the template"), Path::new("x")).expect("a config")
}

fn daily(more: &str) -> Config {
    let text = format!("[schedule.daily]\ninterval = \"1d\"\nkeep = 9\n{more}");
    Config::parse(&text, Path::new("x")).expect("a config")
}

/// What was made, by tag, oldest first.
type Made = BTreeMap<Tag, Vec<Timestamp>>;

/// Asks as often as the machine does. `skips`: leaves out asking where nothing can be due for hours.
fn run(machine: &Machine, skips: bool) -> Made {
    let Machine { config, asks, .. } = machine;
    let zone = zone(machine.zone);
    let (mut revisions, mut series): (Vec<Revision>, Vec<Series>) = (Vec::new(), Vec::new());
    let (mut asked, mut made, mut name) = (None, Made::new(), 0);
    let mut number = 0;
    while let Some(&now) = asks.get(number) {
        number += 1;
        let past = Past { revisions: &revisions, series: &series, zone: zone.clone(), asked };
        let Due::Tags(due) = schedule::due(&past, config, now) else { panic!("a schedule") };
        if due.is_empty() {
            if schedule::notes_asking(&past, config, now) {
                asked = Some(now);
            }
            let next = schedule::next(&past, config, now).expect("something is due some time");
            let from = next.0 - SignedDuration::from_hours(3);
            if skips {
                number = number.max(asks.partition_point(|time| *time < from));
            }
            continue;
        }
        let began = schedule::series_after(&past, config, &due, now);
        due.iter().for_each(|tag| made.entry(tag.clone()).or_default().push(now));
        revisions.insert(0, revision(name, now, due, BTreeSet::new()));
        (series, name) = (began, name + 1);
        let verdicts = retention(&revisions, &HashSet::new(), &Rule::Schedule(&config.schedule));
        apply(&mut revisions, &verdicts, |_| true);
    }
    made
}

fn machines() -> Vec<Machine> {
    let mut random = Random(SEED);
    let random = &mut random;
    let mut all = Vec::new();
    let mut add =
        |asked, zone, config: Config, asks| all.push(Machine { asked, zone, config, asks });
    for name in ZONES {
        add("every minute", name, template(), polling(1, name, random));
        add("every 5 minutes", name, template(), polling(5, name, random));
        add("every 15 minutes", name, template(), polling(15, name, random));
        add("every hour", name, template(), polling(60, name, random));
        add("at 02:30, up to 30 minutes late", name, template(), nightly(150, 30, name, random));
    }
    // How a machine that is set to UTC sees the cron of another.
    add("at 02:00 in Berlin", "UTC", template(), nightly(120, 5, BERLIN, random));
    for (asked, each) in [("every 15 minutes, with outages", 15), ("every hour, with outages", 60)]
    {
        let asks = polling(each, BERLIN, random);
        add(asked, BERLIN, template(), with_outages(asks, BERLIN, random));
    }
    let asks = nightly(150, 30, BERLIN, random);
    add("at 02:30, with outages", BERLIN, template(), with_outages(asks, BERLIN, random));
    add(
        "a laptop from about 08:00 to 23:00",
        BERLIN,
        template(),
        laptop(450, 60, 15, BERLIN, random),
    );
    add(
        "a laptop from about 20:00 to 23:00",
        BERLIN,
        template(),
        laptop(1170, 60, 3, BERLIN, random),
    );
    let asks = laptop(450, 60, 15, SYDNEY, random);
    add("the same, `at = \"02:00\"`", SYDNEY, daily("at = \"02:00\""), asks);
    let text = "at = \"02:00\"\nwindow = \"01:00-05:00\"";
    let asks = polling(15, BERLIN, random);
    let asks = with_outages(asks, BERLIN, random);
    add("every 15 minutes, with outages, `window = \"01:00-05:00\"`", BERLIN, daily(text), asks);
    all
}

fn local(time: Timestamp, name: &str) -> jiff::civil::DateTime {
    zone(name).to_datetime(time)
}

fn longest_gap(times: &[Timestamp]) -> SignedDuration {
    let gaps = times.windows(2).map(|pair| pair[1].duration_since(pair[0]));
    gaps.max().unwrap_or_default()
}

fn row(machine: &Machine, made: &Made) -> String {
    let times = |name: &str| made.get(&tag(name)).cloned().unwrap_or_default();
    let (daily, weekly, monthly) = (times("daily"), times("weekly"), times("monthly"));
    let hours = |time: &Timestamp| local(*time, machine.zone).time();
    // The first one began when the machine did.
    let mut at: Vec<Time> = daily.iter().skip(1).map(hours).collect();
    at.sort_unstable();
    let (low, high) = (at[at.len() / 20], at[at.len() - 1 - at.len() / 20]);
    let days: BTreeSet<i8> = weekly
        .iter()
        .map(|time| local(*time, machine.zone).weekday().to_monday_one_offset())
        .collect();
    let names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let days: Vec<&str> = days.iter().map(|day| names[*day as usize - 1]).collect();
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let gap = longest_gap(&daily).as_mins();
    format!(
        "| {} | {} | {} | {} to {} | {} h {} min | {} | {} | {} |",
        machine.asked,
        machine.zone,
        daily.len(),
        low.strftime("%H:%M"),
        high.strftime("%H:%M"),
        gap / 60,
        gap % 60,
        or_none(if weekly.is_empty() { String::new() } else { weekly.len().to_string() }),
        or_none(days.join(", ")),
        or_none(if monthly.is_empty() { String::new() } else { monthly.len().to_string() }),
    )
}

/// The table in doc/retention.md is the result of three years of asking, in every way in which people ask.
#[test]
fn three_years_of_backups_match_the_document() {
    let table: Vec<String> = RESULTS.iter().map(|(machine, made)| row(machine, made)).collect();
    let shown = table.join("\n");
    assert!(documented("## Three years") == table, "the table should be:\n\n{shown}\n");
}

/// Asking often, or once a night, makes one backup each day at the hour of the first, and one a week on its weekday,
/// whatever the clocks are set to.
#[test]
fn a_series_keeps_its_hour_and_its_weekday() {
    for (machine, made) in RESULTS.iter().filter(|(machine, _)| !machine.asked.contains("outages"))
    {
        let Machine { asked, zone: name, .. } = machine;
        let Some(weekly) = made.get(&tag("weekly")) else { continue };
        let daily = &made[&tag("daily")];
        assert_eq!(daily.len() as i64, DAYS, "{asked}, {name}");
        let dates: BTreeSet<_> = daily.iter().map(|time| local(*time, name).date()).collect();
        assert_eq!(dates.len() as i64, DAYS, "{asked}, {name}: one on each day");
        assert_eq!(weekly.len(), 157, "{asked}, {name}");
        let first = local(weekly[0], name).weekday();
        assert!(weekly.iter().all(|time| local(*time, name).weekday() == first), "{asked}, {name}");
        if asked.starts_with("every") {
            let (early, late) = (Time::constant(2, 0, 0, 0), Time::constant(2, 3, 0, 0));
            for time in daily {
                let at = local(*time, name).time();
                // Where the clock skips 02:00, it is 03:00.
                let is_moved = at.hour() == 3
                    && longest_gap(&[at_midnight(*time, name), *time]) < minutes(180);
                assert!((early..=late).contains(&at) || is_moved, "{asked}, {name}: {time}");
            }
        }
    }
}

fn at_midnight(time: Timestamp, name: &str) -> Timestamp {
    let day = local(time, name).date();
    day.to_datetime(Time::midnight()).to_zoned(zone(name)).expect("a time").timestamp()
}

/// After an outage a backup is made as soon as somebody asks, and the next ones come at the old hour; in a window,
/// when it begins, unless a whole interval was missed.
#[test]
fn an_outage_is_made_up_for_once() {
    for (machine, made) in RESULTS.iter().filter(|(machine, _)| machine.asked.contains("outages")) {
        let daily = &made[&tag("daily")];
        let mut late = 0;
        for pair in daily.windows(2) {
            let hour = |time: Timestamp| local(time, machine.zone).hour();
            let is_usual = |time| (1..=3).contains(&hour(time));
            late += usize::from(!is_usual(pair[1]));
            assert!(
                is_usual(pair[0]) || is_usual(pair[1]),
                "{}: twice late: {pair:?}",
                machine.asked
            );
        }
        let is_nightly = machine.asked.starts_with("at");
        assert_eq!(late == 0, is_nightly, "{}: {late} at other hours", machine.asked);
        let gap = longest_gap(daily).as_hours();
        assert!((14 * 24 - 9..15 * 24 + 9).contains(&gap), "{}: {gap}", machine.asked);
    }
}

/// A half-daily cron in a zone with summer time skips nothing, wherever the machine thinks it is.
#[test]
fn a_half_daily_job_skips_nothing_when_the_clocks_change() {
    let text = "[schedule.half]\ninterval = \"12h\"\nkeep = 9";
    for name in [BERLIN, NEW_YORK, SYDNEY] {
        for machine in [name, "UTC"] {
            let mut random = Random(SEED);
            let mut asks = nightly(0, 3, name, &mut random);
            asks.extend(nightly(12 * 60, 3, name, &mut random));
            asks.sort_unstable();
            let config = Config::parse(text, Path::new("x")).expect("a config");
            let machine = Machine { asked: "", zone: machine, config, asks };
            let made = run(&machine, false);
            assert_eq!(made[&tag("half")].len() as i64, 2 * DAYS, "{name} in {}", machine.zone);
        }
    }
}

/// Leaving out questions hours before anything is due changes nothing.
#[test]
fn schedules_need_no_early_asking() {
    let often = RESULTS.iter().filter(|(machine, _)| machine.asked.starts_with("every 15"));
    for (machine, _) in often {
        let Machine { asked, zone, config, asks } = machine;
        let (config, asks) = (config.clone(), asks[..20_000].to_vec());
        let machine = Machine { asked, zone, config, asks };
        assert_eq!(run(&machine, true), run(&machine, false), "{zone}");
    }
}
