//! How a job ended: from the exit status of its process and from what that printed.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::child::Failure;
use super::job::Operation;
use super::report::{Done, JobResult};
use crate::base::error::{ErrorKind, describe_io};

/// The signal that the kernel sends when memory runs out.
const KILL: i32 = 9;

/// How one attempt at a job ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) result: JobResult,
    pub(super) message: Option<String>,
    pub(super) done: Option<Done>,
    /// Whether another attempt may succeed.
    pub(super) again: bool,
}

impl Ended {
    pub(super) fn without(result: JobResult) -> Self {
        Ended { result, message: None, done: None, again: false }
    }

    pub(super) fn failed(message: String, again: bool) -> Self {
        Ended { message: Some(message), again, ..Ended::without(JobResult::Failed) }
    }
}

pub(super) fn judge(
    operation: Operation,
    status: io::Result<ExitStatus>,
    failure: Option<Failure>,
    printed: &[u8],
) -> Ended {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let why = format!("cannot wait for its process: {}", describe_io(&error));
            return Ended::failed(why, true);
        }
    };
    match (status.code(), failure) {
        (Some(0), _) => match Done::parse(operation, printed) {
            Some(Some(done)) => Ended { done: Some(done), ..Ended::without(JobResult::Ok) },
            Some(None) => skipped("another process has just done it, or is at it".to_owned()),
            None => Ended::failed("its process printed no report".to_owned(), false),
        },
        (Some(_), Some(Failure { message, kind })) => match kind {
            Some(ErrorKind::Locked) => skipped(message),
            Some(ErrorKind::Interrupted) => {
                Ended { message: Some(message), ..Ended::without(JobResult::Interrupted) }
            }
            kind => {
                // A scrub that finds damage fails without a kind, and has its report.
                let again = kind.is_some_and(may_pass);
                Ended::failed(message, again)
            }
        },
        (Some(code), None) => Ended::failed(format!("its process ended with {code}"), true),
        (None, _) => Ended::failed(killed(status.signal().unwrap_or_default()), true),
    }
}

fn skipped(message: String) -> Ended {
    Ended { message: Some(message), ..Ended::without(JobResult::Skipped) }
}

fn killed(signal: i32) -> String {
    let why = if signal == KILL { ", as the kernel does when memory runs out" } else { "" };
    format!("its process was killed by signal {signal}{why}")
}

/// Whether the reason of an error may be gone a moment later, without somebody correcting something.
fn may_pass(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Config
            | ErrorKind::Untrusted
            | ErrorKind::Specification
            | ErrorKind::Unsupported
            | ErrorKind::ArchiveExists
            | ErrorKind::Panic
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> io::Result<ExitStatus> {
        Ok(ExitStatus::from_raw(code << 8))
    }

    fn failure(kind: Option<ErrorKind>) -> Option<Failure> {
        Some(Failure { message: "why".to_owned(), kind })
    }

    /// Each way in which a process can end has its result; what another attempt cannot cure is not tried again.
    #[test]
    fn the_end_of_a_process_is_judged() {
        let judge = |status, failure, printed: &str| {
            let ended = judge(Operation::Backup, status, failure, printed.as_bytes());
            (ended.result, ended.again)
        };
        let (failed, skipped) = (JobResult::Failed, JobResult::Skipped);
        assert_eq!(judge(exited(0), None, "null"), (skipped, false));
        assert_eq!(judge(exited(0), None, ""), (failed, false));
        assert_eq!(judge(exited(1), None, ""), (failed, true));
        assert_eq!(judge(Ok(ExitStatus::from_raw(9)), None, ""), (failed, true));
        for (kind, expected) in [
            (Some(ErrorKind::Locked), (skipped, false)),
            (Some(ErrorKind::Interrupted), (JobResult::Interrupted, false)),
            (Some(ErrorKind::NoSpace), (failed, true)),
            (Some(ErrorKind::Source), (failed, true)),
            (Some(ErrorKind::Config), (failed, false)),
            (None, (failed, false)),
        ] {
            assert_eq!(judge(exited(1), failure(kind), ""), expected, "{kind:?}");
        }
        assert!(killed(9).contains("memory") && !killed(11).contains("memory"));
    }
}
