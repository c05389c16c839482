//! Standard output for results that are no text: an image, or a stream of records.

use std::fs::File;
use std::os::fd::AsFd;

use backy_lib::{Error, ErrorKind};

use crate::Session;
use crate::errors::Failure;
use crate::progress::Reporter;

/// Has `write` write to standard output. `part` says what is there if it is interrupted.
pub(crate) fn to_stdout<T>(
    session: &Session,
    part: &str,
    write: impl FnOnce(&mut File, &Reporter<'_>) -> backy_lib::Result<T>,
) -> Result<T, Failure> {
    // Past the standard library's buffer, which looks for ends of lines.
    let stdout = std::io::stdout().lock();
    let descriptor = stdout.as_fd().try_clone_to_owned().map_err(Failure::Output)?;
    let mut stream = File::from(descriptor);
    let reporter = session.reporter();
    let interrupted = || Failure::interrupted(format!("interrupted; {part}"));
    // Whoever reads it may have stopped reading to stop this.
    let report = session.interrupt.or_give_up(
        || write(&mut stream, &reporter),
        || {
            let status = interrupted().report(&session.output, session.interrupt.by_ctrl_c());
            std::process::exit(status.into());
        },
    );
    drop(reporter);
    report.map_err(|error| match &error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure::advised(error, "the reader ended before all was written")
        }
        _ if error.kind() == ErrorKind::Interrupted => interrupted(),
        _ => error.into(),
    })
}
