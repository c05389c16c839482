//! Errors at the edge: one line with what failed, where, and what to do; and the exit status.
//!
//! The engine knows what and where; what to do depends on the command, which adds it here.

use std::ffi::OsString;
use std::io;

use backy_lib::{Error, ErrorKind};
use clap::CommandFactory;
use clap::error::ErrorKind as UsageErrorKind;
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::cli::Cli;
use crate::interrupt::CTRL_C_STATUS;
use crate::log::Ending;
use crate::output::Output;
use crate::probe;
use crate::{help, hints};

/// Exit status of every failure.
pub(crate) const FAILURE_STATUS: u8 = 1;

/// Why a command failed.
pub(crate) enum Failure {
    /// The engine's error, and what to do about it.
    Engine { error: Error, advice: String },
    /// Found here; the whole line.
    Message(String),
    /// Stopped on request; the whole line.
    Interrupted(String),
    /// Another process of this command has printed the reason.
    Told,
    /// The result has been printed, and is this exit status.
    Verdict(u8),
    /// Writing the result to standard output failed.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let advice = match &error {
            Error::NoArchive { path } => hints::of_no_archive(path),
            _ => None,
        };
        let advice = advice.unwrap_or_else(|| advice_on(&error).to_owned());
        Failure::Engine { error, advice }
    }
}

impl Failure {
    pub(crate) fn message(text: impl Into<String>) -> Self {
        Failure::Message(text.into())
    }

    /// For interruptions where the command knows more than the engine.
    pub(crate) fn interrupted(text: impl Into<String>) -> Self {
        Failure::Interrupted(text.into())
    }

    /// For errors where the command knows better what to do.
    pub(crate) fn advised(error: Error, advice: impl Into<String>) -> Self {
        Failure::Engine { error, advice: advice.into() }
    }

    /// The whole line.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Engine { error, .. } if error.kind() == ErrorKind::Interrupted => {
                error.to_string()
            }
            Failure::Engine { error, advice } => join(&error.to_string(), advice),
            Failure::Message(text) | Failure::Interrupted(text) => text.clone(),
            Failure::Told | Failure::Verdict(_) => String::new(),
            Failure::Output(error) => {
                format!("standard output: cannot write the result: {error}")
            }
        }
    }

    /// The kind of the engine's error.
    fn kind(&self) -> Option<ErrorKind> {
        match self {
            Failure::Engine { error, .. } => Some(error.kind()),
            Failure::Interrupted(_) => Some(ErrorKind::Interrupted),
            _ => None,
        }
    }

    /// Prints it on standard error. Returns the exit status.
    pub(crate) fn report(&self, output: &Output, by_ctrl_c: bool) -> u8 {
        let asked = match self {
            Failure::Told => return FAILURE_STATUS,
            Failure::Verdict(status) => return *status,
            // The reader, such as 'head', has seen enough.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
            Failure::Engine { error, .. } => error.kind() == ErrorKind::Interrupted,
            Failure::Interrupted(_) => true,
            Failure::Message(_) | Failure::Output(_) => false,
        };
        let status = if asked && by_ctrl_c { CTRL_C_STATUS } else { FAILURE_STATUS };
        let ending = if asked { Ending::Interrupted } else { Ending::Failed };
        output.error(&self.text(), ending, status, self.kind());
        status
    }
}

fn join(what: &str, advice: &str) -> String {
    if advice.is_empty() { what.to_owned() } else { format!("{what}; {advice}") }
}

/// What to do about an error of the engine.
fn advice_on(error: &Error) -> &'static str {
    match error {
        Error::NoSource { .. } => "set it there, as in source = \"/dev/vg0/mynode\"",
        Error::Target { forcible: true, .. } => {
            "use --force to overwrite it, or choose another target"
        }
        Error::Room { .. } => {
            "free some space and run it again, or use --no-space-check if you know better"
        }
        Error::PutInOrder { .. } => "run it again",
        // Their texts have the advice.
        Error::Occupied { .. }
        | Error::InTheWay { .. }
        | Error::OtherMoment { .. }
        | Error::Overtaken { .. } => "",
        Error::UndoFailed { first, .. } | Error::Besides { first, .. } => advice_on(first),
        _ => advice_by_kind(error),
    }
}

fn advice_by_kind(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound if is_stored(error) => {
            "restore the file from a copy of the archive; 'backy status' shows what else is missing"
        }
        ErrorKind::NotFound if names(error, "backy.toml") => {
            "put it back, or write one with a line source = \"/dev/…\""
        }
        ErrorKind::NotFound => "check the path",
        ErrorKind::Io if is_no_folder(error) => "check the path",
        ErrorKind::NoSpace if is_too_long(error) => {
            "the file system or a limit (ulimit -f) allows no larger file; use another"
        }
        ErrorKind::NoSpace => "free some space and run it again",
        ErrorKind::Permission => advice_on_permission(error),
        ErrorKind::Untrusted => {
            "correct that with 'chown' or 'chmod go-w' (on a file system without permissions: mount it with \
             umask=077), run it \
             as the archive's owner, or use --trust if you trust everybody who can write there"
        }
        ErrorKind::Io => "look for the reason in the kernel log (dmesg), then run it again",
        ErrorKind::NoArchive => "name its folder with -b, or create one with 'backy init'",
        ErrorKind::ArchiveExists => "name another folder with -b",
        ErrorKind::Locked => "run it again when that has ended, or use --wait",
        ErrorKind::Config => "correct it there",
        ErrorKind::Specification => "see 'backy help'",
        ErrorKind::NoSuchRevision => "'backy status' lists the revisions",
        ErrorKind::Source if matches!(error, Error::Origin { .. }) => {
            "check the address and the connection, then run it again"
        }
        ErrorKind::Source => "check the path and its permissions, or change source in backy.toml",
        ErrorKind::Target => "choose another target",
        ErrorKind::Damaged if names(error, "manifest.json") => {
            "restore the file from a copy of the archive, or rebuild it with 'backy scrub --rebuild'"
        }
        ErrorKind::Damaged => {
            "run 'backy scrub' to repair it and to see what is affected; if it cannot, restore the file from a \
             copy of the archive"
        }
        ErrorKind::Hook => "find out why the hook fails, or correct it in backy.toml",
        ErrorKind::Miscomputed => {
            "test the memory and the processor, or use another machine; then run it again"
        }
        ErrorKind::Panic => "this is a bug in backy; please report it with this line",
        ErrorKind::Unsupported => "use a newer version of backy",
        _ => "",
    }
}

fn advice_on_permission(error: &Error) -> &'static str {
    let errno = match error {
        Error::Io { source, .. } => Errno::from_io_error(source),
        _ => None,
    };
    match errno {
        Some(Errno::ROFS) => {
            "the file system is mounted read-only: look for the reason in the kernel log (dmesg), and remount it"
        }
        // Permissions give another error.
        Some(Errno::PERM) => {
            "the file may be immutable: if 'lsattr' shows i or a, 'chattr -i -a' clears that"
        }
        _ if geteuid().is_root() => {
            "root may not do that here, as on some network file systems; run it as the owner"
        }
        _ => "run it as root or as a user with access",
    }
}

fn names(error: &Error, file: &str) -> bool {
    error.path().and_then(|path| path.file_name()).is_some_and(|name| name == file)
}

/// Whether a part of the path, or the folder itself, is a file.
fn is_no_folder(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotADirectory)
}

/// Whether there may be space, but not for a file of that length.
fn is_too_long(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
}

/// Whether the error is about a file that holds data of revisions.
fn is_stored(error: &Error) -> bool {
    let extension = error.path().and_then(|path| path.extension()).and_then(|e| e.to_str());
    names(error, "last.raw") || matches!(extension, Some("qcow2" | "digests"))
}

/// Prints the help that was asked for, or one line about the arguments that cannot be used.
pub(crate) fn usage(
    output: &Output,
    error: &clap::Error,
    args: Vec<OsString>,
    is_probe: bool,
) -> u8 {
    match error.kind() {
        UsageErrorKind::DisplayHelp | UsageErrorKind::DisplayVersion => {
            let compact = help::compact(error);
            match compact.as_ref().unwrap_or(error).print() {
                Ok(()) => 0,
                Err(error) => Failure::Output(error).report(output, false),
            }
        }
        UsageErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // There is nowhere to report a closed standard error.
            let _ = error.print();
            FAILURE_STATUS
        }
        _ => {
            let failure = Failure::message(usage_line(error, &args));
            if is_probe { probe::unknown(output, &failure) } else { failure.report(output, false) }
        }
    }
}

/// clap's message of several paragraphs as one line. The last ones, usage and where help is, become a pointer to the
/// help of the command that `args` name.
fn usage_line(error: &clap::Error, args: &[OsString]) -> String {
    let root = Cli::command();
    let command = args.iter().skip(1).find_map(|arg| root.find_subcommand(arg));
    let hint = hints::of_usage(error, args);
    let help = match command {
        Some(command) => format!("backy {} --help", command.get_name()),
        None => "backy --help".to_owned(),
    };
    let text = error.render().to_string();
    let mut parts: Vec<String> = Vec::new();
    for paragraph in text.split("\n\n") {
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.starts_with("Usage: ") || line.starts_with("For more information") {
            continue;
        }
        // Our own hint is better than a word that looks like the one that was typed.
        let is_worse = line.starts_with("tip: ") && hint.is_some();
        if !line.is_empty() && !is_worse {
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            parts.push(plain(line.strip_prefix("tip: ").unwrap_or(line)));
        }
    }
    parts.extend(hint);
    parts.push(format!("see '{help}'"));
    parts.join("; ")
}

/// Errors of the number parsers, in words for people.
fn plain(text: &str) -> String {
    let words = [
        ("invalid digit found in string", "expected a whole number"),
        ("cannot parse integer from empty string", "expected a whole number"),
        ("number too large to fit in target type", "the number is too large"),
        ("number too small to fit in target type", "the number is too small"),
        ("..=", " to "),
    ];
    words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn line(args: &[&str]) -> String {
        match Cli::try_parse_from(args) {
            Ok(_) => panic!("{args:?} was taken"),
            Err(error) => usage_line(&error, &args.iter().map(OsString::from).collect::<Vec<_>>()),
        }
    }

    fn known(word: &str) -> bool {
        Cli::command().find_subcommand(word).is_some()
    }

    /// A usage error is one line that names the problem and the help for it.
    #[test]
    fn usage_errors_are_one_line() {
        for (args, expected) in [
            (
                &["backy", "backup", "--forse"][..],
                "unexpected argument '--forse' found; a similar argument exists: '--force'; see 'backy backup --help'",
            ),
            (
                &["backy", "bakcup"],
                "unrecognized subcommand 'bakcup'; a similar subcommand exists: 'backup'; see 'backy --help'",
            ),
            (
                &["backy", "completions"],
                "the following required arguments were not provided: <SHELL>; see 'backy completions --help'",
            ),
            (
                &["backy", "snapshots"],
                "unrecognized subcommand 'snapshots'; 'backy status' lists the revisions; see 'backy --help'",
            ),
            (
                &["backy", "maintenance", "-k", "many"],
                "invalid value 'many' for '--keep <N>': expected a whole number; see 'backy maintenance --help'",
            ),
            (
                &["backy", "export", "--level", "20", "x"],
                "invalid value '20' for '--level <LEVEL>': 20 is not in 1 to 19; see 'backy export --help'",
            ),
            (
                &["backy", "--repo=/x", "status"],
                "unexpected argument '--repo' found; -b names the folder of the archive; see 'backy status --help'",
            ),
            (
                &["backy", "backup", "/etc"],
                "unexpected argument '/etc' found; to name the archive, use -b /etc; see 'backy backup --help'",
            ),
            (
                &["backy", "mount", "0", "/mnt"],
                "unexpected argument '/mnt' found; mount shows every revision under by-number, by-date and \
                 by-tag: name only a folder; see 'backy mount --help'",
            ),
        ] {
            assert_eq!(line(args), expected);
        }
        for args in [
            &["backy", "restore", "-r", "12x"][..],
            &["backy", "backup", "-t", "a b"],
            &["backy", "init", "--block-size", "65K"],
            &["backy", "-v", "-q", "status"],
        ] {
            let line = line(args);
            let help = format!("see 'backy {} --help'", args.iter().rfind(|a| known(a)).unwrap());
            assert!(!line.contains('\n') && line.ends_with(&help), "{line}");
        }
    }

    #[test]
    fn advice_follows_the_kind_of_the_error() {
        let forcible =
            |forcible| Error::Target { path: "/x".into(), message: String::new(), forcible };
        assert!(advice_on(&forcible(true)).contains("--force"));
        assert!(!advice_on(&forcible(false)).contains("--force"));
        let missing = |path: &str| Error::io(path, "open")(io::ErrorKind::NotFound.into());
        assert!(advice_on(&missing("/a/last.raw")).contains("copy of the archive"));
        assert!(advice_on(&missing("/a/backy.toml")).contains("source ="));
        let failed = |kind: io::ErrorKind| Error::io("/a/b", "open")(kind.into());
        assert!(advice_on(&failed(io::ErrorKind::NotADirectory)).contains("path"));
        assert!(advice_on(&failed(io::ErrorKind::Other)).contains("dmesg"));
        let refused = |errno: Errno| advice_on(&Error::io("/a/b", "open")(errno.into()));
        assert!(refused(Errno::ROFS).contains("read-only"));
        assert!(refused(Errno::PERM).contains("lsattr"));
        let as_root = refused(Errno::ACCESS).contains("such as root");
        assert_eq!(as_root, !geteuid().is_root());
    }
}
