//! Everything that can fail. Each error names the thing, the place, what was found and what was expected.
//!
//! One enum for the whole library. [`Error::kind`] alone decides the exit status of the command and the class
//! of the Python exception. The CLI and the Python module add advice on what to do next, by kind.

mod kind;
mod process;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::base::extent::Extent;
use crate::base::revision::RevisionId;

pub use kind::ErrorKind;
pub(crate) use process::judged;

/// A result of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes of a revision that cannot be read correctly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable {
    /// The revision.
    pub revision: RevisionId,
    /// The bytes.
    pub extent: Extent,
}

/// An error of the library. `Display` is one line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to do something with a file.
    #[error("{}: cannot {action}: {}", .path.display(), describe_io(.source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as `read 65536 bytes at offset 0`.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// There is no archive in the folder.
    #[error("{}: no archive here: manifest.json does not exist", .path.display())]
    NoArchive {
        /// The folder.
        path: PathBuf,
    },
    /// `init` found an existing archive.
    #[error("{}: this folder already holds an archive; nothing was changed", .path.display())]
    ArchiveExists {
        /// The folder.
        path: PathBuf,
    },
    /// `init` found files with names that an archive uses.
    #[error(
        "{}: found {names}, which a new archive would replace or take for its own; choose an empty folder, or move \
         them away; nothing was changed",
        .path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The files.
        names: String,
    },
    /// Somebody else could change what the operation would act on. Nothing was done.
    #[error("{}: not trusted: {found}; expected {expected} to be able to change it", .path.display())]
    Untrusted {
        /// What they could change: the archive's folder, one above it, a symbolic link to it, or a file.
        path: PathBuf,
        /// Who could, as a sentence such as `it belongs to user 1000`.
        found: String,
        /// Who should be able to.
        expected: String,
    },
    /// Another writer holds the archive.
    #[error("{}: the archive is in use by {holder}", .path.display())]
    Locked {
        /// The archive.
        path: PathBuf,
        /// The holder, as it described itself in the lock file.
        holder: String,
    },
    /// The manifest and the files beside it are from different times: one of them was restored or copied
    /// without the other.
    #[error("{}: {message}; nothing was changed", .path.display())]
    OtherMoment {
        /// The archive.
        path: PathBuf,
        /// Which revisions are in the files, which the manifest names, and what to do.
        message: String,
    },
    /// A file that the manifest does not know has a name that backy needs now.
    #[error(
        "{}: {names}: backy needs this name, and cannot prove that it made the file; move it away; nothing was changed",
        .path.display()
    )]
    InTheWay {
        /// The archive.
        path: PathBuf,
        /// The files.
        names: String,
    },
    /// Another writer replaced the manifest while this one was at work. This one changes nothing more and
    /// undoes nothing.
    #[error(
        "{}: another writer replaced it meanwhile; this one stops and leaves the archive as it is; find out which \
         machines write to it: the lock does not keep them apart on this file system",
        .path.display()
    )]
    Overtaken {
        /// The manifest.
        path: PathBuf,
    },
    /// `backy.toml` cannot be used.
    #[error("{}:{line}:{column}: {message}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// The config names no source.
    #[error("{}: no source is configured", .path.display())]
    NoSource {
        /// `backy.toml`.
        path: PathBuf,
    },
    /// A malformed specification of revisions, tag or size.
    #[error("{message}")]
    Specification {
        /// What was given and what is expected.
        message: String,
    },
    /// Revisions that somebody has pinned are not deleted without force.
    #[error("pinned: {revisions}")]
    Pinned {
        /// Which, with their pinned tags.
        revisions: String,
    },
    /// No such revision, or more than one.
    #[error("{message}")]
    NoSuchRevision {
        /// What was asked for and what there is.
        message: String,
    },
    /// The source cannot be backed up, or its size changed during the backup.
    #[error("source {}: {message}", .path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// What was found and expected.
        message: String,
    },
    /// The other archive of a copy, or the way to it, failed.
    #[error("{name}: {message}")]
    Origin {
        /// What it is called: a path or a URL.
        name: String,
        /// What was found and expected.
        message: String,
    },
    /// Writing to this target could destroy something.
    #[error("target {}: {message}", .path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// Why it is refused.
        message: String,
        /// Whether `--force` would allow it.
        forcible: bool,
    },
    /// The mountpoint cannot be used or cannot be unmounted.
    #[error("mountpoint {}: {message}", .path.display())]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// Why, and what to do about it.
        message: String,
    },
    /// A file of the archive is not as it was written.
    #[error("{}: damaged: {flaw}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, what was found there and what was expected.
        flaw: String,
        /// Which bytes of a revision are lost with it, if it is a block of a revision.
        costs: Option<Unreadable>,
    },
    /// The archive needs features that this version does not have.
    #[error("{}: {what}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The missing features, by name.
        what: String,
    },
    /// A hook of `backy.toml` failed.
    #[error("hook {hook}: {message}")]
    Hook {
        /// `before` or `after`.
        hook: &'static str,
        /// How it failed.
        message: String,
    },
    /// Not enough free space for the operation, which has not started.
    #[error("{}: {message}", .path.display())]
    Room {
        /// The archive.
        path: PathBuf,
        /// How much is missing, and how to free it.
        message: String,
    },
    /// The process or the system has reached a limit, such as that of open files.
    #[error("{}: {message}", .path.display())]
    Limit {
        /// What needed it.
        path: PathBuf,
        /// Which limit, and how to raise it.
        message: String,
    },
    /// Two computations of one digest gave different results.
    #[error("{message}")]
    Miscomputed {
        /// Which digest, and the possible causes.
        message: String,
    },
    /// A bug: a thread panicked.
    #[error("a thread of this process failed: {message}")]
    Panic {
        /// The message of the panic.
        message: String,
    },
    /// A bug, or a plan made for another state of the archive: executing it would lose data. Nothing was changed.
    #[error("{message}; nothing was changed")]
    Plan {
        /// Which revision, what was found and what was expected.
        message: String,
    },
    /// Stored data had a problem. It was put in order, but the operation itself was not done.
    #[error("{flaw}; {outcome}; {undone}")]
    PutInOrder {
        /// The problem.
        flaw: Box<Error>,
        /// How it was put in order.
        outcome: String,
        /// What was not done.
        undone: &'static str,
    },
    /// An error with a second message.
    #[error("{first}; {also}")]
    Besides {
        /// What went wrong.
        first: Box<Error>,
        /// The second failure, or what else is known about this one.
        also: String,
    },
    /// The observer asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// An operation failed, and undoing it failed as well.
    #[error("{}", undo_failed(first, second))]
    UndoFailed {
        /// The error of the operation.
        first: Box<Error>,
        /// The error of undoing it.
        second: Box<Error>,
    },
}

fn undo_failed(first: &Error, second: &Error) -> String {
    match (first, second) {
        (Error::Interrupted, Error::Interrupted) => {
            "interrupted; the next command that writes undoes what was started".to_owned()
        }
        _ => format!(
            "{first}; undoing it failed, too ({second}); the next command that writes tries again"
        ),
    }
}

impl Error {
    /// Whether a call failed because the file system is full, or a quota or size limit is reached.
    pub(crate) fn is_want_of_space(error: &io::Error) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }

    /// Whether a file of the archive is missing or not as it was written.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self.kind(), ErrorKind::Damaged | ErrorKind::NotFound)
    }

    /// Whether stored data cannot be read: it is damaged, or the disk fails to deliver it.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.is_damage() || self.kind() == ErrorKind::Io && !self.is_of_process()
    }

    /// Whether stored data is out of reach for any reason, as opposed to an interruption or a limit of the process.
    pub(crate) fn is_loss(&self) -> bool {
        self.is_unreadable()
            || matches!(self.kind(), ErrorKind::Unsupported | ErrorKind::Permission)
    }

    /// The file or folder that the error is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::NoArchive { path }
            | Error::ArchiveExists { path }
            | Error::Occupied { path, .. }
            | Error::Untrusted { path, .. }
            | Error::Locked { path, .. }
            | Error::Overtaken { path }
            | Error::InTheWay { path, .. }
            | Error::OtherMoment { path, .. }
            | Error::Config { path, .. }
            | Error::NoSource { path }
            | Error::Source { path, .. }
            | Error::Target { path, .. }
            | Error::Mount { path, .. }
            | Error::Damaged { path, .. }
            | Error::Unsupported { path, .. }
            | Error::Room { path, .. }
            | Error::Limit { path, .. } => Some(path),
            Error::Specification { .. }
            | Error::Pinned { .. }
            | Error::NoSuchRevision { .. }
            | Error::Hook { .. }
            | Error::Origin { .. }
            | Error::Miscomputed { .. }
            | Error::Panic { .. }
            | Error::Plan { .. }
            | Error::Interrupted => None,
            Error::PutInOrder { flaw, .. } => flaw.path(),
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.path(),
        }
    }

    /// The bytes of a revision that are lost with this error, if any.
    pub fn unreadable(&self) -> Option<Unreadable> {
        match self {
            Error::Damaged { costs, .. } => *costs,
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.unreadable(),
            _ => None,
        }
    }

    /// Adds which bytes of a revision are lost with this error.
    pub(crate) fn costing(mut self, revision: RevisionId, extent: Extent) -> Self {
        if let Error::Damaged { costs, .. } = &mut self {
            *costs = Some(Unreadable { revision, extent });
        }
        self
    }

    /// For `map_err`: the system failed to do `action` on `path`.
    pub fn io(
        path: impl Into<PathBuf>,
        action: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Error {
        let (path, action) = (path.into(), action.into());
        move |source| Error::Io { path, action, source }
    }

    /// A file of the archive is damaged at `place` (a field, an offset, a block).
    pub fn damaged(
        path: impl Into<PathBuf>,
        place: impl Display,
        found: impl Display,
        expected: impl Display,
    ) -> Error {
        let flaw = format!("{place}: found {found}, expected {expected}");
        Error::Damaged { path: path.into(), flaw, costs: None }
    }

    /// For `map_err`: the file at `path` has this flaw.
    pub fn flawed(path: impl Into<PathBuf>) -> impl FnOnce(String) -> Error {
        let path = path.into();
        move |flaw| Error::Damaged { path, flaw, costs: None }
    }
}

/// How to raise the limit of the process or the system that a call has reached; `None` for any other error.
pub(crate) fn limit(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::MFILE => Some("raise the limit of open files (ulimit -n)"),
        Errno::NFILE => Some("raise the limit of open files of the whole system (fs.file-max)"),
        // `storage::dir` waits when opening a file returns this, so it never gets here.
        Errno::AGAIN => Some("raise the limit of processes and threads (ulimit -u, TasksMax)"),
        Errno::NOMEM => Some("free some memory"),
        _ => None,
    }
}

/// The system's message without Rust's `(os error N)`, which does not help an operator.
pub(crate) fn describe_io(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error") {
        text.truncate(end);
    }
    if let Some(advice) = limit(error) {
        text.push_str("; ");
        text.push_str(advice);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_names_the_file_and_the_action() {
        let error = Error::io("/x", "read 10 bytes at offset 5")(io::Error::from_raw_os_error(28));
        assert_eq!(
            error.to_string(),
            "/x: cannot read 10 bytes at offset 5: No space left on device"
        );
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }

    /// An error about open files, threads or memory names the limit and does not count as damage.
    #[test]
    fn a_limit_of_the_process_is_not_damage() {
        for (errno, advice) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::AGAIN, "ulimit -u"),
            (Errno::NOMEM, "memory"),
        ] {
            let error = Error::io("/x", "open")(errno.into());
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(!error.is_damage() && !error.is_unreadable() && !error.is_loss(), "{error}");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
