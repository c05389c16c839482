//! What programs read from the command matches its documents: JSON, exit statuses, metrics, history, log.

use backy_tests::command::program;

use super::*;

/// The JSON of the command has the fields in doc/scripting.md, and no others.
#[test]
fn the_json_is_as_documented() {
    let text = document("doc/scripting.md");
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("source"), vec![7; 100_000]).expect("a source");
    let run = |arguments: &[&str]| backy_in(folder.path(), arguments);
    let backy = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&backy(arguments)).expect("JSON")
    };
    backy(&["init", "source"]);
    let made = json(&["backup", "--json"]);
    let nothing = json(&["backup", "--json"]);
    assert!(nothing.is_null());
    let status = json(&["status", "--json"]);
    let restored = json(&["restore", "--json", "copy"]);
    let output = Command::new(program())
        .args(["-b", "imported", "import", "--json"])
        .arg(checkout().join("tests/legacy/scrub-consistent"))
        .current_dir(folder.path())
        .output()
        .expect("run backy");
    let imported: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let output = Command::new(program())
        .args(["-b", "copied", "pull", "--json", "archive"])
        .current_dir(folder.path())
        .output()
        .expect("run backy");
    let pulled: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let drilled = json(&["drill", "--json"]);
    let exported = json(&["export", "--json", "copy.qcow2"]);
    let for_ceph = json(&["export", "--rbd-diff", "--json", "copy.diff"]);
    let tagged = json(&["tag", "--json", "0", "+mine"]);
    let scrubbed = json(&["scrub", "--json"]);
    let looked = json(&["source", "--json"]);
    backy(&["backup", "--force"]);
    let maintained = json(&["maintenance", "--json"]);
    // A finding: the image is not what it was.
    fs::write(folder.path().join("archive/last.raw"), vec![8; 100_000]).expect("rot");
    let found: serde_json::Value =
        serde_json::from_slice(&run(&["scrub", "-n", "--json"]).stdout).expect("JSON");
    let host: serde_json::Value =
        serde_json::from_slice(&run(&["check", "archive", "--json"]).stdout).expect("JSON");
    let failed = run(&["scrub", "--budget", "1s"]);
    assert_eq!(failed.status.code(), Some(1));
    for (heading, value) in [
        ("### import", &imported),
        ("### pull", &pulled),
        ("A revision that was pulled:", &pulled["pulled"][0]),
        ("A revision that was imported:", &imported["imported"][0]),
        ("### status", &status),
        ("A revision in it:", &status["revisions"][0]),
        ("A tag in it:", &status["schedule"][0]),
        ("### check", &host),
        ("### backup", &made),
        ("### restore", &restored),
        ("### drill", &drilled),
        ("### export", &exported),
        ("Export for Ceph:", &for_ceph),
        ("### tag", &tagged),
        ("### scrub", &scrubbed),
        ("### source", &looked),
        ("A finding in it:", &found["findings"][0]),
        ("### maintenance", &maintained),
        ("A verdict in it:", &maintained["verdicts"][0]),
    ] {
        let mut documented = names(&text, heading);
        documented.sort();
        assert_eq!(documented, keys(value), "{heading}");
    }
    for (heading, value) in [
        ("`affected` |", &found["findings"][0]["affected"][0]),
        ("`coverage` |", &status["coverage"]),
        ("`health` |", &status["health"]),
        ("`last_runs` |", &status["last_runs"][0]),
        ("`space` |", &status["space"]),
        ("`archives` |", &host["archives"][0]),
        ("`file_systems` |", &host["file_systems"][0]),
    ] {
        let row = text.lines().find(|line| line.contains(heading)).expect("a row");
        assert!(keys(value).iter().all(|key| row.contains(&format!("`{key}`"))), "{row}");
    }
}

/// The kinds of problems, the settings with their defaults, the figures and the metrics in doc/scripting.md are
/// those of the code.
#[test]
fn monitoring_is_as_documented() {
    let text = document("doc/scripting.md");
    let rows: Vec<Vec<String>> = table(&text, "### What is judged");
    let told = rows.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()));
    let level = |level: Level| serde_json::to_value(level).expect("JSON");
    let causes = Cause::ALL.iter().map(|cause| {
        (cause.kind().as_str().to_owned(), level(cause.level()).as_str().expect("text").to_owned())
    });
    assert_eq!(told.collect::<Vec<_>>(), causes.collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.len() == 4 && row.iter().all(|cell| !cell.is_empty())));
    for kind in ProblemKind::ALL {
        assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.as_str());
    }
    let metrics: Vec<&str> = monitoring::prometheus_names().collect();
    assert_eq!(names(&text, "Of archives: all are gauges"), metrics);

    let rows = table(&text, "### Settings");
    assert_eq!(rows.len(), 10);
    let mut settings = String::from("[monitoring]\n");
    for row in &rows {
        let (key, default) = (row[0].trim_matches('`'), row[1].trim_matches('`'));
        let value = match key {
            "textfile" => "\"/x.prom\"",
            _ if default == "none" => "\"7d\"",
            "long_chain" => "200",
            _ => default,
        };
        settings += &format!("{key} = {value}\n");
    }
    let read = |text: &str| Config::parse(text, Path::new("x")).expect(text).monitoring;
    let (set, default) = (read(&settings), read(""));
    assert_eq!((set.scrub_within, set.full_within), (default.scrub_within, default.full_within));
    assert_eq!(set.min_free_percent, default.min_free_percent);
    assert_eq!((set.change_factor, set.freeze), (default.change_factor, default.freeze));
    assert_eq!(set.accept_no_permissions, default.accept_no_permissions);
    assert!(set.max_age.is_some() && set.drill_within.is_some() && set.long_chain == Some(200));
    for number in [health::MIN_EARLIER as u64, health::MAX_EARLIER as u64, health::MIN_PERCENT] {
        let (_, unusual) = text.split_once("**Unusual**").expect("what is unusual");
        assert!(unusual.contains(&number.to_string()), "{number}");
    }

    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("source"), vec![7; 100_000]).expect("a source");
    for arguments in [&["init", "source"][..], &["backup"]] {
        assert!(backy_in(folder.path(), arguments).status.success());
    }
    for (heading, arguments) in [
        ("### The line for Nagios", &["status", "--check"][..]),
        ("Those of `check --nagios`", &["check", "archive", "--nagios"]),
    ] {
        let output = backy_in(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let line = String::from_utf8(output.stdout).expect("text");
        let (_, figures) = line.split_once(" | ").expect("figures");
        let figures = figures.split_whitespace().map(|figure| figure.split('\'').nth(1));
        let figures: Vec<&str> = figures.map(|label| label.expect("a label")).collect();
        let documented = match heading {
            "### The line for Nagios" => names(&text, heading),
            _ => {
                let line = text.lines().find(|line| line.starts_with(heading)).expect("a line");
                line.split('`').skip(3).step_by(2).map(str::to_owned).collect()
            }
        };
        assert_eq!(documented, figures);
    }
}

/// One table decides the level of a problem: nothing else in the library makes a problem, or names a level for one.
#[test]
fn levels_come_from_one_table() {
    let mut folders = vec![checkout().join("backy-lib/src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list the sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            if path.ends_with("health/cause.rs") || path.ends_with("monitoring/tests.rs") {
                continue;
            }
            seen += 1;
            let made = code.lines().find(|line| {
                line.contains("Problem {")
                    && !["struct", "->"].iter().any(|word| line.contains(word))
            });
            assert_eq!(made, None, "{}", path.display());
            let named = code.lines().find(|line| line.contains("level: Level::"));
            assert_eq!(named, None, "{}", path.display());
        }
    }
    assert!(seen > 100, "{seen}");
}

/// The code in the first column of the table after `heading`.
fn names(text: &str, heading: &str) -> Vec<String> {
    table(text, heading).iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}

fn keys(value: &serde_json::Value) -> Vec<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

/// Each kind of step has the fields in doc/scripting.md, and so has each line of the history.
#[test]
fn steps_and_history_are_as_documented() {
    let text = document("doc/scripting.md");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    fs::write(&source, vec![7; 100_000]).expect("a source");
    let run = |arguments: &[&str]| backy_in(folder.path(), arguments);
    run(&["init", "source"]);
    for content in 0..6 {
        fs::write(&source, vec![content; 100_000]).expect("a source");
        assert!(run(&["backup", "--force"]).status.success());
    }
    let config = folder.path().join("archive/backy.toml");
    let settings = fs::read_to_string(&config).expect("a config");
    fs::write(&config, format!("max_chain = 1\n{settings}")).expect("a config");
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for arguments in [&["rm", "-n", "--json", "0,2,5"][..], &["maintenance", "-n", "--json"]] {
        let plan: serde_json::Value = serde_json::from_slice(&run(arguments).stdout).expect("JSON");
        for step in plan["steps"].as_array().expect("steps") {
            let fields = keys(step).into_iter().filter(|key| key != "step").collect();
            steps.insert(step["step"].as_str().expect("its kind").to_owned(), fields);
        }
    }
    let mut documented = BTreeMap::new();
    for row in table(&text, "A step in it") {
        let mut fields: Vec<String> =
            row[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        fields.sort();
        documented.insert(row[0].trim_matches('`').to_owned(), fields);
    }
    assert_eq!(documented, steps);

    assert!(run(&["tag", "0", "+mine"]).status.success());
    run(&["scrub"]);
    run(&["rm", "1"]);
    // One that fails.
    fs::remove_file(folder.path().join("archive/last.raw")).expect("damage");
    assert!(!run(&["backup", "--force"]).status.success());
    let history =
        fs::read_to_string(folder.path().join("archive/history.jsonl")).expect("a history");
    let fields = names(&text, "## history.jsonl");
    let rows = table(&text, "## history.jsonl");
    let mut used: BTreeSet<String> = BTreeSet::new();
    for line in history.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        used.extend(keys(&line));
        if line["operation"] == "tag" {
            let fields: BTreeSet<String> = names(&text, "### tag").into_iter().collect();
            assert_eq!(keys(&line["report"]).into_iter().collect::<BTreeSet<_>>(), fields);
        }
        for (row, field) in [(1, "operation"), (4, "result")] {
            let value = format!("`{}`", line[field].as_str().expect("a word"));
            assert!(rows[row][1].contains(&value), "{value} is not in {:?}", rows[row]);
        }
    }
    assert_eq!(fields.into_iter().collect::<BTreeSet<_>>(), used);
}

/// Each line of a log in JSON has the fields in doc/scripting.md, and no others. That page also lists the events and
/// their additional fields.
#[test]
fn the_log_is_as_documented() {
    let text = document("doc/scripting.md");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    let run = |arguments: &[&str]| backy_in(folder.path(), arguments);
    let log = |arguments: &[&str]| {
        let arguments = [&["--log-format", "json", "-v"], arguments].concat();
        String::from_utf8(run(&arguments).stderr).expect("text")
    };
    fs::write(&source, vec![7; 100_000]).expect("a source");
    run(&["init", "source"]);
    let mut lines = log(&["backup", "--force"]) + &log(&["backup", "--forse"]);
    // The image is not what it was: the next backup finds that.
    let image = folder.path().join("archive/last.raw");
    fs::write(&image, vec![8; 100_000]).expect("rot");
    fs::write(&source, vec![9; 100_000]).expect("a source");
    lines += &log(&["backup", "--force"]);
    fs::remove_file(&image).expect("damage");
    lines += &log(&["backup", "--force"]);
    lines += &log(&["drill", "-r", "0"]);
    let mut always = names(&text, "Every line has");
    always.sort();
    let mut documented: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in table(&text, "The events, and what their lines have besides") {
        let mut fields: Vec<String> =
            row[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        fields.sort();
        documented.insert(row[0].trim_matches('`').to_owned(), fields);
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let (common, besides): (Vec<String>, Vec<String>) =
            keys(&line).into_iter().partition(|key| always.contains(key));
        assert_eq!(common, always);
        let event = line["event"].as_str().expect("a word").to_owned();
        assert_eq!(found.entry(event).or_insert(besides.clone()), &besides);
    }
    // This scene cannot raise warnings of the rest.
    found.entry("warning".to_owned()).or_default();
    found.entry("job".to_owned()).or_default();
    assert_eq!(found, documented);
}

/// Runs the command on the folder `archive` in `folder`.
pub(super) fn backy_in(folder: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new(program())
        .args(["-b", "archive"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("run backy")
}
