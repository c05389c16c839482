//! Errors of this process, apart from those of what is stored.
//!
//! A process that may not open another file, or gets no memory, has found out nothing about the file that it wanted. So
//! such an error is always an error, and never a finding, a failed drill, a lost block or a file that is left out.
//! Whoever turns errors into an answer asks [`judged`] first.

use std::io;

use rustix::io::Errno;

use super::{Error, ErrorKind, Result};

impl Error {
    /// Whether the process is what failed, or was stopped, and not what it worked on.
    pub fn is_of_process(&self) -> bool {
        use ErrorKind::{Interrupted, Limit, Miscomputed, Panic};
        let is_interrupted_call = match self {
            Error::Io { source, .. } => source.kind() == io::ErrorKind::Interrupted,
            _ => false,
        };
        is_interrupted_call || matches!(self.kind(), Limit | Miscomputed | Panic | Interrupted)
    }

    /// The system's number of the error, such as that of `EMFILE`, where the system is what said no.
    pub fn system_number(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            Error::Limit { .. } => Some(Errno::MFILE.raw_os_error()),
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.system_number(),
            _ => None,
        }
    }
}

/// A result that may be taken for an answer: an error of it is about the file.
///
/// # Errors
/// Those of the process.
pub(crate) fn judged<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error) if error.is_of_process() => Err(error),
        result => Ok(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That the process has too little of something, or was interrupted, answers nothing; that a disk fails, does.
    #[test]
    fn errors_of_the_process_are_no_answers() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR] {
            let error = Error::io("/x", "read")(errno.into());
            assert!(error.is_of_process() && !error.is_unreadable() && !error.is_loss());
            assert!(judged::<()>(Err(error)).is_err());
        }
        for errno in [Errno::IO, Errno::NOENT, Errno::ACCESS, Errno::STALE] {
            let error = Error::io("/x", "read")(errno.into());
            assert!(!error.is_of_process());
            assert!(matches!(judged::<()>(Err(error)), Ok(Err(_))));
        }
        assert!(matches!(judged(Ok(1)), Ok(Ok(1))));
    }
}
