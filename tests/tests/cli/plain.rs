//! The command and the documents speak plain English: words that nobody uses for these things stand in no help text,
//! manual page or document. Help fits the screen.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::{Run, Scene};

/// Two screens of 24 lines.
const MAX_LINES: usize = 48;
const MAX_COLUMNS: usize = 80;

/// Words and phrases, each with what to say instead.
const FORBIDDEN: [(&str, &str); 48] = [
    ("room", "space"),
    ("mend", "repair"),
    ("mends", "repairs"),
    ("mended", "repaired"),
    ("let go", "delete, expire"),
    ("lets go", "deletes"),
    ("is let go", "is deleted"),
    ("goes by hand", "you remove it"),
    ("by hand goes", "you remove it"),
    ("revision goes", "is deleted"),
    ("revisions go", "are deleted"),
    ("has gone", "was deleted, no longer exists"),
    ("have gone", "were deleted, no longer exist"),
    ("come and go", "appear and disappear"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("is told", "reports, prints"),
    ("are told", "reports, prints"),
    ("told of", "reported"),
    ("is said", "reports, prints"),
    ("says so itself", "reports"),
    ("nothing is said", "prints nothing"),
    ("given out", "returned"),
    ("see to", "run, ensure"),
    ("sees to", "runs, ensures"),
    ("seen to", "run, ensured"),
    ("anew", "again, rebuild"),
    ("be had", "read, restore"),
    ("is wanted", "is needed"),
    ("are wanted", "are needed"),
    ("is not wanted", "is not needed"),
    ("content with", "succeeded"),
    ("was content", "succeeded"),
    ("all the same", "anyway, nevertheless"),
    ("are well", "are healthy"),
    ("is well", "is healthy"),
    ("what is wrong", "problems, damage, findings"),
    ("something is wrong", "there is a problem"),
    ("the last but one", "the previous one"),
    ("the one before", "the previous one"),
    ("the revision before", "the previous revision"),
    ("right below", "directly below"),
    ("at work", "running"),
    ("brought over", "imported"),
    ("bring over", "import"),
    ("comes over", "is imported"),
    ("looked at", "checked, read"),
    ("asked for", "requested, run"),
];

fn check(place: &str, text: &str) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let text = text.replace(|c: char| !c.is_alphanumeric() && c != ' ' && c != '-', " ");
    let text = format!(" {} ", text.split_whitespace().collect::<Vec<_>>().join(" "));
    for (phrase, instead) in FORBIDDEN {
        let at = text.find(&format!(" {phrase} "));
        let near = at.and_then(|at| text.get(at.saturating_sub(40)..(at + 60).min(text.len())));
        assert!(at.is_none(), "{place}: '{phrase}', say: {instead}: {near:?}");
    }
}

/// The names of all commands, by the help of the command itself.
fn commands(help: &Run) -> Vec<&str> {
    let commands = help.text().lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    commands
}

#[test]
fn help_and_manual_pages_are_plain_english() {
    let scene = Scene::new();
    let help = scene.works(&["--help"]);
    check("--help", help.text());
    for name in commands(&help) {
        check(name, scene.works(&["help", name]).text());
        check(name, scene.works(&[name, "-h"]).text());
    }
    check("backy(1)", scene.works(&["man"]).text());
    check("backy.toml(5)", scene.works(&["man", "backy.toml"]).text());
}

/// The help of every command, and of all of them, takes two screens of 80 columns and 24 lines; `-h` is shorter.
#[test]
fn help_fits_two_screens() {
    let scene = Scene::new();
    let on_screen = |arguments: &[&str]| {
        let output = scene.command(arguments).env("COLUMNS", MAX_COLUMNS.to_string()).output();
        let run = Run::from(output.expect("run backy"));
        assert_eq!(run.status, Some(0), "{arguments:?}: {}", run.stderr);
        let lines = run.text().lines().count();
        assert!(lines <= MAX_LINES, "{arguments:?}: {lines} lines\n{}", run.text());
        let wide = run.text().lines().find(|line| line.chars().count() > MAX_COLUMNS);
        assert_eq!(wide, None, "{arguments:?}");
        lines
    };
    on_screen(&["--help"]);
    on_screen(&["help"]);
    for name in commands(&scene.works(&["--help"])) {
        let long = on_screen(&["help", name]);
        assert_eq!(on_screen(&[name, "--help"]), long, "{name}");
        assert!(on_screen(&[name, "-h"]) < long, "{name}");
    }
}

/// The documents for people who use backy; the decisions are for those who change it.
#[test]
fn documents_are_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let entries = fs::read_dir(root.join("doc")).expect("the documents").flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    assert!(paths.len() > 10, "{paths:?}");
    paths.extend(["README.md", "dist/README.md", "backy-py/README.md"].map(|name| root.join(name)));
    for path in paths {
        let text = fs::read_to_string(&path).expect("a document");
        // Names of tests and of other things in code are not words.
        let words: String = text.split('`').step_by(2).collect();
        check(&path.display().to_string(), &words);
    }
}
