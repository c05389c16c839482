//! Hints for people who type the words of other tools, and for a folder that is not an archive.

use std::ffi::OsString;
use std::path::Path;

use backy_lib::archives_below;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::words::shell_word;

/// How many archives a hint names one by one.
const MAX_NAMED: usize = 5;

/// Other tools' words for commands, and backy's command for each.
const COMMANDS: [(&[&str], &str); 13] = [
    (
        &["list", "ls", "snapshots", "revisions", "history", "log", "info", "show", "archives"],
        "'backy status' lists the revisions",
    ),
    (&["snapshot", "create", "save", "run-backup"], "'backy backup' backs up the source"),
    (
        &["forget", "prune", "expire", "clean", "cleanup", "gc", "compact", "purge"],
        "'backy maintenance' deletes revisions that the schedule no longer keeps, and 'backy rm' those that you name",
    ),
    (&["delete", "remove", "del"], "'backy rm' deletes the revisions that you name"),
    (
        &["verify", "fsck", "validate", "test", "repair", "fix"],
        "'backy scrub' verifies stored data and repairs what can be repaired",
    ),
    (
        &["extract", "recover", "rollback", "revert", "copy-out", "get"],
        "'backy restore' writes a revision to the source, a file or a device",
    ),
    (&["dump", "cat"], "'backy restore -' writes a revision to standard output"),
    (&["convert"], "'backy export' writes a revision as one qcow2 file"),
    (&["umount", "unmount"], "'umount MOUNTPOINT' ends a mount"),
    (
        &["unlock", "break-lock"],
        "there is nothing to unlock: a lock ends with the process that holds it",
    ),
    (
        &["label", "pin", "unpin", "keep"],
        "'backy tag' adds and removes tags; one that you add keeps its revision",
    ),
    (
        &["settings", "edit"],
        "the settings are in backy.toml, in the folder of the archive; 'backy config' prints those that apply",
    ),
    (&["new", "create-archive", "setup"], "'backy init' creates an archive"),
];

/// Other tools' names of the option for the archive.
const ARCHIVE_OPTIONS: [&str; 7] =
    ["--repo", "--repository", "--archive", "--dir", "--backup-dir", "--target", "-d"];

/// A guess at what somebody meant by arguments that clap refuses.
pub(crate) fn of_usage(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => of_command(context(ContextKind::InvalidSubcommand)?),
        ErrorKind::UnknownArgument => {
            let argument = context(ContextKind::InvalidArg)?;
            let name = argument.split_once('=').map_or(argument, |(name, _)| name);
            if ARCHIVE_OPTIONS.contains(&name) {
                return Some("-b names the folder of the archive".to_owned());
            }
            // The first of two words counts as the folder to mount on.
            match args.iter().any(|arg| arg == "mount") {
                true if !argument.starts_with('-') => Some(
                    "mount shows every revision under by-number, by-date and by-tag: name only a folder".to_owned(),
                ),
                _ => of_path(argument),
            }
        }
        ErrorKind::ValueValidation => of_path(context(ContextKind::InvalidValue)?),
        _ => None,
    }
}

fn of_command(word: &str) -> Option<String> {
    let lower = word.to_lowercase();
    let known = COMMANDS.iter().find(|(words, _)| words.contains(&&*lower));
    known.map(|(_, hint)| (*hint).to_owned())
}

/// A path where none is expected is most likely the path of the archive.
fn of_path(word: &str) -> Option<String> {
    let is_path = word.contains('/') && !word.starts_with('-') && Path::new(word).is_dir();
    is_path.then(|| format!("to name the archive, use -b {}", shell_word(word)))
}

/// What to do about a folder without an archive.
pub(crate) fn of_no_archive(folder: &Path) -> Option<String> {
    let below = archives_below(folder);
    let first = below.first()?;
    let others: Vec<String> = below
        .iter()
        .skip(1)
        .take(MAX_NAMED - 1)
        .map(|path| shell_word(&path.display().to_string()))
        .collect();
    let more = match below.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let folder = shell_word(&folder.display().to_string());
    let first = shell_word(&first.display().to_string());
    Some(match others.is_empty() {
        true => format!("there is one below it: use -b {first}"),
        false => format!(
            "there are archives below it: use -b {first}, or {}{more}; 'backy check {folder}' reports on all of them",
            others.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// No word is one of backy's, none stands for two things, and each hint names a command that exists.
    #[test]
    fn words_of_other_tools_are_not_ours() {
        let root = Cli::command();
        let mut all: Vec<&str> =
            COMMANDS.iter().flat_map(|(words, _)| words.iter().copied()).collect();
        for word in &all {
            assert!(root.find_subcommand(word).is_none(), "{word}");
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for (_, hint) in COMMANDS {
            for named in hint.split("'backy ").skip(1) {
                let name = named.split(['\'', ' ']).next().unwrap();
                assert!(root.find_subcommand(name).is_some(), "{hint}");
            }
        }
    }
}
