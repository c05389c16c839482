//! The messages between a backup and its guard: lines of JSON over a socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::Ran;
use super::{Outcome, command};
use crate::policy::config::HookCommand;

/// Longer lines are refused. Commands of a config and the output of a hook are much shorter.
const LINE_BYTES: usize = 4 << 20;

/// A message to the guard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToGuard {
    /// The job; `before` runs at once.
    Begin(Job),
    /// End `before`.
    Stop,
    /// Run `after`: the source was read, or could not be.
    After(Outcome),
    /// Run this command; there are no hooks.
    Command(command::Job),
}

/// The hooks that a guard runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub before: Option<HookCommand>,
    pub after: Option<HookCommand>,
    pub timeout: Duration,
    pub max_hold: Option<Duration>,
    /// The process to guard.
    pub parent: i32,
}

/// A message from the guard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromGuard {
    /// The guard is running, and signals to its caller no longer reach it.
    Ready,
    /// A hook runs in this process group.
    Started(i32),
    /// `before` has ended.
    Before(Ran),
    /// `after` has ended.
    After {
        ran: Ran,
        /// Whether it ran before the backup asked for it, because the source was held for too long.
        is_early: bool,
    },
    /// The command has ended.
    Command(command::Ended),
}

/// One end of the socket.
pub(super) struct Wire {
    stream: UnixStream,
    taken: Vec<u8>,
}

/// The result of waiting for a message.
pub(super) enum Next<T> {
    Message(T),
    /// Not read yet.
    Nothing,
    /// The other side has gone, or sent something unreadable.
    End,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Wire { stream, taken: Vec::new() }
    }

    pub(super) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    /// Waits for the next message, for at most `wait`.
    pub(super) fn next<T: DeserializeOwned>(&mut self, wait: Duration) -> Next<T> {
        let until = Instant::now() + wait;
        loop {
            if let Some(end) = self.taken.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.taken.drain(..=end).collect();
                return serde_json::from_slice(&line).map_or(Next::End, Next::Message);
            }
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => return Next::Nothing,
                Ok(_) => {}
                Err(_) => return Next::End,
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(count) if count > 0 && self.taken.len() < LINE_BYTES => {
                    self.taken.extend_from_slice(piece.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return Next::End,
            }
        }
    }
}
