//! Programs of other packages that a source is read with. Each is found by `PATH` and has a time limit, and what it
//! says is bounded.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::hooks::process::{Tail, attend, shorten};
use super::output::{Output, at_most};
use crate::base::error::describe_io;

/// Longest output that is read.
const MOST_OUTPUT_BYTES: u64 = 16 << 20;

/// What a shell exits with when it does not find a program; POSIX, "Shell Command Language", 2.8.2.
pub(super) const NOT_FOUND: i32 = 127;

/// A program, and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

pub(super) const QEMU_IMG: Program = Program { name: "qemu-img", package: "qemu-utils" };
pub(super) const QEMU_NBD: Program = Program { name: "qemu-nbd", package: "qemu-utils" };

/// Why what a program prints is of no use.
#[derive(Debug)]
pub(super) struct Misread {
    /// A sentence.
    pub why: String,
    /// It ended too early: if the program has failed, that is the reason.
    pub is_cut: bool,
}

impl Program {
    /// Runs it to its end; returns what it has written to standard output.
    ///
    /// # Errors
    /// A sentence: that it is not installed, how it ended with what it wrote to standard error, or that it took too
    /// long and was stopped.
    pub(super) fn run(
        &self,
        arguments: &[OsString],
        within: Duration,
    ) -> std::result::Result<Vec<u8>, String> {
        let name = self.name;
        self.run_reading(arguments, within, move |pipe| match at_most(pipe, MOST_OUTPUT_BYTES) {
            Ok(Some(printed)) => Ok(printed),
            Ok(None) => Err(Misread {
                why: format!("'{name}' printed more than {MOST_OUTPUT_BYTES} bytes"),
                is_cut: false,
            }),
            Err(error) => Err(Misread {
                why: format!("cannot read what '{name}' prints: {}", describe_io(&error)),
                is_cut: true,
            }),
        })
    }

    /// Runs it to its end, with something that reads its standard output meanwhile, in a thread of its own. The program
    /// ends when that has read something that it does not understand.
    ///
    /// # Errors
    /// As for [`Program::run`], or what the reader says.
    pub(super) fn run_reading<T: Send + 'static>(
        &self,
        arguments: &[OsString],
        within: Duration,
        read: impl FnOnce(PipeReader) -> std::result::Result<T, Misread> + Send + 'static,
    ) -> std::result::Result<T, String> {
        let name = self.name;
        let mut command = prepared(name, arguments);
        command.stdin(Stdio::null());
        run_reading(command, within, read).map_err(|failed| match failed {
            Failed::Unstarted(error) => self.not_run(&error),
            Failed::Misread(why) => why,
            Failed::Ended { how, said } => format!("'{name}' {how}{}", quoted(&said)),
        })
    }

    /// Why it could not be started.
    fn not_run(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::NotFound => self.not_found(),
            _ => format!("cannot run '{}': {}", self.name, describe_io(error)),
        }
    }

    pub(super) fn not_found(&self) -> String {
        let Program { name, package } = self;
        format!("{name} is not installed; install the Debian package {package}")
    }
}

/// Why a program is of no use.
pub(super) enum Failed {
    /// It could not be started.
    Unstarted(io::Error),
    /// What it has printed is not understood: a sentence.
    Misread(String),
    /// How it ended, and the lines that it wrote to standard error.
    Ended { how: String, said: Vec<String> },
}

/// Runs a command to its end, with something that reads its standard output meanwhile, in a thread of its own.
pub(super) fn run_reading<T: Send + 'static>(
    mut command: Command,
    within: Duration,
    read: impl FnOnce(PipeReader) -> std::result::Result<T, Misread> + Send + 'static,
) -> std::result::Result<T, Failed> {
    let began = Instant::now();
    let (stdout, out) = io::pipe().map_err(Failed::Unstarted)?;
    let (stderr, err) = io::pipe().map_err(Failed::Unstarted)?;
    let output = Output::of(stdout, read).map_err(Failed::Unstarted)?;
    let mut child = command.stdout(out).stderr(err).spawn().map_err(Failed::Unstarted)?;
    // It holds the other ends of the pipes.
    drop(command);
    let mut said = Tail::default();
    let failure = attend(&mut child, stderr, began, within, &mut |_| false, &mut said);
    match (failure, output.taken()) {
        (_, Some(Err(Misread { why, is_cut: false }))) => Err(Failed::Misread(why)),
        (Some(how), _) => Err(Failed::Ended { how, said: said.lines() }),
        (None, Some(read)) => read.map_err(|misread| Failed::Misread(misread.why)),
        (None, None) => {
            let how = "ended and left its output open".to_owned();
            Err(Failed::Ended { how, said: Vec::new() })
        }
    }
}

/// A command that speaks English, gets no signals from a terminal, and does not report to the service manager.
pub(super) fn prepared<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        // LVM complains about descriptors that its caller has inherited.
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .env_remove("NOTIFY_SOCKET")
        .process_group(0);
    command
}

/// What a program has written to standard error, for the end of a sentence.
pub(super) fn quoted(lines: &[String]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|l| !l.is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(": {}", shorten(&lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program { name: "sh", package: "dash" };

    fn run(line: &str, within: Duration) -> std::result::Result<Vec<u8>, String> {
        SHELL.run(&["-c".into(), line.into()], within)
    }

    /// Output and error output are kept apart; a failure has the latter, and a missing program its package.
    #[test]
    fn the_end_of_a_program_is_reported() {
        let minute = Duration::from_secs(60);
        let output = run("echo out; echo err >&2; pwd; echo $LC_ALL", minute);
        assert_eq!(output, Ok(b"out\n/\nC.UTF-8\n".to_vec()));
        let failed = run("echo out; echo one >&2; echo >&2; echo two >&2; exit 3", minute);
        let expected = "'sh' ended with exit status: 3: one; two";
        assert_eq!(failed, Err(expected.to_owned()));
        let none = Program { name: "no-such-program", package: "nothing" };
        let expected = "no-such-program is not installed; install the Debian package nothing";
        assert_eq!(none.run(&[], minute), Err(expected.to_owned()));
    }

    /// A program that hangs is stopped, one that prints without end fails, and there is no waiting for what it leaves
    /// behind.
    #[test]
    fn a_program_has_limits() {
        let minute = Duration::from_secs(60);
        let late = run("echo waiting >&2; sleep 60", Duration::from_millis(200)).unwrap_err();
        assert_eq!(late, "'sh' did not end within 0.2 s and was stopped: waiting");
        let endless = run("yes", minute).unwrap_err();
        assert!(endless.contains("'sh' ended with") || endless.contains("more than"), "{endless}");
        let long = run("head -c 20000000 /dev/zero || true", minute).unwrap_err();
        assert!(long.contains("printed more than 16777216 bytes"), "{long}");
        let began = Instant::now();
        let left = run("sleep 30 & echo done", minute).unwrap_err();
        assert!(left.contains("left its output open"), "{left}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    /// What a program prints is read while it runs: it ends when nobody wants more, and its own failure is reported
    /// where its output is only cut.
    #[test]
    fn output_is_read_while_a_program_runs() {
        let minute = Duration::from_secs(60);
        let first = |line: &str, is_cut: bool| {
            let read = move |mut pipe: PipeReader| {
                let mut byte = [0];
                match io::Read::read(&mut pipe, &mut byte) {
                    Ok(1) if byte != *b"?" => Ok(byte),
                    _ => Err(Misread { why: "misread".to_owned(), is_cut }),
                }
            };
            SHELL.run_reading(&["-c".into(), line.into()], minute, read)
        };
        assert_eq!(first("echo abc", false), Ok(*b"a"));
        assert_eq!(first("yes ?", false), Err("misread".to_owned()));
        assert_eq!(first("exit 0", true), Err("misread".to_owned()));
        let failed = "'sh' ended with exit status: 2: why".to_owned();
        assert_eq!(first("echo why >&2; exit 2", true), Err(failed.clone()));
        assert_eq!(first("echo abc; sleep 1; echo why >&2; exit 2", true), Err(failed));
    }
}
