//! Any text as `backy.toml`: a config within its limits, or one line that names a place in the text. What was read,
//! written down anew, is read as the same.

use std::fmt::Write;
use std::path::Path;

use backy_lib::config::{Config, Interval};
use backy_lib::digest::Digest;
use backy_lib::format::manifest::Statistics;
use backy_lib::{Error, Revision, RevisionId, Tag, schedule};
use jiff::{SignedDuration, Timestamp};

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match parse(text) {
        Ok(config) => config,
        Err(error) => return check_error(text, &error),
    };
    check_limits(&config);
    if cfg!(feature = "planted-bug") {
        let found = config.schedule.values().any(|interval| (100..1000).contains(&interval.keep));
        assert!(!found, "the planted bug: three digits to keep");
    }
    let written = written(&config);
    match parse(&written) {
        // Hooks and limits of monitoring are not written down here.
        Ok(again) => {
            let (hooks, monitoring) = (config.hooks.clone(), config.monitoring.clone());
            assert_eq!(Config { hooks, monitoring, ..again }, config, "{written}");
        }
        Err(error) => panic!("{error}: {written}"),
    }
    check_schedule(&config);
    if let Some(source) = &config.source {
        let template = Config::template(Some(source)).expect("its name is text");
        assert_eq!(parse(&template).expect("a config").source, config.source);
    }
}

fn parse(text: &str) -> backy_lib::Result<Config> {
    Config::parse(text, Path::new("backy.toml"))
}

/// One line, and a place that is in the text.
fn check_error(text: &str, error: &Error) {
    let Error::Config { line, column, .. } = error else { panic!("{error}") };
    let shown = error.to_string();
    assert!(!shown.contains('\n'), "not one line: {shown:?}");
    let lines: Vec<&str> = text.split('\n').collect();
    let line = line.checked_sub(1).and_then(|line| lines.get(line)).expect("a line of the text");
    assert!((1..=line.chars().count() + 1).contains(column), "{shown:?}");
}

fn check_limits(config: &Config) {
    assert!(config.source.as_ref().is_none_or(|source| source.is_absolute()));
    assert!(config.max_chain != Some(0));
    assert!((1..=19).contains(&config.compression_level));
    assert!([0o600, 0o640, 0o644, 0o604].contains(&config.file_mode), "{:o}", config.file_mode);
    let longest = SignedDuration::from_hours(10 * 366 * 24);
    for Interval { interval, keep, .. } in config.schedule.values() {
        assert!((SignedDuration::from_secs(1)..=longest).contains(interval) && *keep > 0);
    }
}

/// The config as the plainest TOML.
fn written(config: &Config) -> String {
    let mut text = String::new();
    if let Some(source) = &config.source {
        let source = source.to_str().expect("it was text");
        // What a TOML string may not hold as it is, escaped.
        let plain = |c: char| !c.is_control() && c != '"' && c != '\\';
        let escaped = source.chars().map(|c| match plain(c) {
            true => c.to_string(),
            false => format!("\\U{:08X}", u32::from(c)),
        });
        let _ = writeln!(text, "source = \"{}\"", escaped.collect::<String>());
    }
    if let Some(max_chain) = config.max_chain {
        let _ = writeln!(text, "max_chain = {max_chain}");
    }
    let _ = writeln!(text, "compression_level = {}", config.compression_level);
    let _ = writeln!(text, "file_mode = \"{:04o}\"", config.file_mode);
    for (tag, Interval { interval, keep, full }) in &config.schedule {
        let _ = writeln!(text, "[schedule.\"{tag}\"]\ninterval = \"{}s\"", interval.as_secs());
        let _ = writeln!(text, "keep = {keep}\nfull = {full}");
    }
    text
}

/// A backup is due at first; after one with all tags nothing is, and everything again once it is long ago. At any time that a
/// clock can show.
fn check_schedule(config: &Config) {
    let tags = config.schedule.keys().cloned().collect::<std::collections::BTreeSet<Tag>>();
    for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        assert!(schedule::due(&[], config, now).is_due());
        let id = RevisionId::from(uuid::Uuid::from_u128(7));
        let mut made = Revision::newest(id, now, now, 0, Digest::of(b""), Statistics::default());
        made.tags = tags.clone();
        if !tags.is_empty() {
            let revisions = [made];
            // At the end of time whatever is due is due now.
            assert_eq!(schedule::due(&revisions, config, now).is_due(), now == Timestamp::MAX);
            let later = now.saturating_add(SignedDuration::from_hours(11 * 366 * 24));
            let later = later.expect("a duration can be added");
            if later != Timestamp::MAX {
                assert_eq!(
                    schedule::due(&revisions, config, later),
                    schedule::Due::Tags(tags.clone())
                );
            }
        }
    }
}
