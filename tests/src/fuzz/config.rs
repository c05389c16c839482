//! Any text as `backy.toml`: a config within its limits, or one line that names a place in the text. A config that is
//! written out again reads as the same. Lines `%%` divide the text into several files, which may include each other.

use std::fmt::Write;
use std::path::Path;

use backy_lib::config::{Config, HookCommand, HooksConfig, Interval, Monitoring, Window, of_texts};
use backy_lib::digest::Digest;
use backy_lib::format::manifest::Statistics;
use backy_lib::schedule::{self, Past};
use backy_lib::settings::{FileLine, Origin, Setting};
use backy_lib::{Error, Revision, RevisionId, Tag};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_several(text);
    let config = match parse(text) {
        Ok(config) => config,
        Err(error) => return check_error(text, &error),
    };
    check_limits(&config);
    let written = written(&config);
    match parse(&written) {
        Ok(again) => assert_eq!(again, config, "{written}"),
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

/// The names of the files.
const NAMES: [&str; 4] = ["/s/backy.toml", "/s/a", "/s/b", "/s/c"];

/// Files that include each other give a config that the file and line of each setting lead to, or an error about a
/// place in one of them.
fn check_several(text: &str) {
    let texts: Vec<(&Path, &str)> = NAMES.iter().map(Path::new).zip(text.split("\n%%\n")).collect();
    let of = |path: &Path| texts.iter().find(|(name, _)| *name == path).expect("one of them").1;
    match of_texts(&texts) {
        Err(error) => check_error(of(error.path().expect("a file")), &error),
        Ok((config, settings)) => {
            check_limits(&config);
            for Setting { key, origin, .. } in settings {
                let Origin::File(FileLine { file, line }) = origin else { panic!("a default") };
                let lines: Vec<&str> = of(file.as_path()).split('\n').collect();
                assert!((1..=lines.len()).contains(&line), "{key}: {file}:{line}");
            }
        }
    }
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
    assert!(
        config.source.as_ref().is_none_or(|source| source.path().is_none_or(Path::is_absolute))
    );
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
        let _ = writeln!(text, "source = {}", written_path(&source.written()));
    }
    if let Some(group) = &config.group {
        let _ = writeln!(text, "group = \"{group}\"");
    }
    if let Some(max_chain) = config.max_chain {
        let _ = writeln!(text, "max_chain = {max_chain}");
    }
    let _ = writeln!(text, "compression_level = {}", config.compression_level);
    let _ = writeln!(text, "file_mode = \"{:04o}\"", config.file_mode);
    for (tag, Interval { interval, keep, full, at, window, timezone }) in &config.schedule {
        let _ = writeln!(text, "[schedule.\"{tag}\"]\ninterval = \"{}s\"", interval.as_secs());
        let _ = writeln!(text, "keep = {keep}\nfull = {full}");
        if let Some(at) = at {
            let _ = writeln!(text, "at = \"{}\"", at.strftime("%H:%M"));
        }
        if let Some(Window { begin, end }) = window {
            let (begin, end) = (begin.strftime("%H:%M"), end.strftime("%H:%M"));
            let _ = writeln!(text, "window = \"{begin}-{end}\"");
        }
        if let Some(name) = timezone.as_ref().and_then(TimeZone::iana_name) {
            let _ = writeln!(text, "timezone = \"{name}\"");
        }
    }
    write_hooks(&mut text, &config.hooks);
    let within = config.tracking.verify_within.as_secs();
    let mode = config.tracking.mode.as_str();
    let _ = writeln!(text, "[tracking]\nmode = \"{mode}\"\nverify_within = \"{within}s\"");
    let _ = writeln!(text, "scratch = {}", written_path(&config.tracking.scratch));
    let _ = writeln!(text, "quiesce = \"{}\"", config.tracking.quiesce.as_str());
    let _ = writeln!(text, "fast_diff = {}", config.tracking.fast_diff);
    write_command(&mut text, "command", config.tracking.command.as_ref());
    write_monitoring(&mut text, &config.monitoring);
    text
}

fn write_hooks(text: &mut String, hooks: &HooksConfig) {
    let _ = writeln!(text, "[hooks]\ntimeout = \"{}s\"", hooks.timeout.as_secs());
    for (name, command) in [("before", &hooks.before), ("after", &hooks.after)] {
        write_command(text, name, command.as_ref());
    }
    let _ = match hooks.max_hold {
        Some(max_hold) => writeln!(text, "max_hold = \"{}s\"", max_hold.as_secs()),
        None if hooks.after.is_some() => writeln!(text, "max_hold = \"none\""),
        None => Ok(()),
    };
    if let Some(snapshot) = &hooks.snapshot {
        let _ = writeln!(text, "snapshot = {}", written_path(snapshot));
    }
}

fn write_command(text: &mut String, name: &str, command: Option<&HookCommand>) {
    let Some(command) = command else { return };
    let words = command.words();
    let line = words.last().filter(|line| HookCommand::of_line(line) == *command);
    let _ = match line {
        Some(line) => writeln!(text, "{name} = {}", written_string(line)),
        None => {
            let words = words.iter().map(|word| written_string(word));
            writeln!(text, "{name} = [{}]", words.collect::<Vec<_>>().join(", "))
        }
    };
}

fn write_monitoring(text: &mut String, monitoring: &Monitoring) {
    // Destructured here, so that a new key cannot be forgotten.
    let Monitoring {
        textfile,
        max_age,
        scrub_within,
        drill_within,
        long_chain,
        min_free_percent,
        full_within,
        change_factor,
        freeze,
        accept_no_permissions,
    } = monitoring;
    let _ = writeln!(text, "[monitoring]\nmin_free_percent = {min_free_percent}");
    let _ = writeln!(text, "change_factor = {change_factor}\nfreeze = {freeze}");
    let _ = writeln!(text, "accept_no_permissions = {accept_no_permissions}");
    if let Some(textfile) = textfile {
        let _ = writeln!(text, "textfile = {}", written_path(textfile));
    }
    if let Some(long_chain) = long_chain {
        let _ = writeln!(text, "long_chain = {long_chain}");
    }
    let times = [
        ("max_age", *max_age),
        ("scrub_within", Some(*scrub_within)),
        ("drill_within", *drill_within),
        ("full_within", Some(*full_within)),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            let _ = writeln!(text, "{name} = \"{}s\"", time.as_secs());
        }
    }
}

fn written_path(path: &Path) -> String {
    written_string(path.to_str().expect("it was text"))
}

/// What a TOML string may not hold as it is, escaped.
fn written_string(text: &str) -> String {
    let plain = |c: char| !c.is_control() && c != '"' && c != '\\';
    let escaped = text.chars().map(|c| match plain(c) {
        true => c.to_string(),
        false => format!("\\U{:08X}", u32::from(c)),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// A backup is due at first. After one with all tags nothing is due, and everything again once it is long ago. This
/// holds at any time that a clock can show.
fn check_schedule(config: &Config) {
    let tags = config.schedule.keys().cloned().collect::<std::collections::BTreeSet<Tag>>();
    for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        assert!(schedule::due(&Past::of(&[]), config, now).is_due());
        let id = RevisionId::from(uuid::Uuid::from_u128(7));
        let mut made = Revision::newest(id, now, now, 0, Digest::of(b""), Statistics::default());
        made.tags = tags.clone();
        if !tags.is_empty() {
            let revisions = [made];
            // At the end of time whatever is due is due now.
            let past = Past::of(&revisions);
            assert_eq!(schedule::due(&past, config, now).is_due(), now == Timestamp::MAX);
            // Outside of its window a backup is due when twice its interval has passed.
            let later = now.saturating_add(SignedDuration::from_hours(21 * 366 * 24));
            let later = later.expect("a duration can be added");
            if later != Timestamp::MAX {
                assert_eq!(schedule::due(&past, config, later), schedule::Due::Tags(tags.clone()));
            }
        }
    }
}
