//! The guard: a process of its own that runs the hooks of one backup, so that `after` is run whatever becomes of the
//! backup; or the command of one drill, which is to end with it.
//!
//! A backup can be killed at any moment, and a file system that `before` has frozen would stay so. The guard holds one end of a
//! socket; when the other end is closed without a word the backup has gone, and the guard runs `after` by itself. It is in a
//! session of its own, so that Ctrl-C does not reach it, and it holds the archive's lock, so that no other
//! backup begins before its hooks have ended. It does not read the archive.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{getppid, setsid};

use super::process::{self, Conditions, Ran};
use super::wire::{FromGuard, Job, Next, ToGuard, Wire};
use super::{Outcome, command, environment_of_hook};
use crate::policy::config::HookCommand;

/// How often it is looked whether the backup is still there.
const TICK: Duration = Duration::from_millis(100);
/// How much later than the backup itself the guard acts when the source has been held for too long.
const SLACK: Duration = Duration::from_secs(1);

/// Guards one backup; returns when its hooks have ended. Gives what there was nobody left to be told of, in sentences.
///
/// `socket` is the other end of the one that the backup has. The caller has arranged that no signal but SIGKILL ends this
/// process.
pub fn serve(socket: UnixStream) -> Vec<String> {
    // It fails for one that has a session of its own already.
    let _ = setsid();
    let mut wire = Wire::new(socket);
    if wire.send(&FromGuard::Ready).is_err() {
        return Vec::new();
    }
    let job = loop {
        match wire.next(TICK) {
            Next::Message(ToGuard::Begin(job)) => break job,
            Next::Message(ToGuard::Command(job)) => {
                command::serve(&mut wire, &job);
                return Vec::new();
            }
            Next::Nothing => {}
            Next::Message(_) | Next::End => return Vec::new(),
        }
    };
    Guard { wire, job, has_gone: false }.run()
}

struct Guard {
    wire: Wire,
    job: Job,
    /// Whether the backup has gone.
    has_gone: bool,
}

impl Guard {
    fn run(mut self) -> Vec<String> {
        let began = Instant::now();
        let before = self.before();
        let started = before.started;
        let mut untold = Vec::new();
        if self.wire.send(&FromGuard::Before(before.clone())).is_err() {
            self.has_gone = true;
        }
        if !started {
            return untold;
        }
        let (outcome, is_early) = self.wait(began);
        let after = self.after(outcome);
        while is_early && !self.has_gone {
            match self.next(TICK) {
                Next::Message(ToGuard::After(_)) => break,
                Next::Message(_) | Next::Nothing => {}
                Next::End => self.has_gone = true,
            }
        }
        let told = self.wire.send(&FromGuard::After { ran: after.clone(), is_early });
        if told.is_err() || self.has_gone {
            let failed = |name: &str, ran: Ran| Some(format!("hook {name}: {}", ran.failure?));
            untold.extend(failed("before", before));
            untold.push(match failed("after", after) {
                None => "the backup was killed; its hook 'after' was run".to_owned(),
                Some(failure) => format!("the backup was killed; {failure}"),
            });
        }
        untold
    }

    fn before(&mut self) -> Ran {
        let Some(command) = self.job.before.clone() else { return Ran::nothing() };
        let mut has_gone = self.has_gone;
        let ran =
            self.execute(&command, "before", None, |guard| match guard.next(Duration::ZERO) {
                Next::Message(_) => true,
                Next::Nothing => false,
                Next::End => {
                    has_gone = true;
                    true
                }
            });
        self.has_gone = has_gone;
        ran
    }

    /// Waits until `after` has to be run; with which outcome, and whether it was not asked for.
    fn wait(&mut self, began: Instant) -> (Outcome, bool) {
        let limit = self.job.max_hold.map(|limit| limit.saturating_add(SLACK));
        while !self.has_gone {
            match self.next(TICK) {
                Next::Message(ToGuard::After(outcome)) => return (outcome, false),
                Next::Message(_) => {}
                Next::Nothing if limit.is_some_and(|limit| began.elapsed() > limit) => {
                    return (Outcome::Failed, true);
                }
                Next::Nothing => {}
                Next::End => self.has_gone = true,
            }
        }
        (Outcome::Interrupted, false)
    }

    fn after(&mut self, outcome: Outcome) -> Ran {
        let Some(command) = self.job.after.clone() else { return Ran::nothing() };
        self.execute(&command, "after", Some(outcome), |_| false)
    }

    fn execute(
        &mut self,
        command: &HookCommand,
        name: &str,
        outcome: Option<Outcome>,
        mut stop: impl FnMut(&mut Self) -> bool,
    ) -> Ran {
        let environment = environment_of_hook(name, outcome);
        let timeout = self.job.timeout;
        let mut told = false;
        let mut stop = |group: i32| {
            if !told {
                told = true;
                // Whoever has gone is noticed soon enough.
                let _ = self.wire.send(&FromGuard::Started(group));
            }
            stop(self)
        };
        let (environment, persistent) = (&environment, outcome.is_some());
        process::run(command, Conditions { environment, timeout, persistent, stop: &mut stop })
    }

    fn next(&mut self, wait: Duration) -> Next<ToGuard> {
        next(&mut self.wire, self.job.parent, wait)
    }
}

/// The next message; its end also when `guarded` is not this process's parent any more: a copy of its end of the
/// socket may have come into other hands.
pub(super) fn next(wire: &mut Wire, guarded: i32, wait: Duration) -> Next<ToGuard> {
    let next = wire.next(wait);
    let parent = getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    match next {
        Next::Nothing if parent != guarded => Next::End,
        next => next,
    }
}
