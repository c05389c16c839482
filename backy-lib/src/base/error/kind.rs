//! Classes of errors, on which callers base their decisions.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Error, limit};

/// The class of an error: a short, stable list on which callers base decisions. In JSON its name has hyphens, as in
/// `no-space`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file does not exist.
    NotFound,
    /// The file system is full, or a quota or size limit is reached.
    NoSpace,
    /// Permission denied.
    Permission,
    /// Users other than the caller and root could change what the operation would act on.
    Untrusted,
    /// Another system call failed.
    Io,
    /// No archive in the folder.
    NoArchive,
    /// There is an archive already.
    ArchiveExists,
    /// Another writer holds the archive.
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
    /// A mountpoint cannot be used or unmounted.
    Mount,
    /// Stored data is damaged.
    Damaged,
    /// The archive needs a newer format or feature.
    Unsupported,
    /// A hook failed.
    Hook,
    /// The process cannot get more open files, threads or memory. Not a verdict on stored data.
    Limit,
    /// This machine computes digests wrong. Not a verdict on stored data.
    Miscomputed,
    /// A bug in this program. Not a verdict on stored data.
    Panic,
    /// Stopped on request.
    Interrupted,
}

impl ErrorKind {
    /// All kinds.
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
            Error::Source { .. } | Error::Origin { .. } => ErrorKind::Source,
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
}
