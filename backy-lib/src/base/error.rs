//! What can go wrong. Every error names the thing and the place, and what was found and expected.
//!
//! One enum for the whole library; [`Error::kind`] alone decides the exit status of the command and the
//! class of the Python exception. Advice on what to do next is added at the edge, by kind.

mod process;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::base::extent::Extent;
use crate::base::revision::RevisionId;

pub(crate) use process::judged;

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes of a revision that cannot be read right.
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
        /// What the system said.
        source: io::Error,
    },
    /// There is no archive in the folder.
    #[error("{}: no archive here: manifest.json does not exist", .path.display())]
    NoArchive {
        /// The folder.
        path: PathBuf,
    },
    /// `init` where an archive is already.
    #[error("{}: this folder already holds an archive; nothing was changed", .path.display())]
    ArchiveExists {
        /// The folder.
        path: PathBuf,
    },
    /// A new archive is to be made where files have names that an archive uses.
    #[error(
        "{}: found {names}, which a new archive would replace or take for its own; choose an empty folder, or move them \
         away; nothing was changed",
        .path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The files.
        names: String,
    },
    /// Somebody else could change what would be acted on. Nothing has been done.
    #[error("{}: not trusted: {found}; expected {expected} to be able to change it", .path.display())]
    Untrusted {
        /// What they could change: the archive's folder, one above it, a symbolic link to it, or a file.
        path: PathBuf,
        /// Who, as a sentence such as `it belongs to user 1000`.
        found: String,
        /// Those who may.
        expected: String,
    },
    /// Another writer holds the archive.
    #[error("{}: the archive is in use by {holder}", .path.display())]
    Locked {
        /// The archive.
        path: PathBuf,
        /// Who holds it, as the holder wrote it down.
        holder: String,
    },
    /// The manifest and the files beside it are of different times: one of them was brought back, or copied in part.
    #[error("{}: {message}; nothing was changed", .path.display())]
    OtherMoment {
        /// The archive.
        path: PathBuf,
        /// Which revisions the files hold, which the manifest names, and what to do.
        message: String,
    },
    /// A file of which the manifest knows nothing has a name that is needed now.
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
    /// Somebody else has replaced the manifest while this writer was at work. Nothing is changed any more, and nothing undone.
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
    /// A specification of revisions, a tag or a size that means nothing.
    #[error("{message}")]
    Specification {
        /// What was given and what would be right.
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
    /// The source cannot be backed up, or changed its size meanwhile.
    #[error("source {}: {message}", .path.display())]
    Source {
        /// The source.
        path: PathBuf,
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
    /// The mountpoint cannot be used, or not be given back.
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
        /// What that costs, where it is a block of a revision.
        costs: Option<Unreadable>,
    },
    /// The archive needs abilities that this program does not have.
    #[error("{}: {what}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it needs, by name.
        what: String,
    },
    /// A hook of `backy.toml` failed.
    #[error("hook {hook}: {message}")]
    Hook {
        /// Which: `before` or `after`.
        hook: &'static str,
        /// What became of it.
        message: String,
    },
    /// There is not enough room for what is to be done; nothing has been begun.
    #[error("{}: {message}", .path.display())]
    Room {
        /// The archive.
        path: PathBuf,
        /// How much is missing, and what would free it.
        message: String,
    },
    /// The system gives this process no more of something that it needs.
    #[error("{}: {message}", .path.display())]
    Limit {
        /// What it was needed for.
        path: PathBuf,
        /// What there is not enough of, and how to get more.
        message: String,
    },
    /// Two computations of one digest gave different results.
    #[error("{message}")]
    Miscomputed {
        /// Which, and whose fault that may be.
        message: String,
    },
    /// A bug: a thread has failed in a way that nobody expected.
    #[error("a thread of this process failed: {message}")]
    Panic {
        /// What it said.
        message: String,
    },
    /// A bug, or a plan that was made of another state of the archive: executing it would lose something. Nothing was changed.
    #[error("{message}; nothing was changed")]
    Plan {
        /// Which revision, what was found and what was expected.
        message: String,
    },
    /// Something stored was not right. It was put in order, and what was asked for was not done.
    #[error("{flaw}; {outcome}; {undone}")]
    PutInOrder {
        /// What was wrong.
        flaw: Box<Error>,
        /// What was done about it.
        outcome: String,
        /// What was not done.
        undone: &'static str,
    },
    /// An error, and what is to be said besides.
    #[error("{first}; {also}")]
    Besides {
        /// What went wrong.
        first: Box<Error>,
        /// What else did, or what is known about it.
        also: String,
    },
    /// The observer asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// An error, and then another while its traces were being removed.
    #[error("{}", undo_failed(first, second))]
    UndoFailed {
        /// What went wrong in the operation itself.
        first: Box<Error>,
        /// What went wrong while undoing.
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

/// The class of an error: stable, few, and all that a caller should decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file is not there.
    NotFound,
    /// The file system is full, or a quota or size limit is reached.
    NoSpace,
    /// The system does not permit it.
    Permission,
    /// Others than the caller and root could change what would be acted on.
    Untrusted,
    /// Another failure of a system call.
    Io,
    /// No archive in the folder.
    NoArchive,
    /// An archive is there already.
    ArchiveExists,
    /// Another writer is at work.
    Locked,
    /// `backy.toml` is wrong or names no source.
    Config,
    /// A specification is malformed.
    Specification,
    /// No such revision, or an ambiguous one.
    NoSuchRevision,
    /// The source cannot be used.
    Source,
    /// The target is refused for safety.
    Target,
    /// A mountpoint cannot be used or given back.
    Mount,
    /// Stored data is damaged.
    Damaged,
    /// A newer format or feature.
    Unsupported,
    /// A hook failed.
    Hook,
    /// The system gives this process no more open files, threads or memory. Says nothing about what is stored.
    Limit,
    /// This machine computes wrong. Says nothing about what is stored.
    Miscomputed,
    /// A bug in this program. Says nothing about what is stored.
    Panic,
    /// Stopped on request.
    Interrupted,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [ErrorKind; 21] = [
        ErrorKind::NotFound,
        ErrorKind::NoSpace,
        ErrorKind::Permission,
        ErrorKind::Untrusted,
        ErrorKind::Io,
        ErrorKind::NoArchive,
        ErrorKind::ArchiveExists,
        ErrorKind::Locked,
        ErrorKind::Config,
        ErrorKind::Specification,
        ErrorKind::NoSuchRevision,
        ErrorKind::Source,
        ErrorKind::Target,
        ErrorKind::Mount,
        ErrorKind::Damaged,
        ErrorKind::Unsupported,
        ErrorKind::Hook,
        ErrorKind::Limit,
        ErrorKind::Miscomputed,
        ErrorKind::Panic,
        ErrorKind::Interrupted,
    ];
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { source, .. } if limit(source).is_some() => ErrorKind::Limit,
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorKind::Permission
                }
                _ if Error::is_want_of_space(source) => ErrorKind::NoSpace,
                _ => ErrorKind::Io,
            },
            Error::NoArchive { .. } => ErrorKind::NoArchive,
            Error::ArchiveExists { .. } | Error::Occupied { .. } => ErrorKind::ArchiveExists,
            Error::Untrusted { .. } => ErrorKind::Untrusted,
            Error::Locked { .. } | Error::Overtaken { .. } => ErrorKind::Locked,
            Error::Config { .. } | Error::NoSource { .. } => ErrorKind::Config,
            Error::Specification { .. } | Error::Pinned { .. } => ErrorKind::Specification,
            Error::NoSuchRevision { .. } => ErrorKind::NoSuchRevision,
            Error::Source { .. } => ErrorKind::Source,
            Error::Target { .. } => ErrorKind::Target,
            Error::Mount { .. } => ErrorKind::Mount,
            Error::Damaged { .. }
            | Error::InTheWay { .. }
            | Error::OtherMoment { .. }
            | Error::PutInOrder { .. } => ErrorKind::Damaged,
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::Hook { .. } => ErrorKind::Hook,
            Error::Room { .. } => ErrorKind::NoSpace,
            Error::Limit { .. } => ErrorKind::Limit,
            Error::Miscomputed { .. } => ErrorKind::Miscomputed,
            Error::Panic { .. } | Error::Plan { .. } => ErrorKind::Panic,
            Error::Interrupted => ErrorKind::Interrupted,
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.kind(),
        }
    }

    /// Whether a call failed because the file system is full, or a quota or size limit is reached.
    pub(crate) fn is_want_of_space(error: &io::Error) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }

    /// Whether a file of the archive is gone or not as it was written.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self.kind(), ErrorKind::Damaged | ErrorKind::NotFound)
    }

    /// Whether stored data cannot be read: damage, or a disk that does not give it.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.is_damage() || self.kind() == ErrorKind::Io && !self.is_of_process()
    }

    /// Whether stored data cannot be had for any reason, as opposed to a wish to stop or a want of memory.
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
            | Error::Miscomputed { .. }
            | Error::Panic { .. }
            | Error::Plan { .. }
            | Error::Interrupted => None,
            Error::PutInOrder { flaw, .. } => flaw.path(),
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.path(),
        }
    }

    /// The bytes of a revision that the error is about, if it is about such.
    pub fn unreadable(&self) -> Option<Unreadable> {
        match self {
            Error::Damaged { costs, .. } => *costs,
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.unreadable(),
            _ => None,
        }
    }

    /// Adds which bytes of a revision that costs.
    pub(crate) fn costing(mut self, revision: RevisionId, extent: Extent) -> Self {
        if let Error::Damaged { costs, .. } = &mut self {
            *costs = Some(Unreadable { revision, extent });
        }
        self
    }

    /// For `map_err`: the system failed to do `action` with `path`.
    pub fn io(
        path: impl Into<PathBuf>,
        action: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Error {
        let (path, action) = (path.into(), action.into());
        move |source| Error::Io { path, action, source }
    }

    /// A file of the archive is wrong at `place` (a field, an offset, a block).
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
        // Of opening a file there is another reason, which never comes here: `storage::dir` waits for that.
        Errno::AGAIN => Some("raise the limit of processes and threads (ulimit -u, TasksMax)"),
        Errno::NOMEM => Some("free some memory"),
        _ => None,
    }
}

/// The system's message without Rust's `(os error N)`, which tells an operator nothing.
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
    fn an_io_error_says_what_was_tried_with_which_file() {
        let error = Error::io("/x", "read 10 bytes at offset 5")(io::Error::from_raw_os_error(28));
        assert_eq!(
            error.to_string(),
            "/x: cannot read 10 bytes at offset 5: No space left on device"
        );
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }

    /// That a process may have no more files, threads or memory says which limit that is, and is no damage to what is stored.
    #[test]
    fn a_limit_of_the_process_is_no_damage() {
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
