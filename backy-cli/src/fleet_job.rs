//! The process of a job that `backy run` starts: this command, with a mark before its arguments.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;

use backy_lib::backup::Meeting;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::{dup2_stdin, stdin};

/// From now on this process stops in order when the run ends, however that ends. The kernel forgets it when the process
/// becomes another user.
///
/// # Errors
/// A sentence, if the run has already ended.
pub(crate) fn follow(run: i32) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| format!("cannot follow the run that started this job: {error}"))?;
    // It may have ended before that.
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
    match parent == Some(run) {
        true => Ok(()),
        false => Err("the run that started this job has ended".to_owned()),
    }
}

/// The connection to the run and to the other backups that it has started together with this one. It is the standard
/// input, which becomes empty: hooks and programs are not to have it.
///
/// # Errors
/// A sentence.
pub(crate) fn meeting() -> Result<Meeting, String> {
    let taken = || {
        let stream = UnixStream::from(stdin().try_clone_to_owned()?);
        dup2_stdin(File::open("/dev/null")?)?;
        io::Result::Ok(stream)
    };
    let stream = taken();
    stream.map(Meeting::over).map_err(|error| {
        format!("cannot take the connection to the run that started this job: {error}")
    })
}
