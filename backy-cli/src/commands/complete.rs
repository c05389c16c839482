//! `backy complete -- WORD…`: what the shell scripts call when somebody types the name of a revision. Nobody types
//! it, so it is no command like the others.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use backy_lib::{Archive, Revision};

use crate::output::{Output, environment, local_minute};
use crate::words::list;

/// The words of the command line so far, the first of which is the command, if a shell asks.
pub(crate) fn asked(args: &[OsString]) -> Option<&[OsString]> {
    match args {
        [_, command, dashes, words @ ..] if command == "complete" && dashes == "--" => Some(words),
        _ => None,
    }
}

/// Prints names of revisions, each with a tab and its description. Returns the exit status. Where there is no archive
/// it prints nothing: whoever presses Tab wants no message.
pub(crate) fn run(words: &[OsString], output: &Output) -> u8 {
    let folder = folder(words).unwrap_or_else(|| PathBuf::from("."));
    let printed = Archive::open(&folder)
        .map(|archive| output.result(candidates(archive.revisions()).as_bytes()));
    u8::from(!matches!(printed, Ok(Ok(())) | Err(_)))
}

/// The archive's folder in the typed words. The shell has not expanded a '~' in it yet.
fn folder(words: &[OsString]) -> Option<PathBuf> {
    let mut found = None;
    let mut words = words.iter().map(|word| word.as_bytes()).peekable();
    while let Some(word) = words.next() {
        let value = match word {
            b"--" => break,
            b"-b" | b"--backupdir" => match words.peek() {
                // The words of bash are divided at '='.
                Some(&b"=") => words.nth(1),
                _ => words.next(),
            },
            word => word.strip_prefix(b"--backupdir=").or_else(|| word.strip_prefix(b"-b")),
        };
        found = value.or(found);
    }
    let folder = found.filter(|folder| !folder.is_empty())?;
    let home = || environment("HOME").map(OsString::into_vec);
    let folder = match (folder.strip_prefix(b"~"), home()) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with(b"/") => {
            [&*home, rest].concat()
        }
        _ => folder.to_owned(),
    };
    Some(OsString::from_vec(folder).into())
}

/// Numbers, then tags, then words.
fn candidates(revisions: &[Revision]) -> String {
    let mut lines = Vec::new();
    let describe = |revision: &Revision| {
        let tags = list(&revision.tags);
        let separator = if tags.is_empty() { "" } else { ", " };
        format!("{}{separator}{tags}", local_minute(revision.started))
    };
    for (number, revision) in revisions.iter().enumerate() {
        lines.push(format!("{number}\t{}", describe(revision)));
    }
    let mut tags: Vec<_> = revisions.iter().flat_map(|revision| &revision.tags).collect();
    tags.sort_unstable();
    tags.dedup();
    for tag in tags {
        let newest = revisions.iter().find(|revision| revision.tags.contains(tag));
        lines.push(format!("tag:{tag}\t{}", newest.map(describe).unwrap_or_default()));
    }
    if let (Some(newest), Some(oldest)) = (revisions.first(), revisions.last()) {
        lines.push(format!("latest\t{}", describe(newest)));
        lines.push(format!("first\t{}", describe(oldest)));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_one_that_was_typed() {
        for (words, expected) in [
            (&["backy", "-b", "a", "restore", "-r"][..], Some("a")),
            (&["backy", "restore", "-b", "a", "-b", "b"], Some("b")),
            (&["backy", "--backupdir=a/b", "restore"], Some("a/b")),
            (&["backy", "--backupdir", "=", "a", "restore"], Some("a")),
            (&["backy", "-ba", "restore"], Some("a")),
            (&["backy", "-b"], None),
            (&["backy", "drill", "--", "-b", "x"], None),
            (&["backy", "restore"], None),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(folder(&words), expected.map(PathBuf::from), "{words:?}");
        }
    }
}
