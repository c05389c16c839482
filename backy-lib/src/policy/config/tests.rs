//! What `backy.toml` may contain, and what is reported about mistakes in it.

use super::*;

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("backy.toml"))
}

#[test]
fn the_template_is_valid_and_holds_the_source_whatever_its_name() {
    let config = parse(&Config::template(None).unwrap()).unwrap();
    assert_eq!(config.source, None);
    assert_eq!(config.schedule.len(), 3);
    for name in ["/dev/vg0/x", "/a \"quoted\\ name", "/tab\t", "/ü"] {
        let config =
            parse(&Config::template(Some(&SourceAddress::Path(name.into()))).unwrap()).unwrap();
        assert_eq!(config.source, Some(SourceAddress::Path(name.into())));
    }
}

#[test]
fn full_and_max_chain_are_off_by_default() {
    let plain = parse("[schedule.daily]\ninterval = \"1d\"\nkeep = 9").unwrap();
    assert_eq!(plain.max_chain, None);
    assert!(plain.schedule.values().all(|interval| !interval.full));
    let text = "max_chain = 1\n[schedule.daily]\ninterval = \"1d\"\nkeep = 9\nfull = false\n\
                [schedule.monthly]\ninterval = \"30d\"\nkeep = 4\nfull = true";
    let config = parse(text).unwrap();
    assert_eq!(config.max_chain, Some(1));
    let full: Vec<bool> = config.schedule.values().map(|interval| interval.full).collect();
    assert_eq!(full, [false, true]);
}

#[test]
fn the_commented_settings_of_the_template_are_valid() {
    let template = Config::template(None).unwrap();
    let mut shown = 0;
    let text: String = template
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(table) if table.starts_with('[') => format!("{table}\n"),
            Some(setting) if setting.contains(" = ") => {
                shown += 1;
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&text).unwrap();
    assert_eq!((shown, config.max_chain), (12, Some(50)));
    assert!(config.hooks.before.is_some() && config.hooks.max_hold.is_some());
    assert_eq!(config.source, Some(SourceAddress::Path("/dev/vg0/mynode".into())));
    let full = config.schedule.iter().filter(|(_, interval)| interval.full);
    assert_eq!(full.map(|(tag, _)| tag.as_str()).collect::<Vec<_>>(), ["monthly"]);
}

#[test]
fn every_mistake_is_reported_with_line_and_column() {
    for (text, line, column, word) in [
        ("sauce = \"/x\"", 1, 1, "sauce"),
        ("source = 5", 1, 10, "string"),
        ("source = \"x\"", 1, 10, "absolute"),
        ("source = \"/x\n", 1, 13, ""),
        ("[schedule.daily]\ninterval = \"1d\"", 1, 1, "keep"),
        ("[schedule.daily]\ninterval = \"1 day\"\nkeep = 1", 2, 12, "1 day"),
        ("[schedule.daily]\ninterval = \"0d\"\nkeep = 1", 2, 12, "0d"),
        ("[schedule.daily]\ninterval = \"+1d\"\nkeep = 1", 2, 12, "+1d"),
        ("[schedule.daily]\ninterval = \"99999999999w\"\nkeep = 1", 2, 12, "10 years"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 0", 3, 8, "keep"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nkeeep = 2", 4, 1, "keeep"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 4294967296", 3, 8, "4294967295"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nfull = \"yes\"", 4, 8, "true or false"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nfull = 1", 4, 8, "true or false"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nmax_chain = 9", 4, 1, "max_chain"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nat = \"2:00\"", 4, 6, "02:00"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nat = \"24:00\"", 4, 6, "02:00"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nat = 2", 4, 6, "string"),
        ("[schedule.daily]\ninterval = \"36h\"\nkeep = 1\nat = \"02:00\"", 4, 6, "whole days"),
        ("[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nwindow = \"01:00\"", 4, 10, "05:00"),
        (
            "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\nwindow = \"01:00-01:00\"",
            4,
            10,
            "two times",
        ),
        (
            "[schedule.x]\ninterval = \"1d\"\nkeep = 1\nat = \"06:00\"\nwindow = \"01:00-05:00\"",
            4,
            6,
            "window",
        ),
        (
            "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\ntimezone = \"Mars/X\"",
            4,
            12,
            "Europe/Berlin",
        ),
        ("max_chain = 0", 1, 13, "max_chain"),
        ("\n  max_chain = -1", 2, 15, "max_chain"),
        ("max_chain = 4294967296", 1, 13, "4294967295"),
        ("max_chain = \"9\"", 1, 13, "string"),
        ("full = true", 1, 1, "full"),
        ("[schedule.\"a b\"]\ninterval = \"1d\"\nkeep = 1", 1, 11, "tag"),
        ("compression_level = 20", 1, 21, "19"),
        ("file_mode = \"0666\"", 1, 13, "0640"),
        ("secret_file = \"key\"", 1, 15, "absolute path"),
        ("[hooks]\nbefore = 7", 2, 10, "line for the shell"),
        ("[hooks]\nbefore = []", 2, 10, "no program"),
        ("[hooks]\nafter = [\"\", \"x\"]", 2, 9, "no program"),
        ("[hooks]\nafter = [\"x\", 7]", 2, 9, "list of a program"),
        ("[hooks]\nafter = \"a\\u0000b\"", 2, 9, "NUL"),
        ("[hooks]\nbefor = \"true\"", 2, 1, "befor"),
        ("[hooks]\nbefore = \"true\"\ntimeout = \"5\"", 3, 11, "timeout"),
        ("[hooks]\nbefore = \"true\"\ntimeout = \"0s\"", 3, 11, "10 years"),
        ("[hooks]\nbefore = \"true\"\nmax_hold = \"1m\"", 3, 12, "'after'"),
        ("[hooks]\nafter = \"true\"\nmax_hold = \"1x\"", 3, 12, "max_hold"),
        ("[hooks]\nafter = \"true\"\nsnapshot = \"/x\"", 3, 12, "'before'"),
        ("[hooks]\nbefore = \"true\"\nsnapshot = \"x\"", 3, 12, "absolute"),
        ("[drill]\ntime = \"1h\"", 2, 1, "time"),
        ("[drill]\ntimeout = 5", 2, 11, "string"),
        ("[drill]\ntimeout = \"never\"", 2, 11, "\"none\""),
        ("[drill]\ntimeout = \"0s\"", 2, 11, "10 years"),
        ("[monitoring]\ntext_file = \"/x\"", 2, 1, "text_file"),
        ("[monitoring]\ntextfile = \"x.prom\"", 2, 12, "absolute"),
        ("[monitoring]\ntextfile = \"/x\"", 2, 12, ".prom"),
        ("[monitoring]\nscrub_within = \"60\"", 2, 16, "scrub_within"),
        ("[monitoring]\nfull_within = 14", 2, 15, "string"),
        ("[monitoring]\nlong_chain = 0", 2, 14, "long_chain"),
        ("[monitoring]\nmin_free_percent = 100", 2, 20, "99"),
        ("[monitoring]\nchange_factor = 1", 2, 17, "2 to"),
        ("[monitoring]\nfreeze = \"no\"", 2, 10, "true or false"),
        ("[schedule]\ndaily = \"1d\"", 2, 9, "expected a section such as [schedule.daily]"),
        ("schedule = 5", 1, 12, "section"),
        ("max_chain = \"9\"", 1, 13, "expected a whole number"),
        ("max_chain = 9223372036854775808", 1, 13, "a whole number"),
        ("max_chain = 1.5", 1, 13, "expected a whole number"),
        ("hooks = 5", 1, 9, "[hooks]"),
        ("monitoring = []", 1, 14, "[monitoring]"),
        ("source = [\"/x\"]", 1, 10, "string"),
    ] {
        let error = parse(text).expect_err(text);
        let message = error.to_string();
        let Error::Config { line: l, column: c, .. } = error else { panic!("{message}") };
        assert!(message.contains(word), "{text}: {message}");
        assert_eq!((l, c), (line, column), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
        for word in ["Raw", "i64", "i128", "u64", "u32", "struct", "map", "sequence"] {
            assert!(!message.contains(word), "{word}: {message}");
        }
    }
}

/// A schedule with more tags than a revision can hold fails at the first tag too many, in the order of the file.
#[test]
fn a_schedule_of_more_tags_than_a_revision_holds_is_a_mistake() {
    let schedule = |count: usize| -> String {
        let one = |n: usize| format!("[schedule.t{n}]\ninterval = \"{}d\"\nkeep = 1\n", n + 1);
        (0..count).map(one).collect()
    };
    assert_eq!(parse(&schedule(MAX_TAGS)).unwrap().schedule.len(), MAX_TAGS);
    let error = parse(&schedule(MAX_TAGS + 2)).expect_err("too many");
    let Error::Config { line, column, ref message, .. } = error else { panic!("{error}") };
    assert_eq!((line, column), (3 * MAX_TAGS + 1, 11), "{message}");
    assert!(message.contains("26 tags, expected at most 24"), "{message}");
}

/// A hook is a line, a list of words, or absent; its time limits are as configured.
#[test]
fn hooks_are_lines_or_words() {
    assert_eq!(parse("").unwrap().hooks, HooksConfig::default());
    let empty = parse("[hooks]\nbefore = \"\"\nafter = \" \"").unwrap().hooks;
    assert!(empty.is_empty());
    let text = "[hooks]\nbefore = [\"fsfreeze\", \"-f\", \"/a b\"]\nafter = \"sync; true\"\n\
                timeout = \"90s\"\nmax_hold = \"2m\"\nsnapshot = \"/dev/x\"";
    let hooks = parse(text).unwrap().hooks;
    let words = |hook: &Option<HookCommand>| hook.as_ref().unwrap().words().to_vec();
    assert_eq!(words(&hooks.before), ["fsfreeze", "-f", "/a b"]);
    assert_eq!(words(&hooks.after), ["/bin/sh", "-c", "sync; true"]);
    assert_eq!(hooks.after.as_ref().unwrap().words(), ["/bin/sh", "-c", "sync; true"]);
    assert_eq!((hooks.timeout.as_secs(), hooks.max_hold.unwrap().as_secs()), (90, 120));
    assert_eq!(hooks.snapshot, Some(PathBuf::from("/dev/x")));
}

/// The command of a drill has a day, or the configured time, or no limit.
#[test]
fn the_command_of_a_drill_has_a_time_limit() {
    for (text, seconds) in [
        ("", Some(86400)),
        ("[drill]", Some(86400)),
        ("[drill]\ntimeout = \"90m\"", Some(5400)),
        ("[drill]\ntimeout = \"none\"", None),
    ] {
        let found = parse(text).unwrap().drill_timeout.0;
        assert_eq!(found.map(|limit| limit.as_secs()), seconds, "{text}");
    }
}

/// A source is held for a limited time unless the config says otherwise; a snapshot may be read for
/// longer than a frozen source.
#[test]
fn a_source_is_held_for_a_limited_time() {
    for (text, limit) in [
        ("after = \"x\"", Some(3600)),
        ("before = \"x\"\nafter = \"x\"\nsnapshot = \"/x\"", Some(24 * 3600)),
        ("after = \"x\"\nmax_hold = \"3d\"", Some(3 * 24 * 3600)),
        ("after = \"x\"\nmax_hold = \"none\"", None),
        ("before = \"x\"", None),
    ] {
        let hooks = parse(&format!("[hooks]\n{text}")).unwrap().hooks;
        assert_eq!(hooks.max_hold.map(|limit| limit.as_secs()), limit, "{text}");
    }
}

#[test]
fn intervals_have_five_units() {
    for (text, seconds) in
        [("1s", 1), ("90m", 5400), ("36h", 129_600), ("1d", 86400), ("2w", 1_209_600)]
    {
        assert_eq!(parse_interval(text), Ok(SignedDuration::from_secs(seconds)));
    }
}

/// A config that runs a program of somebody else, in a hook or for marks, or that writes a file, acts outside of the
/// archive.
#[test]
fn what_acts_outside_of_the_archive_is_known() {
    for (text, acts) in [
        ("[tracking]\ncommand = [\"true\"]", true),
        ("[tracking]\ncommand = \"true\"", true),
        ("[tracking]\ncommand = \"\"", false),
        ("[hooks]\nbefore = \"true\"", true),
        ("[monitoring]\ntextfile = \"/a.prom\"", true),
        ("[tracking]\nmode = \"off\"", false),
    ] {
        assert_eq!(parse(text).unwrap().acts_outside(), acts, "{text}");
    }
}

/// A program that keeps marks is for a plain path whose backups read it, and the error names the place.
#[test]
fn a_program_for_marks_is_for_a_plain_path() {
    let command = "[tracking]\ncommand = [\"a\", \"b\"]";
    let config = parse(&format!("source = \"/dev/a\"\n{command}")).unwrap();
    assert_eq!(config.tracking.command.unwrap().words(), ["a", "b"]);
    for (text, part) in [
        (
            format!("source = \"rbd:a/b\"\n{command}"),
            "3:11: command: the source \"rbd:a/b\" is no plain path",
        ),
        (format!("source = \"reflink:/a\"\n{command}"), "is no plain path"),
        (
            format!("{command}\n[hooks]\nbefore = \"a\"\nsnapshot = \"/b\""),
            "2:11: command: [hooks] has a snapshot",
        ),
        ("[tracking]\ncommand = []".to_owned(), "2:11: command: found no program"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
