//! The process that runs the hook `after` even when the backup is killed: this command, started once more with a mark
//! in place of its arguments. `backy_lib::hooks::guard` has its code.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;

use backy_lib::hooks::guard::serve;
use rustix::stdio::stdin;

use crate::errors::{FAILURE_STATUS, Failure};
use crate::interrupt::Interrupt;
use crate::output::Output;

/// The only argument of a guard. The rest of the command does not know of it.
const MARK: &str = "--hook-guard";

/// How to start a guard, for a command that is started as `itself`.
pub fn words(itself: &[OsString]) -> Vec<OsString> {
    match itself.is_empty() {
        // Nothing to start: this process runs the hooks.
        true => Vec::new(),
        false => itself.iter().cloned().chain([MARK.into()]).collect(),
    }
}

/// Whether this process is a guard.
pub(crate) fn is_guard(args: &[OsString]) -> bool {
    args.len() == 2 && args.last().is_some_and(|arg| arg == MARK)
}

/// Guards a backup, which is at the other end of standard input. Returns the exit status. Nobody waits for that, nor
/// reads its output, unless the backup has been killed.
pub(crate) fn run(output: &Output) -> u8 {
    let interrupt = Interrupt::default();
    // A request to stop the backup, with all its processes, does not mean that a file system stays frozen.
    let listening = interrupt.listen(FAILURE_STATUS).map(|()| interrupt.only_in_order());
    let socket = listening.and_then(|()| Ok(UnixStream::from(stdin().try_clone_to_owned()?)));
    match socket {
        Ok(socket) => {
            serve(socket).iter().for_each(|line| output.warning(line));
            0
        }
        Err(error) => Failure::message(format!("cannot guard: {error}")).report(output, false),
    }
}
