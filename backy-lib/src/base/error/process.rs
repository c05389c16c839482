//! Errors of this process, as opposed to those of stored data.
//!
//! A process that cannot open another file or get more memory has learned nothing about the file it needed.
//! Such an error stays an error: it never becomes a finding, a failed drill, a lost block or a skipped file.
//! Code that turns errors into answers calls [`judged`] first.

use std::io;

use rustix::io::Errno;

use super::{Error, ErrorKind, Result};

impl Error {
    /// Whether the process itself failed or was stopped, rather than the data it worked on.
    pub fn is_of_process(&self) -> bool {
        use ErrorKind::{Interrupted, Limit, Miscomputed, Panic};
        let is_interrupted_call = match self {
            Error::Io { source, .. } => source.kind() == io::ErrorKind::Interrupted,
            _ => false,
        };
        is_interrupted_call || matches!(self.kind(), Limit | Miscomputed | Panic | Interrupted)
    }

    /// The system's error number, such as `EMFILE`, if the system reported the error.
    pub fn system_number(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            Error::Limit { .. } => Some(Errno::MFILE.raw_os_error()),
            Error::UndoFailed { first, .. } | Error::Besides { first, .. } => first.system_number(),
            _ => None,
        }
    }
}

/// The result as an answer about the file: the inner error is about the file.
///
/// # Errors
/// Errors of the process itself.
pub(crate) fn judged<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error) if error.is_of_process() => Err(error),
        result => Ok(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interruption or a limit of the process answers nothing about stored data; a failing disk does.
    #[test]
    fn errors_of_the_process_say_nothing_about_stored_data() {
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
