//! The documents as a whole: every link and every section in them exists, `doc/README.md` lists each of them, and each
//! begins with what its reader can do afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Columns of a line of text. Rows of tables and code may be longer.
const MAX_COLUMNS: usize = 120;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents right in a folder.
fn documents_in(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect(folder).flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    paths
}

fn all_documents() -> Vec<PathBuf> {
    let folders = ["", "doc", "doc/decisions", "dist", "backy-py"];
    let all: Vec<PathBuf> = folders.iter().flat_map(|folder| documents_in(folder)).collect();
    assert!(all.len() > 40, "only {} documents", all.len());
    all
}

/// The lines outside of code and its fences, numbered from 1.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// The names that sections have in links, as the web shows them. Those of equal headings are numbered.
fn sections(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for (_, line) in prose(text).iter().filter(|(_, line)| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = seen.entry(name.clone()).or_default();
        names.insert(if *count == 0 { name } else { format!("{name}-{count}") });
        *count += 1;
    }
    names
}

/// The targets of the links in a document.
fn links(text: &str) -> Vec<String> {
    let text: String = prose(text).iter().map(|(_, line)| format!("{line}\n")).collect();
    let after = text.split("](").skip(1);
    after.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// `path` without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// A link leads to a file that exists, and to a section that it has.
#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    let mut broken = Vec::new();
    for document in all_documents() {
        let folder = document.parent().expect("a folder");
        let own = read(&document);
        for link in links(&own) {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            count += 1;
            let (file, section) = match link.split_once('#') {
                Some((file, section)) => (file, Some(section)),
                None => (link.as_str(), None),
            };
            let target = match file {
                "" => document.clone(),
                file => normal(&folder.join(file)),
            };
            let leads = match section {
                None => target.exists(),
                Some(section) => target.is_file() && sections(&read(&target)).contains(section),
            };
            if !leads {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 150, "only {count} links");
}

/// `doc/README.md` leads to every document in `doc`, and `doc/decisions/README.md` to every decision.
#[test]
fn every_document_is_in_its_index() {
    for folder in ["doc", "doc/decisions"] {
        let index = root().join(folder).join("README.md");
        let listed: BTreeSet<PathBuf> = links(&read(&index))
            .iter()
            .map(|link| link.split('#').next().unwrap_or_default().to_owned())
            .map(|file| normal(&root().join(folder).join(file)))
            .collect();
        for document in documents_in(folder).iter().filter(|path| **path != index) {
            assert!(listed.contains(document), "{} is not in the index", document.display());
        }
    }
}

/// The first paragraph of a document in `doc` says what the reader can do after reading it.
#[test]
fn every_document_begins_with_what_it_is_for() {
    for document in documents_in("doc") {
        let text = read(&document);
        let mut paragraphs = text.split("\n\n");
        assert!(paragraphs.next().is_some_and(|title| title.starts_with("# ")), "{document:?}");
        let first = paragraphs.next().unwrap_or_default();
        assert!(first.starts_with("After this"), "{document:?} begins with {first:?}");
    }
}

/// Lines of text fit the width of the code.
#[test]
fn lines_of_text_are_not_too_long() {
    let mut long = Vec::new();
    for document in all_documents() {
        let text = read(&document);
        for (number, line) in prose(&text) {
            if !line.starts_with('|') && line.chars().count() > MAX_COLUMNS {
                long.push(format!("{}:{number}", document.display()));
            }
        }
    }
    assert!(long.is_empty(), "{} lines: {long:#?}", long.len());
}
