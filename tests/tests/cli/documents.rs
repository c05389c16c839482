//! What the documents say is true: the tests read their tables, examples and maps and compare them with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_lib::canary::Bug;
use backy_lib::format::qcow2::{Cluster, Header, Layout, decode_entry};
use backy_lib::health::Cause;
use backy_lib::storage::FileName;
use backy_lib::{BlockSize, Config, Level, Manifest, ProblemKind, health, monitoring};
use backy_tests::command::checkout;

mod disaster;
mod format;
mod guide;
mod nbd;
mod output;
mod protocol;
mod second_copy;

fn document(name: &str) -> String {
    fs::read_to_string(checkout().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn golden(file: &str) -> Vec<u8> {
    golden_of("format-1", file)
}

fn golden_of(archive: &str, file: &str) -> Vec<u8> {
    let path = checkout().join("tests/golden").join(archive).join(file);
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

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("'{text}' is not a number"))
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

/// The five lines of Python in the archive's README print the recorded digest, for the image and for a delta
/// converted by `qemu-img` as the README says. The format document has the same five lines.
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
        let archive = checkout().join("tests/golden/format-1");
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

/// Every test that doc/safety.md names exists, and so does every file that CONTRIBUTING.md names. doc/safety.md
/// contains no promise twice, and no test holds two of them.
#[test]
fn named_tests_exist() {
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
        assert!(checkout().join(path).exists(), "{path}");
    }
}

/// Every bug that can be planted is planted in one place and listed in doc/safety.md, and that lists no others.
#[test]
fn the_canaries_are_planted_and_named() {
    let rows = table(&document("doc/safety.md"), "## Broken on purpose");
    let cells = rows.iter().map(|row| row[2].trim_matches('`'));
    let mut named: Vec<&str> = cells.filter(|cell| !cell.is_empty()).collect();
    let mut all = Bug::ALL.map(Bug::name);
    named.sort_unstable();
    all.sort_unstable();
    assert_eq!(named, all);

    let files = rust_files(&checkout().join("backy-lib/src"));
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

/// Every folder of the library is one layer of ARCHITECTURE.md and uses only lower ones, except for the imports that
/// the page lists with their reasons.
#[test]
fn the_layers_hold() {
    let page = document("ARCHITECTURE.md");
    let mut layer_of: BTreeMap<String, u32> = BTreeMap::new();
    for row in table(&page, "## Layers of the library") {
        layer_of.insert(row[1].trim_matches('`').to_owned(), number(&row[0]) as u32);
    }
    let excused = table(&page, "These imports go upward, each for its reason:");
    let excused: BTreeSet<(String, String)> = excused
        .iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].trim_matches('`').to_owned()))
        .collect();
    assert!(excused.len() <= 10, "{} imports go upward", excused.len());
    let source = checkout().join("backy-lib/src");
    let (mut files, mut used_excuses) = (0, BTreeSet::new());
    for path in rust_files(&source) {
        let relative = path.strip_prefix(&source).expect("below").display().to_string();
        if relative == "lib.rs" {
            continue;
        }
        let (folder, _) =
            relative.split_once('/').unwrap_or_else(|| panic!("{relative}: no folder"));
        let own = *layer_of.get(folder).unwrap_or_else(|| panic!("{folder} is in no layer"));
        files += 1;
        let text = fs::read_to_string(&path).expect("read a source file");
        let (code, _) = text.split_once("#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
        for used in crate_paths(code) {
            let Some(&layer) = used.split("::").next().and_then(|first| layer_of.get(first)) else {
                continue;
            };
            if layer <= own {
                continue;
            }
            let excuse =
                excused.iter().find(|(file, what)| *file == relative && used.starts_with(what));
            assert!(excuse.is_some(), "{relative} (layer {own}) uses {used} (layer {layer})");
            used_excuses.extend(excuse);
        }
    }
    assert!(files > 30, "only {files} files were looked at");
    assert_eq!(used_excuses.len(), excused.len(), "an import is excused that is not there");
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

/// All `crate::a::B` of a file, with those in braces expanded.
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

/// The map in ARCHITECTURE.md leads to existing files.
#[test]
fn the_map_leads_to_files() {
    for row in table(&document("ARCHITECTURE.md"), "## Where is what") {
        let mut folder = PathBuf::new();
        for file in row[1].split('`').skip(1).step_by(2) {
            let path = match file.starts_with("backy-") {
                true => PathBuf::from(file),
                false => PathBuf::from("backy-lib/src").join(file),
            };
            assert!(checkout().join(&path).is_file(), "{}", path.display());
            folder = path;
        }
        assert!(folder.components().count() > 0, "{row:?}");
    }
}
