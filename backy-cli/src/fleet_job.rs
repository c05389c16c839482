//! The process of a job that `backy run` starts: this command, with a mark before its arguments.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

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
