//! `backy drill`

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use backy_lib::drill::{self, Assembled};
use backy_lib::{Archive, ArchiveWriter, DrillReport, Error, RevisionSpec, SystemClock};
use clap::ValueHint;
use rustix::process::{Pid, Signal, kill_process};

use crate::Session;
use crate::cli::{REVISION_HELP, revision};
use crate::commands::temporary_folder;
use crate::errors::Failure;
use crate::notify;
use crate::output::{duration, size};

/// Restore a revision for trial, and say how long that took
///
/// Reads the whole revision and checks every block against its digest. With a COMMAND, the revision is restored to a
/// temporary file that only root could write to, and the command is run on it: with '{}' in its arguments replaced by the
/// path of the file, or the path as the last argument. Its output goes to standard error. The file is removed in any case,
/// and the archive has no part in it. The exit status is 0 only if every block was right and the command exited with 0.
///
/// Example: backy drill -- sh -c 'fdisk -l {}'
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision; without it, one by chance
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = revision_help())]
    revision: Option<RevisionSpec>,

    /// The same without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,

    /// Folder for the temporary file; $TMPDIR or /tmp without it
    ///
    /// One where other users could put another file in its place is refused.
    #[arg(long, value_name = "DIR", requires = "command", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,

    /// Print a report for programs
    #[arg(long)]
    json: bool,

    /// What to run on the restored revision, and its arguments
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

fn revision_help() -> String {
    format!("Which revision; without it, one by chance. {REVISION_HELP}")
}

/// How often a command that runs is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long a command that was asked to end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    // It is recorded.
    let archive = session.archive()?.trusted()?;
    let revisions = archive.revisions();
    let by_chance = || drill::pick(revisions.len(), RandomState::new().build_hasher().finish());
    let number = match args.revision.as_ref().or(args.named.as_ref()) {
        Some(spec) => spec.resolve(revisions)?,
        // Of no revisions there is none to pick: the newest is asked for, for the message.
        None => by_chance().map_or_else(|| RevisionSpec::Latest.resolve(revisions), Ok)?,
    };
    let report = match args.command.split_first() {
        None => {
            let reporter = session.reporter();
            drill::read(&archive, number, None, &SystemClock, &reporter)?
        }
        Some((program, rest)) => with_command(&archive, number, program, rest, args, session)?,
    };
    record(archive, &report, session);
    if args.json {
        session.output.json(&report)?;
    }
    if !report.passed {
        let advice = match report.command {
            Some(_) => "see what it said, and restore the revision to look into it",
            None => "'backy restore --keep-going' gets out what there is",
        };
        return Err(Failure::message(format!(
            "the drill on revision {} did not pass: {}; {advice}",
            report.revision, report.message
        )));
    }
    if !args.json {
        session.output.result(format!("{}\n", summary(&report)).as_bytes())?;
    }
    Ok(())
}

/// Notes it for 'status'; an archive that is in use, or cannot be written to, is told and no failure of the drill.
fn record(archive: Archive, report: &DrillReport, session: &Session) {
    let reporter = session.reporter();
    let recorded = ArchiveWriter::open(archive, &Session::holder("drill"), &reporter)
        .and_then(|mut writer| writer.record_drill(report.clone(), &SystemClock, &reporter));
    drop(reporter);
    if let Err(error) = recorded {
        session.output.warning(&format!("'status' will not know of this drill: {error}"));
    }
}

fn summary(report: &DrillReport) -> String {
    let content = if report.command.is_some() { ", and the command was content" } else { "" };
    format!(
        "Revision {}: {} ({} of data) in {}, {}/s; every block is right{content}.",
        report.revision,
        size(report.size_bytes),
        size(report.read_bytes),
        duration(report.seconds),
        size(report.bytes_per_second),
    )
}

fn with_command(
    archive: &Archive,
    number: usize,
    program: &OsStr,
    rest: &[OsString],
    args: &Args,
    session: &Session,
) -> Result<DrillReport, Failure> {
    let folder = temporary_folder(args.dir.as_deref())?;
    // A second Ctrl-C must not end the process before the file is removed.
    session.interrupt.only_in_order();
    let reporter = session.reporter();
    let drilled = drill::assemble(archive, number, &folder, None, &SystemClock, &reporter);
    drop(reporter);
    let (report, assembled) = drilled?;
    let Some(assembled) = assembled else { return Ok(report) };
    let words = words(program, rest, assembled.path());
    let verdict = run_command(&words, &assembled, session)?;
    Ok(report.judged(program.to_string_lossy().into_owned(), verdict))
}

/// The command with the path in its place.
fn words(program: &OsStr, rest: &[OsString], path: &Path) -> Vec<OsString> {
    let given: Vec<&OsStr> = std::iter::once(program).chain(rest.iter().map(|w| &**w)).collect();
    let mut words: Vec<OsString> =
        given.iter().map(|word| replace(word, path.as_os_str())).collect();
    if words == given {
        words.push(path.into());
    }
    words
}

/// `word` with every `{}` replaced.
fn replace(word: &OsStr, by: &OsStr) -> OsString {
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(b"{}") {
            Some(after) => {
                out.extend_from_slice(by.as_bytes());
                rest = after;
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Runs the command; nothing if it was content, else why not.
fn run_command(
    words: &[OsString],
    _file: &Assembled,
    session: &Session,
) -> Result<Result<(), String>, Failure> {
    let Some((program, arguments)) = words.split_first() else { return Ok(Ok(())) };
    let name = program.to_string_lossy();
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(Failure::Output)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(stderr)
        // What is told there is about this process.
        .env_remove(notify::VARIABLE)
        .spawn()
        .map_err(Error::io(program, "run the command"))?;
    let ended = wait(&mut child, session).map_err(Error::io(program, "wait for the command"))?;
    if session.interrupt.requested() {
        return Err(Failure::interrupted("interrupted; the temporary file is removed"));
    }
    Ok(match ended.success() {
        true => Ok(()),
        false => Err(format!("'{name}' ended with {ended}")),
    })
}

/// Waits for the command; when somebody asks to stop, ends it.
fn wait(child: &mut Child, session: &Session) -> std::io::Result<ExitStatus> {
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match asked {
            None if session.interrupt.requested() => {
                asked = Some(Instant::now());
                let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                if let Some(process) = process {
                    // It may just have ended.
                    let _ = kill_process(process, Signal::TERM);
                }
            }
            Some(since) if since.elapsed() > PATIENCE => child.kill()?,
            _ => {}
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path takes the place of every `{}`, or comes last.
    #[test]
    fn the_path_has_its_place_in_the_command() {
        for (given, expected) in [
            (&["ls"][..], "ls /x"),
            (&["ls", "-l"], "ls -l /x"),
            (&["ls", "{}", "-l"], "ls /x -l"),
            (&["sh", "-c", "file {}; ls {}"], "sh -c file /x; ls /x"),
            (&["{}", "if={}}"], "/x if=/x}"),
        ] {
            let rest: Vec<OsString> = given[1..].iter().map(OsString::from).collect();
            let words = words(OsStr::new(given[0]), &rest, Path::new("/x"));
            assert_eq!(words.join(OsStr::new(" ")), expected);
        }
    }
}
