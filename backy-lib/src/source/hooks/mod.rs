//! Hooks: programs of the operator that run before and after the source is read, for instance to freeze a
//! file system or make a snapshot.
//!
//! `before` runs before the source is opened. `after` runs once the source has been read and closed, or could
//! not be read: exactly once if `before` was started, and otherwise never, however the backup ends. To keep
//! that promise even if the backup is killed, a separate process, the [`guard`], runs the hooks. The creator
//! of [`CommandHooks`] says how to start the guard, which the library does not know; without one, the hooks
//! run in this process.
//!
//! Hooks know nothing of archives, and a backup nothing of processes: [`Hooks`] is the interface between them.

mod command;
pub mod guard;
mod held;
pub(super) mod process;
mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result, describe_io};
use crate::base::progress::{Event, Observer};
use crate::base::revision::RevisionId;
use crate::policy::config::{HookCommand, HooksConfig};

pub(crate) use command::attend;
pub use command::{run_command, words_on};
pub(crate) use held::Held;
use process::{Conditions, Ran};
use wire::{FromGuard, Job, Next, ToGuard, Wire};

/// How long a guard may take to start.
const GUARD_START: Duration = Duration::from_secs(60);
/// How often to check whether the caller asked to stop.
const TICK: Duration = Duration::from_millis(50);

/// How reading the source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The source was read to its end. The revision is not committed yet.
    Ok,
    /// Something failed: `before`, the source, or the archive.
    Failed,
    /// The caller asked to stop, or the backup was killed.
    Interrupted,
}

impl Outcome {
    /// The value in the environment of `after`.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// The backup that the hooks run for.
pub struct Occasion<'a> {
    /// The archive's folder.
    pub archive: &'a Path,
    /// The revision that it makes.
    pub revision: RevisionId,
    /// Keeps the archive locked until the hooks have ended.
    pub lock: Option<OwnedFd>,
}

/// How `after` ended.
#[derive(Debug)]
pub enum Ended {
    /// It succeeded.
    Well,
    /// The hook failed, which does not affect the data that was read.
    Failed(Error),
    /// It ran while the source was still being read, so that none of the data can be trusted.
    TooEarly(Error),
}

/// The actions before and after a source is read.
pub trait Hooks {
    /// Prepares the source for reading.
    fn before(&mut self, occasion: Occasion<'_>, observer: &dyn Observer) -> Result<()>;

    /// Releases the source. Called exactly once after a call of `before`, whatever its result.
    fn after(&mut self, outcome: Outcome, observer: &dyn Observer) -> Ended;

    /// When the source has to be released at the latest.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// No hooks.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn before(&mut self, _occasion: Occasion<'_>, _observer: &dyn Observer) -> Result<()> {
        Ok(())
    }

    fn after(&mut self, _outcome: Outcome, _observer: &dyn Observer) -> Ended {
        Ended::Well
    }
}

/// The hooks of a config.
pub struct CommandHooks {
    config: HooksConfig,
    source: Option<PathBuf>,
    /// The program that becomes the guard, with its arguments; empty for no guard.
    guard: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    began: Option<Instant>,
    /// Whether `after` has to run.
    started: bool,
    guarded: Option<Guarded>,
}

/// A running guard.
struct Guarded {
    child: Child,
    wire: Wire,
    /// The process group of the hook that it runs.
    group: Option<i32>,
}

impl CommandHooks {
    /// `source` goes into the environment of the hooks. `guard` is the program that becomes the guard, with
    /// its arguments: it must call [`guard::serve`] with its standard input, which is a socket, and must not
    /// touch its standard output.
    pub(crate) fn new(config: HooksConfig, source: Option<PathBuf>, guard: Vec<OsString>) -> Self {
        CommandHooks {
            config,
            source,
            guard,
            environment: Vec::new(),
            began: None,
            started: false,
            guarded: None,
        }
    }

    /// The environment of both hooks; each gets its name and the outcome in addition.
    fn environment(&self, occasion: &Occasion<'_>) -> Vec<(String, OsString)> {
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default().into_os_string();
        [
            ("BACKY_ARCHIVE", occasion.archive.as_os_str().to_owned()),
            ("BACKY_SOURCE", path(&self.source)),
            ("BACKY_SNAPSHOT", path(&self.config.snapshot)),
            ("BACKY_REVISION", occasion.revision.to_string().into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    fn run_before(&mut self, occasion: Occasion<'_>, observer: &dyn Observer) -> Result<Ran> {
        if self.guard.is_empty() {
            let Some(command) = self.config.before.clone() else { return Ok(Ran::nothing()) };
            return Ok(self.run_here(&command, "before", None, &mut |_| observer.cancelled()));
        }
        let mut guarded = Guarded::start(&self.guard, &self.environment, occasion.lock, observer)?;
        let job = Job {
            before: self.config.before.clone(),
            after: self.config.after.clone(),
            timeout: self.config.timeout,
            max_hold: self.config.max_hold,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
        };
        let ran = guarded.before(job, observer);
        self.guarded = Some(guarded);
        Ok(ran)
    }

    fn run_here(
        &self,
        command: &HookCommand,
        name: &str,
        outcome: Option<Outcome>,
        stop: &mut dyn FnMut(i32) -> bool,
    ) -> Ran {
        let mut environment = self.environment.clone();
        environment.extend(environment_of_hook(name, outcome));
        let (timeout, persistent) = (self.config.timeout, outcome.is_some());
        process::run(command, Conditions { environment: &environment, timeout, persistent, stop })
    }
}

impl Hooks for CommandHooks {
    fn before(&mut self, occasion: Occasion<'_>, observer: &dyn Observer) -> Result<()> {
        if self.config.is_empty() {
            return Ok(());
        }
        // Standard error or a log may be on the file system that is about to be frozen.
        observer.hold_back(true);
        self.environment = self.environment(&occasion);
        self.began = Some(Instant::now());
        let ran = self.run_before(occasion, observer)?;
        self.started = ran.started;
        if self.config.before.is_some() {
            report("before", &ran, observer);
        }
        match ran.failure {
            None => Ok(()),
            Some(_) if observer.cancelled() => Err(Error::Interrupted),
            Some(message) => {
                let message = format!("{message}; no backup was made");
                Err(Error::Hook { hook: "before", message })
            }
        }
    }

    fn after(&mut self, outcome: Outcome, observer: &dyn Observer) -> Ended {
        let ran = self.run_after(outcome);
        observer.hold_back(false);
        let Some((ran, is_early)) = ran else { return Ended::Well };
        if self.config.after.is_some() {
            report("after", &ran, observer);
        }
        let failed = ran.failure.map(|message| Error::Hook { hook: "after", message });
        match (is_early, failed) {
            (true, failed) => Ended::TooEarly(failed.unwrap_or_else(|| self.too_long())),
            (false, None) => Ended::Well,
            (false, Some(error)) => Ended::Failed(error),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.began?.checked_add(self.config.max_hold?)
    }
}

impl CommandHooks {
    /// Runs `after` if it has to run; with whether it ran before the backup asked for it.
    fn run_after(&mut self, outcome: Outcome) -> Option<(Ran, bool)> {
        let guarded = self.guarded.take();
        if !std::mem::take(&mut self.started) {
            if let Some(guarded) = guarded {
                guarded.dismiss();
            }
            return None;
        }
        let by_guard = guarded.and_then(|guarded| guarded.after(outcome));
        // There is no guard, or it was killed.
        by_guard.or_else(|| {
            let command = self.config.after.as_ref()?;
            Some((self.run_here(command, "after", Some(outcome), &mut |_| false), false))
        })
    }

    fn too_long(&self) -> Error {
        let limit = self.config.max_hold.map(process::time).unwrap_or_default();
        let message = format!(
            "ran before backy had read the source, because {limit}, the max_hold of backy.toml, had passed; if \
             reading it takes longer, set a longer time there, or \"none\""
        );
        Error::Hook { hook: "after", message }
    }
}

/// The environment that is specific to one hook.
fn environment_of_hook(name: &str, outcome: Option<Outcome>) -> Vec<(String, OsString)> {
    let own = ("BACKY_HOOK".to_owned(), OsString::from(name));
    let result = outcome.map(|outcome| ("BACKY_RESULT".to_owned(), outcome.word().into()));
    std::iter::once(own).chain(result).collect()
}

/// Reports what a hook printed, and how long it took.
fn report(name: &str, ran: &Ran, observer: &dyn Observer) {
    for line in &ran.output {
        observer.event(&Event::Note(format!("hook {name}: {line}")));
    }
    if ran.failure.is_none() {
        observer.event(&Event::Note(format!("hook {name} took {:.1} s", ran.seconds)));
    }
}

impl Guarded {
    fn start(
        words: &[OsString],
        environment: &[(String, OsString)],
        lock: Option<OwnedFd>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let Some((program, arguments)) = words.split_first() else {
            let message = "backy has no program for the hook guard".to_owned();
            return Err(Error::Hook { hook: "before", message });
        };
        let fail = |what: &'static str| {
            move |error: io::Error| Error::Hook {
                hook: "before",
                message: format!("was not run, because {what}: {}", describe_io(&error)),
            }
        };
        let (ours, theirs) =
            UnixStream::pair().map_err(fail("there is no socket to the hook guard"))?;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(OwnedFd::from(theirs))
            // The guard keeps it open, and thereby locked.
            .stdout(lock.map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .map_err(fail("the hook guard could not be started"))?;
        let mut guarded = Guarded { child, wire: Wire::new(ours), group: None };
        let began = Instant::now();
        loop {
            match guarded.wire.next(TICK) {
                Next::Message(FromGuard::Ready) => return Ok(guarded),
                Next::Nothing if observer.cancelled() => {
                    guarded.give_up();
                    return Err(Error::Interrupted);
                }
                Next::Nothing if began.elapsed() < GUARD_START => {}
                _ => {
                    let cancelled = observer.cancelled();
                    guarded.give_up();
                    return match cancelled {
                        true => Err(Error::Interrupted),
                        false => Err(fail("the hook guard did not start")(
                            io::ErrorKind::BrokenPipe.into(),
                        )),
                    };
                }
            }
        }
    }

    /// Ends a guard that has nothing to guard yet.
    fn give_up(mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn before(&mut self, job: Job, observer: &dyn Observer) -> Ran {
        let mut asked = false;
        let mut is_there = self.wire.send(&ToGuard::Begin(job)).is_ok();
        while is_there {
            match self.wire.next(TICK) {
                Next::Message(FromGuard::Before(ran)) => return ran,
                Next::Message(FromGuard::Started(group)) => self.group = Some(group),
                Next::Message(_) | Next::End => is_there = false,
                Next::Nothing if observer.cancelled() && !asked => {
                    asked = true;
                    is_there = self.wire.send(&ToGuard::Stop).is_ok();
                }
                Next::Nothing => {}
            }
        }
        // Nothing else ends the hook now, and `after` must not run beside it.
        process::end_group(self.group);
        let failure = Some("the process that ran it was killed".to_owned());
        Ran { started: true, failure, ..Ran::default() }
    }

    /// Waits for a guard that has nothing left to do: the archive stays locked until it exits.
    fn dismiss(mut self) {
        drop(self.wire);
        // It may have exited already.
        let _ = self.child.wait();
    }

    /// Has the guard run `after`; with whether it ran before the backup asked for it. `None` if the guard was killed.
    fn after(mut self, outcome: Outcome) -> Option<(Ran, bool)> {
        let mut done = None;
        let mut is_there = self.wire.send(&ToGuard::After(outcome)).is_ok();
        // Messages that it sent before it was killed count as well.
        self.group = None;
        loop {
            match self.wire.next(TICK) {
                Next::Message(FromGuard::After { ran, is_early }) => {
                    done = Some((ran, is_early));
                    break;
                }
                Next::Message(FromGuard::Started(group)) => self.group = Some(group),
                Next::Nothing if is_there => {}
                Next::Message(_) => {}
                Next::Nothing | Next::End => break,
            }
            is_there = is_there && matches!(self.child.try_wait(), Ok(None));
        }
        if done.is_none() {
            process::end_group(self.group);
        }
        drop(self.wire);
        // The archive stays locked until it exits.
        let _ = self.child.wait();
        done
    }
}
