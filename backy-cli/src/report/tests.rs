use backy_lib::archive::Archive;
use backy_lib::check::inventory;
use backy_lib::health::Problem;
use backy_lib::{BlockSize, SystemClock};

use super::*;
use backy_lib::status::RevisionStatus;

/// An archive without revisions, as the library sees it.
fn host() -> (tempfile::TempDir, HostReport) {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    Archive::init(&archive, Some(std::path::Path::new("/dev/zero")), BlockSize::DEFAULT).unwrap();
    let host = inventory(&[archive], &SystemClock).unwrap();
    (folder, host)
}

/// A report with `count` revisions, one a day, each with some tags.
fn with_revisions(count: usize) -> HostReport {
    let (_folder, mut host) = host();
    let status = host.archives[0].status.as_mut().unwrap();
    let id = backy_lib::RevisionId::new(host.checked);
    status.revisions = (0..count)
        .map(|number| RevisionStatus {
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
    checked.archive = format!("/srv/{evil}");
    let status = checked.status.as_mut().unwrap();
    status.source = Some(evil.to_owned());
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

/// The page has nothing that a browser would fetch or run, and says so to it.
#[test]
fn nothing_is_fetched() {
    let page = page(&with_revisions(3));
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    for sign in ["src=", "<script", "@import", "url(", "http:", "https:", "<iframe"] {
        assert!(!page.contains(sign), "{sign}");
    }
    assert_eq!(page.matches("href=\"").count(), page.matches("href=\"#").count() + 1);
}

/// Charts are there with no revision, with one and with a thousand, and have as many marks as can be told apart.
#[test]
fn charts_stay_legible() {
    let empty = page(&with_revisions(0));
    assert!(!empty.contains("<line") && empty.contains("Nothing is stored yet"));
    let marks = |page: &str| page.matches("<line class=\"mark").count();
    let bars =
        |page: &str| page.matches("class=\"bar").count() - page.matches("class=\"bars").count();
    let one = page(&with_revisions(1));
    // One for each of its tags.
    assert_eq!((marks(&one), bars(&one)), (2, 1));
    let many = page(&with_revisions(1000));
    assert!(marks(&many) <= 8 * 160 && bars(&many) <= 60, "{} {}", marks(&many), bars(&many));
    assert!(many.contains("24 other tags") && many.contains("All 1000 revisions"));
    // The first backup is cut off, so that the others are seen.
    assert!(many.contains("bar cut") && many.contains("up to 1.0 GiB"), "{many}");
    assert!(many.len() < 1 << 20, "{}", many.len());
}

/// What is nearly all is not called all.
#[test]
fn shares_are_not_rounded_up() {
    for (share, text) in
        [(0.0, "0 %"), (0.001, "< 1 %"), (0.999, "99 %"), (1.0, "100 %"), (7.0, "100 %")]
    {
        assert_eq!(percent(share), text);
    }
}
