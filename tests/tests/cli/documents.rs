//! What the documents say is true: their tables, examples and maps are read here and compared with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_lib::canary::Bug;
use backy_lib::format::qcow2::{Cluster, Header, Layout, decode_entry};
use backy_lib::health::Cause;
use backy_lib::storage::FileName;
use backy_lib::{BlockSize, Config, Level, Manifest, ProblemKind, health, monitoring};

mod disaster;
mod guide;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn golden(file: &str) -> Vec<u8> {
    golden_of("format-1", file)
}

fn golden_of(archive: &str, file: &str) -> Vec<u8> {
    let path = root().join("tests/golden").join(archive).join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the first table after `heading`, without its head.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, after) = text.split_once(heading).unwrap_or_else(|| panic!("no '{heading}'"));
    let rows =
        after.lines().skip_while(|line| !line.starts_with('|')).take_while(|l| l.starts_with('|'));
    rows.skip(2)
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

fn code_blocks<'a>(text: &'a str, language: &str) -> Vec<(&'a str, &'a str)> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```") {
        let Some((info, after)) = after.split_once('\n') else { break };
        let Some((body, after)) = after.split_once("```") else { break };
        if let Some(info) = info.strip_prefix(language) {
            blocks.push((info.trim(), body));
        }
        rest = after;
    }
    blocks
}

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("'{text}' is not a number"))
}

/// The hex dumps of the worked example are the bytes of the golden archive.
#[test]
fn the_worked_example_is_the_golden_archive() {
    let text = document("doc/format.md");
    let blocks = code_blocks(&text, "hex");
    assert_eq!(blocks.len(), 4);
    for (file, dump) in blocks {
        let content = golden(file);
        for line in dump.lines() {
            let (offset, digits) = line.split_once(": ").expect("an offset");
            let offset = usize::from_str_radix(offset, 16).expect("a hex offset");
            let digits = digits.replace(' ', "");
            let found: String = content[offset..offset + digits.len() / 2]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(found, digits, "{file} at {offset:#x}");
        }
    }
}

/// The fields of the example's header have the values in the table, and our parser says the same.
#[test]
fn the_header_table_holds() {
    let text = document("doc/format.md");
    let (file, _) = code_blocks(&text, "hex")[0];
    let content = golden(file);
    let rows = table(&text, "Its header:");
    assert!(rows.len() > 15);
    for row in &rows {
        let (offset, length) = (number(&row[0]) as usize, number(&row[1]) as usize);
        let value = content[offset..offset + length].iter().fold(0, |v, b| v << 8 | u64::from(*b));
        assert_eq!(value, number(&row[2]), "{}", row[3]);
    }
    let header = Header::parse(&content[..512]).expect("a header");
    assert_eq!(header.virtual_bytes, 42496);
    assert!(!header.dirty);
    assert!(matches!(header.backing.map(|b| b.file), Some(FileName::Delta(_))));
}

/// The L2 entries of the example mean what the table says.
#[test]
fn the_entry_table_holds() {
    let text = document("doc/format.md");
    let (file, _) = code_blocks(&text, "hex")[0];
    let content = golden(file);
    for row in table(&text, "The first entries of the L2 table") {
        let at = 0x3000 + 8 * number(&row[0]) as usize;
        let raw = u64::from_be_bytes(content[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!(raw, number(&row[1]));
        let cluster = decode_entry(raw, BlockSize::MIN, content.len() as u64).expect("an entry");
        let meaning = match cluster {
            Cluster::Unallocated => "not held".to_owned(),
            Cluster::Zero => "zero".to_owned(),
            Cluster::Plain { offset } => format!("plain at {offset:#x}"),
            Cluster::Compressed { offset, .. } => format!("compressed at {offset:#x}"),
        };
        assert_eq!(meaning, row[2]);
    }
}

/// The fields of the manifest in the document are those in the file, and no others.
#[test]
fn the_manifest_tables_name_every_field() {
    let text = document("doc/format.md");
    let manifest: serde_json::Value =
        serde_json::from_slice(&golden_of("format-1-kept", "manifest.json")).expect("JSON");
    let names = |heading: &str| {
        let rows = table(&text, heading);
        let cells = rows.iter().flat_map(|row| row[0].split(','));
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>()
    };
    let keys = |value: &serde_json::Value| {
        value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
    };
    let mut documented = names("## manifest.json");
    documented.sort();
    assert_eq!(documented, keys(&manifest));
    let mut documented = names("\nA revision:\n");
    documented.sort();
    assert_eq!(documented, keys(&manifest["revisions"][0]));
}

/// The files in the document are those that the code knows.
#[test]
fn the_table_of_files_names_every_file() {
    let uuid = "01935470-2f5e-7cc0-9d1a-3f0c5a3be001";
    let rows = table(&document("doc/format.md"), "## Files");
    assert_eq!(rows.len(), 13);
    for row in rows {
        let name = row[0].trim_matches('`').replace("<uuid>", uuid).replace("<name>", "README");
        let name = name.replace("<token>", "0123456789abcdef");
        assert!(FileName::parse(&name).is_some(), "{name}");
    }
}

/// The limits in the document are those in the code.
#[test]
fn the_table_of_limits_holds() {
    let rows = table(&document("doc/format.md"), "## Limits");
    let limit = |what: &str| {
        let row = rows.iter().find(|row| row[0].contains(what));
        row.unwrap_or_else(|| panic!("no limit of {what}"))[1].clone()
    };
    assert_eq!(limit("blocks of 4 KiB"), "2 TiB");
    assert_eq!(Layout::max_image_bytes(BlockSize::MIN), 2 << 40);
    assert_eq!(limit("blocks of 64 KiB"), "512 TiB");
    assert_eq!(Layout::max_image_bytes(BlockSize::DEFAULT), 512 << 40);
    assert_eq!(limit("blocks of 2 MiB"), "128 TiB");
    assert_eq!(Layout::max_image_bytes(BlockSize::MAX), 128 << 40);
    assert_eq!(limit("tags"), backy_lib::format::manifest::MAX_TAGS.to_string());
    assert_eq!(limit("manifest.json"), "64 MiB");
    assert_eq!(backy_lib::format::manifest::MANIFEST_LIMIT_BYTES, 64 << 20);
    assert_eq!(limit("unknown fields of one object"), "1 MiB");
    assert_eq!(backy_lib::format::manifest::UNKNOWN_LIMIT_BYTES, 1 << 20);
    let depth = backy_lib::format::manifest::UNKNOWN_LIMIT_DEPTH.to_string();
    assert_eq!(limit("in an unknown field"), depth);
    assert_eq!(limit("backy.toml"), "1 MiB");
    assert_eq!(backy_lib::config::CONFIG_LIMIT_BYTES, 1 << 20);
}

/// The five lines of Python in the archive's README give the recorded digest, for the image and for a delta
/// converted by `qemu-img` as the README says; the format document has the same five lines.
#[test]
fn the_archives_readme_recovers_and_checks_without_backy() {
    if !backy_tests::qemu::available() {
        return;
    }
    let readme = String::from_utf8(golden("README")).expect("UTF-8");
    let (_, program) = readme.split_once("import hashlib").expect("the program");
    let (program, _) = program.split_once("\n\n").expect("its end");
    let program: String = format!("import hashlib{program}").replace("\n    ", "\n");
    let documented = document("doc/format.md");
    let (_, in_document) = code_blocks(&documented, "python")[0];
    assert_eq!(program.replace("4096", "65536").trim(), in_document.trim());

    let manifest = Manifest::parse(&golden("manifest.json")).expect("a manifest");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for revision in &manifest.revisions {
        let raw = folder.path().join("disk.raw");
        let archive = root().join("tests/golden/format-1");
        let convert = match revision.base {
            None => format!("cp --sparse=always last.raw {}", raw.display()),
            Some(_) => format!(
                "qemu-img convert -f qcow2 -O raw {0}.qcow2 {1} && truncate -s {2} {1}",
                revision.uuid,
                raw.display(),
                revision.size_bytes
            ),
        };
        let status = Command::new("sh").args(["-c", &convert]).current_dir(archive).status();
        assert!(status.expect("run sh").success(), "{convert}");
        let output = Command::new("python3")
            .args(["-c", &program, raw.to_str().expect("UTF-8")])
            .output()
            .expect("run python3");
        let found = String::from_utf8_lossy(&output.stdout);
        assert_eq!(found.trim(), revision.digest.to_string(), "{}", revision.uuid);
    }
}

/// Every test that doc/safety.md names is there, and so is every file that CONTRIBUTING.md names. No promise
/// stands in doc/safety.md twice, and no test holds two of them.
#[test]
fn the_tests_that_are_named_exist() {
    let safety = document("doc/safety.md");
    let (_, promises) = safety.split_once("## Promises and the tests").expect("the promises");
    let (promises, _) = promises.split_once("\n## ").expect("the hazards");
    let mut rows: Vec<Vec<String>> = promises
        .split("\n### ")
        .skip(1)
        .filter(|part| part.contains("\n|"))
        .flat_map(|part| table(part, "\n"))
        .collect();
    assert!(rows.len() > 80, "{} promises", rows.len());
    let tests = |row: &Vec<String>| -> Vec<String> {
        row[1].split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut seen = BTreeSet::new();
    for row in &rows {
        for what in tests(row).into_iter().chain([row[0].clone()]) {
            assert!(seen.insert(what.clone()), "twice: {what}");
        }
    }
    rows.extend(table(&safety, "## Broken on purpose"));
    let attackers = table(&safety, "## Attackers");
    assert!(attackers.len() > 15, "{} rows", attackers.len());
    rows.extend(attackers.into_iter().map(|row| row[2..].to_vec()));
    for name in rows.iter().flat_map(tests) {
        let (file, test) = name.split_once(": ").expect("a file and a test");
        let is_whole = ["tests/", "backy-lib/"].iter().any(|folder| file.starts_with(folder));
        let text =
            document(&if is_whole { file.to_owned() } else { format!("tests/tests/{file}") });
        assert!(
            text.contains(&format!("fn {test}(")) || text.contains(&format!("def {test}(")),
            "{name}"
        );
    }
    for row in table(&document("CONTRIBUTING.md"), "## Tests") {
        let path = row[0].trim_matches('`');
        assert!(root().join(path).exists(), "{path}");
    }
}

/// Every bug that can be planted is planted in one place and stands in doc/safety.md, and nothing else stands
/// there as one.
#[test]
fn the_canaries_are_planted_and_named() {
    let rows = table(&document("doc/safety.md"), "## Broken on purpose");
    let cells = rows.iter().map(|row| row[2].trim_matches('`'));
    let mut named: Vec<&str> = cells.filter(|cell| !cell.is_empty()).collect();
    let mut all = Bug::ALL.map(Bug::name);
    named.sort_unstable();
    all.sort_unstable();
    assert_eq!(named, all);

    let files = rust_files(&root().join("backy-lib/src"));
    let code: String = files.iter().map(|path| fs::read_to_string(path).expect("code")).collect();
    let places = |bug: &str| code.matches(&format!("planted(Bug::{bug}")).count();
    for bug in Bug::ALL {
        assert_eq!(places(&format!("{bug:?})")), 1, "{bug:?}");
    }
    assert_eq!(places(""), Bug::ALL.len(), "a bug that is not in Bug::ALL");
}

/// The commands in the README run as they stand there.
#[test]
fn the_readmes_commands_run() {
    let text = document("README.md");
    let blocks = code_blocks(&text, "sh run");
    assert_eq!(blocks.len(), 2);
    let folder = guide::folder_with_backy();
    let script: String = blocks.iter().map(|(_, block)| *block).collect();
    let output = guide::run(folder.path(), &script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("before-upgrade"));
}

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
    let output = Command::new(env!("CARGO_BIN_EXE_backy-under-test"))
        .args(["-b", "imported", "import", "--json"])
        .arg(root().join("tests/legacy/scrub-consistent"))
        .current_dir(folder.path())
        .output()
        .expect("run backy");
    let imported: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let drilled = json(&["drill", "--json"]);
    let exported = json(&["export", "--json", "copy.qcow2"]);
    let tagged = json(&["tag", "--json", "0", "+mine"]);
    let scrubbed = json(&["scrub", "--json"]);
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
        ("A revision that was imported:", &imported["imported"][0]),
        ("### status", &status),
        ("A revision in it:", &status["revisions"][0]),
        ("A tag in it:", &status["schedule"][0]),
        ("### check", &host),
        ("### backup", &made),
        ("### restore", &restored),
        ("### drill", &drilled),
        ("### export", &exported),
        ("### tag", &tagged),
        ("### scrub", &scrubbed),
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
    assert_eq!(names(&text, "All are gauges"), metrics);

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

/// A problem gets its level from one table: nothing else in the library makes one, or names a level for one.
#[test]
fn levels_come_from_one_table() {
    let mut folders = vec![root().join("backy-lib/src")];
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

/// What stands in code in the first column of the table after `heading`.
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

/// Each line of a log in JSON has the fields in doc/scripting.md, and no others; which events there are, and which
/// fields each has besides, is told there as well.
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
    // Of the rest there is no warning to be had here.
    found.entry("warning".to_owned()).or_default();
    assert_eq!(found, documented);
}

/// Runs the command on the folder `archive` in `folder`.
fn backy_in(folder: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_backy-under-test"))
        .args(["-b", "archive"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("run backy")
}

/// Every module of the library is in one layer of ARCHITECTURE.md and uses only its own layer and lower ones.
#[test]
fn the_layers_hold() {
    let mut layer_of: BTreeMap<String, u32> = BTreeMap::new();
    for row in table(&document("ARCHITECTURE.md"), "## Layers of the library") {
        for module in row[1].split(',') {
            layer_of.insert(module.trim().trim_matches('`').to_owned(), number(&row[0]) as u32);
        }
    }
    // Names that other layers know under their parent's path.
    let named = |path: &str| -> Option<u32> {
        let mut parts = path.split("::");
        let module = parts.next()?;
        let item = parts.next().unwrap_or_default();
        if module == "storage"
            && ["FileName", "DigestsKind", "Published", "StagingToken"].contains(&item)
        {
            return layer_of.get("storage::name").copied();
        }
        layer_of.get(module).copied()
    };
    let source = root().join("backy-lib/src");
    let mut files = 0;
    for path in rust_files(&source) {
        let relative = path.strip_prefix(&source).expect("below").display().to_string();
        if relative == "lib.rs" {
            continue;
        }
        let module = relative.split(['/', '.']).next().expect("a module").to_owned();
        let own = match relative.as_str() {
            "storage/name.rs" => layer_of["storage::name"],
            _ => *layer_of.get(&module).unwrap_or_else(|| panic!("{module} is in no layer")),
        };
        files += 1;
        let text = fs::read_to_string(&path).expect("read a source file");
        let (code, _) = text.split_once("#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
        for used in crate_paths(code) {
            let Some(layer) = named(&used) else { continue };
            assert!(layer <= own, "{relative} (layer {own}) uses {used} (layer {layer})");
        }
    }
    assert!(files > 30, "only {files} files were looked at");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// All `crate::a::B` of a file, with those in braces taken apart.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches("::");
        match rest[end..].strip_prefix('{').and_then(|list| list.split_once('}')) {
            Some((list, _)) => {
                paths.extend(list.split(',').map(|item| format!("{path}::{}", item.trim())));
            }
            None => paths.push(path.to_owned()),
        }
    }
    paths
}

/// The map in ARCHITECTURE.md leads to files that are there.
#[test]
fn the_map_leads_to_files() {
    for row in table(&document("ARCHITECTURE.md"), "## Where is what") {
        let mut folder = PathBuf::new();
        for file in row[1].split('`').skip(1).step_by(2) {
            let path = match file.starts_with("backy-") {
                true => PathBuf::from(file),
                false => PathBuf::from("backy-lib/src").join(file),
            };
            assert!(root().join(&path).is_file(), "{}", path.display());
            folder = path;
        }
        assert!(folder.components().count() > 0, "{row:?}");
    }
}
