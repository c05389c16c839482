//! The guard: a separate process that runs the hooks of one backup, so that `after` runs whatever happens to
//! the backup; or the command of one drill, which must end with it.
//!
//! A backup can be killed at any moment, and a file system frozen by `before` would stay frozen. The guard
//! holds one end of a socket. If the other end closes without a message, the backup has gone, and the guard
//! runs `after` on its own. It has its own session, so that Ctrl-C does not reach it, and it holds the
//! archive's lock, so that no other backup begins before its hooks have ended. It does not read the archive.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{getppid, setsid};

use super::process::{self, Conditions, Ran};
use super::wire::{FromGuard, Job, Next, ToGuard, Wire};
use super::{Outcome, command, environment_of_hook};
use crate::policy::config::HookCommand;

/// How often to check that the backup is still running.
const TICK: Duration = Duration::from_millis(100);
/// How much later than the backup itself the guard acts when the source has been held for too long.
const SLACK: Duration = Duration::from_secs(1);

/// Guards one backup and returns when its hooks have ended. The result has sentences about what happened
/// after the backup had gone.
///
/// `socket` is connected to the backup's socket. The caller has made sure that no signal but SIGKILL ends this process.
pub fn serve(socket: UnixStream) -> Vec<String> {
    // Fails if the process already has its own session.
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

    /// Waits until `after` has to run; with the outcome, and whether it runs before the backup asked for it.
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
                // If the backup has gone, the next message shows it.
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

/// The next message. Also [`Next::End`] once `guarded` is no longer this process's parent: another process
/// may hold a copy of its end of the socket.
pub(super) fn next(wire: &mut Wire, guarded: i32, wait: Duration) -> Next<ToGuard> {
    let next = wire.next(wait);
    let parent = getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    match next {
        Next::Nothing if parent != guarded => Next::End,
        next => next,
    }
}
