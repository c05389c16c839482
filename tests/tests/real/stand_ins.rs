//! Programs in a folder of their own, which are found before the real ones: some print or do something else, and some
//! kill backy when it runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::site::{text, works};

/// For the place of backy in [`kill_at_each`]: it has started the program itself.
pub(crate) const PARENT: &str = "$PPID";

/// For the same: a shell stands between them.
pub(crate) const GRANDPARENT: &str = "$(cut -d ' ' -f 4 /proc/$PPID/stat)";

pub(crate) struct StandIns(TempDir);

impl StandIns {
    pub(crate) fn new() -> Self {
        StandIns(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Adds a program; `script` is for a shell.
    pub(crate) fn with(self, name: &str, script: &str) -> Self {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
        self
    }

    /// A setting with which these are found, and then all others.
    pub(crate) fn first(&self) -> String {
        format!("PATH={}:{}", text(self.0.path()), std::env::var("PATH").expect("a PATH"))
    }

    /// A setting with which only these are found.
    pub(crate) fn only(&self) -> String {
        format!("PATH={}", text(self.0.path()))
    }
}

/// Where a program really is.
pub(crate) fn real(program: &str) -> PathBuf {
    let path = works(Command::new("sh").args(["-c", &format!("command -v {program}")]));
    PathBuf::from(String::from_utf8(path).expect("a path").trim())
}

/// The same command with other settings in its environment.
pub(crate) fn with<S: AsRef<str>>(settings: &[S], command: &Command) -> Command {
    let mut env = Command::new("env");
    env.args(settings.iter().map(AsRef::as_ref));
    env.arg(command.get_program()).args(command.get_args());
    env
}

/// Calls `trial` with settings with which backy is killed when it runs a program for the first time, the second, and so
/// on, until it returns that backy came to its end. First the program does not do its work any more, then it does.
/// Each program comes with the place of backy above it. Returns how often backy was killed.
pub(crate) fn kill_at_each(
    programs: &[(&str, &str)],
    trial: impl FnMut(&str, &[String]) -> bool,
) -> usize {
    let real = |(program, backy): &(&str, &str)| {
        ((*program).to_owned(), (*backy).to_owned(), format!("{} \"$@\"", text(&real(program))))
    };
    kill_at_each_of(&programs.iter().map(real).collect::<Vec<_>>(), &["exit 1", "true"], trial)
}

/// The same for programs that come with what to run, and for what each of them does after the kill, for a shell.
pub(crate) fn kill_at_each_of(
    programs: &[(String, String, String)],
    ends: &[&str],
    mut trial: impl FnMut(&str, &[String]) -> bool,
) -> usize {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let count = folder.path().join("count");
    let script = |backy: &str, command: &str| {
        format!(
            "echo x >>{0}\n\
             if [ $(wc -l <{0}) = \"$KILL_AT\" ]; then kill -9 {backy}; $KILL_THEN; fi\nexec {command}",
            text(&count),
        )
    };
    let stand_ins = programs.iter().fold(StandIns::new(), |all, (program, backy, command)| {
        all.with(program, &script(backy, command))
    });
    let mut killed = 0;
    for then in ends {
        for at in 1.. {
            forget(&count);
            let (at, then) = (format!("KILL_AT={at}"), format!("KILL_THEN={then}"));
            let moment = format!("{at} {then}");
            if trial(&moment, &[stand_ins.first(), at, then]) {
                break;
            }
            killed += 1;
        }
    }
    killed
}

fn forget(count: &Path) {
    fs::write(count, []).expect("forget the count");
}
