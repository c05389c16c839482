//! Help, manual page and completions, all generated from the arguments.

use std::io::Write;
use std::process::{Command, Stdio};

use backy_tests::qemu::skipped;

use super::harness::Scene;

/// The commands and the options that the contract promises for them.
const CONTRACT: [(&str, &[&str]); 20] = [
    ("init", &["--include", "SOURCE", "--block-size"]),
    ("backup", &["-f, --force", "-t, --tag", "--dry-run", "--limit-rate", "--json"]),
    ("status", &["--json", "--check", "--prometheus", "REVISIONS"]),
    ("check", &["--json", "--nagios", "--prometheus", "DIR"]),
    (
        "restore",
        &[
            "-r, --revision",
            "--force",
            "--yes",
            "--dry-run",
            "--keep-going",
            "--undo",
            "--json",
            "TARGET",
        ],
    ),
    ("drill", &["-r, --revision", "--dir", "--timeout", "--json", "COMMAND"]),
    ("export", &["-r, --revision", "--level", "--json", "FILE.qcow2"]),
    (
        "mount",
        &[
            "-f, --foreground",
            "--gid",
            "--allow-other",
            "--writable",
            "--dir",
            "--cache",
            "--log",
            "MOUNTPOINT",
        ],
    ),
    ("find", &["-r, --revision"]),
    ("config", &["--json"]),
    ("import", &["--block-size", "--json", "OLD"]),
    (
        "pull",
        &[
            "-r, --revisions",
            "--wait",
            "--dry-run",
            "--no-space-check",
            "--limit-rate",
            "--json",
            "ORIGIN",
        ],
    ),
    ("maintenance", &["-n, --dry-run", "-k, --keep", "--confirm", "--json"]),
    ("scrub", &["-n, --checkonly", "--budget", "--rebuild", "--force", "--json", "REVISIONS"]),
    ("push", &["-r, --revision", "--ssh", "--wait", "--dry-run", "--limit-rate", "--json", "TO"]),
    ("report", &["-o, --output", "DIR"]),
    ("tag", &["REV", "+TAG", "-TAG", "--json"]),
    ("rm", &["-n, --dry-run", "--force", "--json", "REVISIONS"]),
    ("completions", &["SHELL"]),
    ("man", &["PAGE"]),
];
const GLOBAL: [&str; 5] =
    ["-b, --backupdir", "-v, --verbose", "-q, --quiet", "--log-format", "--trust"];

/// Feeds text to another program. `None` when it is not installed.
fn filter(program: &str, args: &[&str], input: &[u8]) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        skipped(&format!("{program} is not installed"));
        return None;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    Some((output.status.success(), text.concat()))
}

/// The help of each command names everything that the contract promises, and exits with 0.
#[test]
fn help_lists_every_command_and_option() {
    let scene = Scene::new();
    let help = scene.works(&["--help"]);
    assert_eq!(help.stderr, "");
    for (command, options) in CONTRACT {
        assert!(help.text().contains(&format!("\n  {command} ")), "{command}: {}", help.text());
        for way in [&[command, "--help"][..], &["help", command]] {
            let help = scene.works(way);
            for option in options.iter().chain(&GLOBAL) {
                assert!(help.text().contains(option), "{command} {option}: {}", help.text());
            }
        }
    }
    let version = scene.works(&["--version"]);
    assert_eq!(version.text(), format!("backy {}\n", env!("CARGO_PKG_VERSION")));
}

/// The manual page has every command and option, and groff accepts it.
#[test]
fn the_manual_page_is_right() {
    let scene = Scene::new();
    let page = scene.works(&["man"]).stdout;
    let Some((worked, said)) = filter("groff", &["-man", "-Wall", "-z", "-Tutf8"], &page) else {
        return;
    };
    assert!(worked && said.is_empty(), "{said}");
    let options = ["-man", "-Tascii", "-P-cbou", "-rLL=300n"];
    let Some((_, text)) = filter("groff", &options, &page) else { return };
    for (command, options) in CONTRACT {
        assert!(text.contains(&format!("backy {command}")), "{command}: {text}");
        for option in options.iter().chain(&GLOBAL) {
            assert!(text.contains(option), "{command} {option}: {text}");
        }
    }
    for heading in ["NAME", "SYNOPSIS", "EXIT STATUS", "FILES", "EXAMPLES"] {
        assert!(text.contains(heading), "{heading}: {text}");
    }
}

/// That of backy.toml has every key that a config may have.
#[test]
fn the_manual_page_of_the_config_is_right() {
    let scene = Scene::new();
    let page = scene.works(&["man", "backy.toml"]).stdout;
    let Some((worked, said)) = filter("groff", &["-man", "-Wall", "-z", "-Tutf8"], &page) else {
        return;
    };
    assert!(worked && said.is_empty(), "{said}");
    let options = ["-man", "-Tascii", "-P-cbou", "-rLL=300n"];
    let Some((_, text)) = filter("groff", &options, &page) else { return };
    for key in backy_lib::config::keys::KEYS {
        assert!(text.contains(&format!("{} = {}", key.name, key.example)), "{}: {text}", key.name);
    }
    for heading in ["[schedule.TAG]", "[hooks]", "[drill]", "[monitoring]", "EXAMPLE"] {
        assert!(text.contains(heading), "{heading}: {text}");
    }
}

/// Completions are made for each shell, and bash accepts its own.
#[test]
fn completions_are_made() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = scene.works(&["completions", shell]);
        for word in ["limit-rate", "block-size", "backupdir", "restore"] {
            assert!(script.text().contains(word), "{shell}: {word}");
        }
    }
    let script = scene.works(&["completions", "bash"]).stdout;
    let Some((worked, said)) = filter("bash", &["-n"], &script) else { return };
    assert!(worked && said.is_empty(), "{said}");
}
