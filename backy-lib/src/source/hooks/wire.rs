//! What a backup and its guard say to each other: lines of JSON over a socket.

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

/// Longer lines are not taken: commands of a config, or the output of a hook, with room to spare.
const LINE_BYTES: usize = 4 << 20;

/// What a guard is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToGuard {
    /// What it has to do; `before` is run at once.
    Begin(Job),
    /// `before` is to end.
    Stop,
    /// The source has been read, or could not be: `after` is run.
    After(Outcome),
    /// In place of hooks: run this.
    Command(command::Job),
}

/// The hooks that a guard runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub before: Option<HookCommand>,
    pub after: Option<HookCommand>,
    pub timeout: Duration,
    pub max_hold: Option<Duration>,
    /// The process that it guards.
    pub parent: i32,
}

/// What a guard says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromGuard {
    /// It is there, and signals to its caller do not reach it any more.
    Ready,
    /// A hook runs in this process group.
    Started(i32),
    /// `before` has ended.
    Before(Ran),
    /// `after` has ended.
    After {
        ran: Ran,
        /// Whether it was run before it was asked for, because the source was held for too long.
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

/// What has come.
pub(super) enum Next<T> {
    Message(T),
    /// Nothing yet.
    Nothing,
    /// The other side has gone, or does not speak our language.
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

    /// Waits for the next message, so long at most.
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
