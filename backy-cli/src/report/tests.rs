use backy_lib::archive::Archive;
use backy_lib::fleet::FleetRequest;
use backy_lib::health::Problem;
use backy_lib::progress::Silent;
use backy_lib::{BlockSize, SystemClock};

use super::*;
use backy_lib::status::RevisionStatus;

/// An archive without revisions, as the library sees it.
fn host() -> (tempfile::TempDir, HostReport) {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    Archive::init(&archive, Some(std::path::Path::new("/dev/zero")), BlockSize::DEFAULT).unwrap();
    let request = FleetRequest { folders: vec![archive], ..FleetRequest::default() };
    let host = request.check(true, &SystemClock, &Silent).unwrap();
    (folder, host)
}

/// A report with `count` revisions, one a day, each with some tags.
fn with_revisions(count: usize) -> HostReport {
    let (_folder, mut host) = host();
    let status = host.archives[0].status.as_mut().unwrap();
    let id = backy_lib::RevisionId::new(host.checked);
    status.revisions = (0..count)
        .map(|number| RevisionStatus {
            hints: None,
            bookmark: None,
            number,
            uuid: id,
            started: host.checked - jiff::SignedDuration::from_hours(24 * number as i64),
            finished: host.checked,
            size_bytes: 1 << 30,
            digest: String::new(),
            file: "last.raw".to_owned(),
            base: None,
            tags: vec!["daily".parse().unwrap(), format!("tag-{}", number % 30).parse().unwrap()],
            pinned_tags: Vec::new(),
            read_bytes: 1 << 30,
            changed_bytes: if number + 1 == count { 1 << 30 } else { 1 << 20 },
            stored_bytes: 1 << 20,
            seconds: 1.0,
            damaged: Vec::new(),
            bad_blocks: Vec::new(),
        })
        .collect();
    status.revision_count = count;
    status.newest = status.revisions.first().cloned();
    host
}

/// No text of an archive becomes markup: paths, sources, tags, problems and errors may hold anything.
#[test]
fn hostile_texts_stay_texts() {
    let (_folder, mut host) = host();
    let evil = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\n\u{1b}[31m&amp;";
    let checked = &mut host.archives[0];
    checked.archive = format!("/srv/{evil}").into();
    let status = checked.status.as_mut().unwrap();
    status.source = Some(evil.into());
    status.lock_holder = Some(evil.to_owned());
    let problem = Problem {
        kind: backy_lib::health::ProblemKind::Config,
        level: Level::Critical,
        message: evil.to_owned(),
        advice: evil.to_owned(),
    };
    checked.health.problems = vec![problem.clone()];
    host.problems = vec![problem];
    host.archives.push(host.archives[0].clone());
    let page = page(&host);
    for sign in ["<script", "<img", "\u{1b}", "onerror=alert(1)>\"", "'\"><"] {
        assert!(!page.contains(sign), "{sign}");
    }
    assert!(page.matches("&lt;script&gt;").count() >= 8, "{page}");
    assert!(page.contains("&amp;amp;"));
}

/// The page has nothing that a browser would fetch or run, and forbids that itself.
#[test]
fn nothing_is_fetched() {
    let page = page(&with_revisions(3));
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    for sign in ["src=", "<script", "@import", "url(", "http:", "https:", "<iframe"] {
        assert!(!page.contains(sign), "{sign}");
    }
    assert_eq!(page.matches("href=\"").count(), page.matches("href=\"#").count() + 1);
}

/// Charts work with no revision, with one and with a thousand, and have only as many marks as are distinguishable.
#[test]
fn charts_stay_legible() {
    let empty = page(&with_revisions(0));
    assert!(!empty.contains("<line class=\"mark") && empty.contains("Nothing is stored yet"));
    let marks = |page: &str| page.matches("<line class=\"mark").count();
    let bars = |page: &str| page.matches("<rect class=\"bar").count();
    let one = page(&with_revisions(1));
    // One for each of its tags.
    assert_eq!((marks(&one), bars(&one)), (2, 1));
    let many = page(&with_revisions(1000));
    assert!(marks(&many) <= 8 * 160 && bars(&many) <= 80, "{} {}", marks(&many), bars(&many));
    assert!(many.contains("24 other tags") && many.contains("All 1000 revisions"));
    // The first backup is cut off, so that the others are visible.
    assert!(many.contains("bar cut") && many.contains("up to 1.0 GiB"), "{many}");
    assert!(many.len() < 1 << 20, "{}", many.len());
}

/// The same archive `count` times, each under a name of its own.
fn many(mut host: HostReport, count: usize) -> HostReport {
    let one = host.archives.remove(0);
    host.archives = (0..count)
        .map(|number| {
            let mut copy = one.clone();
            copy.archive = format!("/srv/backup/customer-{number:03}/system-disk").into();
            copy
        })
        .collect();
    host
}

/// Without problems.
fn healthy(mut host: HostReport) -> HostReport {
    for checked in &mut host.archives {
        checked.health.level = Level::Ok;
        checked.health.problems = Vec::new();
        if let Some(status) = &mut checked.status {
            status.health = checked.health.clone();
        }
    }
    host
}

/// Healthy archives are folded and an unhealthy one is open. A single one is never folded.
#[test]
fn healthy_archives_are_folded() {
    let folded = |page: &str| page.matches("<details class=\"card archive\"").count();
    let open = |page: &str| page.matches("<section class=\"card archive\"").count();
    let mut host = many(healthy(with_revisions(3)), 5);
    let shown = page(&host);
    assert_eq!((folded(&shown), open(&shown)), (5, 0));
    host.archives[1].health.level = Level::Warning;
    let shown = page(&host);
    assert_eq!((folded(&shown), open(&shown)), (4, 1));
    let shown = page(&healthy(with_revisions(3)));
    assert_eq!((folded(&shown), open(&shown)), (0, 1));
    // Every link of the overview leads to something.
    let shown = page(&host);
    for number in 0..5 {
        assert!(shown.contains(&format!("href=\"#archive-{number}\"")));
        assert!(shown.contains(&format!("id=\"archive-{number}\"")));
    }
}

/// Damage is shown in place of how much was verified, in red, wherever that stands.
#[test]
fn damage_is_shown_in_place_of_what_was_verified() {
    let mut host = many(healthy(with_revisions(3)), 2);
    for checked in &mut host.archives {
        let status = checked.status.as_mut().unwrap();
        status.coverage.verified_share = 1.0;
        status.coverage.oldest = Some(host.checked);
    }
    assert!(page(&host).contains("All stored blocks verified") && page(&host).contains("100 %"));
    for checked in &mut host.archives {
        let status = checked.status.as_mut().unwrap();
        let extent = |at| backy_lib::extent::Extent::new(at, 4096);
        status.revisions[0].damaged = vec![extent(0), extent(8192)];
        // The older one reads one of these places through the newer one.
        status.revisions[1].damaged = vec![extent(0)];
        status.damaged_count = 2;
    }
    let shown = page(&host);
    assert!(!shown.contains("All stored blocks verified"));
    assert!(!shown.contains("<rect class=\"fill\" width=\"1000.0\""), "a bar as if all were well");
    for text in [
        "<strong class=\"bad\">checked, 2 places damaged</strong>",
        "<strong class=\"bad\">Checked, 2 places damaged in 2 revisions.</strong>",
        "<span class=\"figure bad\">2</span>",
        "class=\"bar damaged\"",
        "class=\"tick damaged\"",
        "class=\"mark damaged\"",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    // A missing file is damage, though no place is known.
    let mut host = many(healthy(with_revisions(3)), 2);
    let status = host.archives[0].status.as_mut().unwrap();
    status.health.problems = vec![Problem {
        kind: backy_lib::health::ProblemKind::MissingFile,
        level: Level::Critical,
        message: "last.raw is missing".to_owned(),
        advice: String::new(),
    }];
    assert!(page(&host).contains("<strong class=\"bad\">checked, files damaged</strong>"));
}

/// Archives on one file system share a bar, which says when it will be full.
#[test]
fn a_file_system_has_one_bar() {
    let mut host = many(healthy(with_revisions(3)), 4);
    let space = |device| backy_lib::health::Space {
        used_bytes: 100 << 30,
        free_bytes: 200 << 30,
        size_bytes: 1 << 40,
        growth_bytes_per_day: Some(1 << 30),
        full_at: None,
        device,
    };
    let mut shared = std::collections::BTreeMap::new();
    for (number, checked) in host.archives.iter_mut().enumerate() {
        let space = space(if number == 3 { 8 } else { 7 });
        checked.status.as_mut().unwrap().space = Some(space);
        let sum: &mut backy_lib::health::SharedSpace = shared.entry(space.device).or_default();
        sum.add(&space);
    }
    host.file_systems = shared.into_values().map(|sum| sum.foretold(host.checked)).collect();
    let full: Vec<String> =
        host.file_systems.iter().map(|sum| text::day(sum.full_at.unwrap())).collect();
    let shown = page(&host);
    assert_eq!(shown.matches("class=\"file-system\"").count(), 2);
    for full in full {
        assert!(shown.contains(&format!("full on {full}")), "{full}: {shown}");
    }
    assert!(shown.contains(", 3 archives"));
}

/// The commands of an advice are shown with the archive that they are for.
#[test]
fn advice_has_commands_to_copy() {
    let mut host = with_revisions(0);
    host.archives[0].archive = "/srv/my backups/a".into();
    host.archives[0].health.problems = vec![Problem {
        kind: backy_lib::health::ProblemKind::NoBackup,
        level: Level::Warning,
        message: "there is no backup yet".to_owned(),
        advice: "run 'backy backup', and let cron do it".to_owned(),
    }];
    let shown = page(&host);
    assert!(shown.contains("<code>backy -b '/srv/my backups/a' backup</code>"), "{shown}");
}

/// The page says in which zone its times are.
#[test]
fn the_time_zone_is_shown() {
    let host = with_revisions(1);
    let zone = text::zone(host.checked);
    assert!(page(&host).matches(&zone).count() >= 2 && zone.contains("UTC"), "{zone}");
}

/// A colour of the style, from 0 to 1 for red, green and blue.
fn colour(block: &str, name: &str) -> [f64; 3] {
    let found = block.split(';').find_map(|rule| {
        rule.trim().strip_prefix("--")?.strip_prefix(name)?.trim_start().strip_prefix(':')
    });
    let value = found.unwrap_or_else(|| panic!("no --{name}")).trim();
    let digits = value.strip_prefix('#').unwrap();
    let digits: String = match digits.len() {
        3 => digits.chars().flat_map(|digit| [digit, digit]).collect(),
        _ => digits.to_owned(),
    };
    [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&digits[at..at + 2], 16).unwrap()) / 255.0)
}

/// Source: WCAG 2.2, "contrast ratio" and "relative luminance".
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let luminance = |colour: [f64; 3]| {
        let linear = colour.map(|part| match part {
            part if part <= 0.04045 => part / 12.92,
            part => ((part + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

/// People with poor eyesight can read the text, on a light page, a dark one and paper: 4.5 to 1 at least, and 3 to 1
/// for charts.
#[test]
fn text_has_contrast() {
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 0.01);
    let blocks: Vec<&str> = STYLE.split(":root {").skip(1).collect();
    assert_eq!(blocks.len(), 3, "light, dark and print");
    for (block, scheme) in blocks.iter().zip(["light", "dark", "print"]) {
        let block = block.split('}').next().unwrap();
        let check = |front: &str, ground: &str, least: f64| {
            let found = contrast(colour(block, front), colour(block, ground));
            assert!(found >= least, "{scheme}: --{front} on --{ground}: {found:.2}");
        };
        for text in ["text", "muted", "accent", "critical"] {
            check(text, "card", 4.5);
            check(text, "ground", 4.5);
        }
        for level in ["ok", "warning", "critical", "unknown"] {
            check(level, &format!("{level}-ground"), 4.5);
            // In a list of problems the sign has the background of a card, and the words that of the level.
            check(level, "card", 4.5);
            check("text", &format!("{level}-ground"), 4.5);
        }
        for mark in ["accent", "pinned", "critical", "alarm"] {
            check(mark, "card", 3.0);
        }
    }
}
