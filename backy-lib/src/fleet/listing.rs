//! `archives_from`: the program that prints which archives there have to be.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::policy::config::Declared;
use crate::source::hooks::attend;
use crate::source::output::{Output, at_most};

/// How long the program may take.
const TIMEOUT: Duration = Duration::from_secs(60);
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
    let (reader, writer) = io::pipe().map_err(cannot)?;
    let output = Output::of(reader, |pipe| at_most(pipe, MOST_BYTES)).map_err(cannot)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer)
        .process_group(0)
        .spawn()
        .map_err(cannot)?;
    let status = attend(&mut child, Some(TIMEOUT), &mut || false);
    match status {
        (_, Some(why)) => return Err(failed(why)),
        (Err(error), None) => return Err(cannot(error)),
        (Ok(status), None) if !status.success() => {
            return Err(failed(format!("ended with {status}")));
        }
        (Ok(_), None) => {}
    }
    let late = "ended, but another process that it started still has its output open";
    let printed = output.taken().ok_or_else(|| failed(late.to_owned()))?.map_err(cannot)?;
    let long = || failed(format!("printed more than {} MiB", MOST_BYTES >> 20));
    let printed = printed.ok_or_else(long)?;
    let text = String::from_utf8(printed)
        .map_err(|_| failed("printed something that is not UTF-8".to_owned()))?;
    Declared::parse_lines(&text, program)
}
