//! The form of the code that neither rustfmt nor clippy checks.

use std::fs;
use std::path::{Path, PathBuf};

use backy_tests::command::checkout;

const MOST_LINES: usize = 500;
const MOST_COLUMNS: usize = 120;

/// No file is longer than 500 lines and no line wider than 120 columns. There are no exceptions: a file that becomes
/// longer is split by subject, a comment or a string that becomes wider is wrapped.
#[test]
fn files_and_lines_are_short() {
    let mut files = Vec::new();
    for folder in ["backy-lib", "backy-cli", "backy-py", "tests", "fuzz/fuzz_targets"] {
        rust_files(&checkout().join(folder), &mut files);
    }
    assert!(files.len() > 400, "only {} files", files.len());
    let mut long = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a file of Rust");
        let name = path.strip_prefix(checkout()).unwrap_or(&path).display();
        let lines = text.lines().count();
        if lines > MOST_LINES {
            long.push(format!("{name}: {lines} lines"));
        }
        let wide = text.lines().zip(1..).filter(|(line, _)| line.chars().count() > MOST_COLUMNS);
        long.extend(
            wide.map(|(line, at)| format!("{name}:{at}: {} columns", line.chars().count())),
        );
    }
    assert!(long.is_empty(), "{} are too long:\n{}", long.len(), long.join("\n"));
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("list a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
