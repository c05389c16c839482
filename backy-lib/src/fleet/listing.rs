//! `archives_from`: the program that prints which archives there have to be.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::policy::config::Declared;
use crate::source::hooks::attend;

/// How long the program may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long its output may stay open after its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than a hundred thousand archives.
const MOST_BYTES: u64 = 32 << 20;

/// Runs the program, and reads what it prints. Its standard error is ours.
///
/// # Errors
/// [`Error::Specification`] if it fails, takes longer than a minute, or prints something else; [`Error::Io`] if it
/// cannot be started.
pub(super) fn read(words: &[String]) -> Result<Vec<Declared>> {
    let Some((program, arguments)) = words.split_first() else { return Ok(Vec::new()) };
    let failed = |why: String| Error::Specification { message: format!("{program}: {why}") };
    let cannot = |error| Error::io(Path::new(program), "run the program")(error);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(cannot)?;
    let pipe = child.stdout.take();
    let (give, take) = std::sync::mpsc::channel();
    let reader = std::thread::Builder::new().spawn(move || {
        let mut text = Vec::new();
        let read = pipe.map(|pipe| pipe.take(MOST_BYTES + 1).read_to_end(&mut text));
        // Nobody waits any longer for a reader that is late.
        let _ = give.send(read.transpose().map(|_| text));
    });
    let status = attend(&mut child, Some(TIMEOUT), &mut || false);
    reader.map_err(cannot)?;
    match status {
        (_, Some(why)) => return Err(failed(why)),
        (Err(error), None) => return Err(cannot(error)),
        (Ok(status), None) if !status.success() => {
            return Err(failed(format!("ended with {status}")));
        }
        (Ok(_), None) => {}
    }
    let late = "ended, but another process that it started still has its output open";
    let printed = take.recv_timeout(PATIENCE).map_err(|_| failed(late.to_owned()))?;
    let printed = printed.map_err(cannot)?;
    if printed.len() as u64 > MOST_BYTES {
        return Err(failed(format!("printed more than {} MiB", MOST_BYTES >> 20)));
    }
    let text = String::from_utf8(printed)
        .map_err(|_| failed("printed something that is not UTF-8".to_owned()))?;
    Declared::parse_lines(&text, program)
}
