//! `doc/guide.md`: its commands, one after the other, do what it says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use backy_tests::command::program;

use super::{code_blocks, document};

/// Every command of the guide works, from the first backup to the restored disk. Those that mount need root.
#[test]
fn the_guides_commands_run() {
    let is_root = rustix::process::geteuid().is_root() && fs::exists("/dev/fuse").unwrap_or(false);
    if !is_root {
        backy_tests::qemu::skipped("the part of the guide that mounts needs root and /dev/fuse");
    }
    let folder = folder_with_backy();
    let text = document("doc/guide.md");
    let blocks = code_blocks(&text, "sh run");
    let (all, as_root) = (blocks.len(), blocks.iter().filter(|(who, _)| *who == "root").count());
    assert!(all >= 15 && as_root == 1, "{all} blocks");
    let mut said = String::new();
    for (who, script) in blocks {
        if who == "root" && !is_root {
            continue;
        }
        let output = run(folder.path(), script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{errors}");
        said.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    for words in ["before-upgrade", "hostname mynode", "OK: "] {
        assert!(said.contains(words), "{words} is not in what the commands print:\n{said}");
    }
}

/// The first thirty minutes of `doc/fleet.md`: 60 archives are planned, made, backed up and checked.
#[test]
fn the_fleets_commands_run() {
    let folder = folder_with_backy();
    let text = document("doc/fleet.md");
    let blocks = code_blocks(&text, "sh run");
    assert_eq!(blocks.len(), 4);
    let mut said = Vec::new();
    for (_, script) in blocks {
        let output = run(folder.path(), script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{script}\n{errors}");
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let [_, planned, checked, config] = &said[..] else { panic!("{said:?}") };
    assert_eq!(planned.lines().filter(|line| line.starts_with("init ")).count(), 60, "{planned}");
    assert_eq!(checked.lines().filter(|line| line.starts_with("OK ")).count(), 60, "{checked}");
    assert!(checked.contains("nothing is due; nothing to do in 60 archives"), "{checked}");
    assert!(config.contains("standard.toml:") && config.contains("compression_level"), "{config}");
}

/// A folder with the command in its `bin`.
pub(crate) fn folder_with_backy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    symlink(program(), bin.join("backy")).expect("a link");
    folder
}

/// Runs a script as it stands in a document, in such a folder. It ends with the first command that fails.
pub(crate) fn run(folder: &Path, script: &str) -> Output {
    Command::new("sh")
        .args(["-e", "-c", script])
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.join("bin").display()))
        .current_dir(folder)
        .output()
        .expect("run sh")
}
