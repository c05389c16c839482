//! Pipes and sockets as streams that do not wait for ever.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::frame::Stopped;

/// How often a waiting read looks whether it has to stop.
const TICK: Duration = Duration::from_millis(200);

/// A pipe with space has at least this much of it, so that writing no more never waits.
const WRITE_BYTES: usize = 4096;

/// Reads from a pipe or socket.
pub struct FdReader<'a> {
    fd: OwnedFd,
    silence: Duration,
    stopped: Box<dyn Fn() -> bool + Send + 'a>,
}

impl<'a> FdReader<'a> {
    /// Reading fails once no byte has come for `silence`, and soon after `stopped` has become true.
    pub fn new(fd: OwnedFd, silence: Duration, stopped: impl Fn() -> bool + Send + 'a) -> Self {
        FdReader { fd, silence, stopped: Box::new(stopped) }
    }
}

impl Read for FdReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            if (self.stopped)() {
                return Err(io::Error::other(Stopped));
            }
            let left = self.silence.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if is_ready(&self.fd, PollFlags::IN, left.min(TICK))? {
                return Ok(rustix::io::read(&self.fd, &mut *buffer)?);
            }
        }
    }
}

/// Writes to a pipe or socket.
pub struct FdWriter {
    fd: OwnedFd,
    silence: Duration,
}

impl FdWriter {
    /// Writing fails once the other side has taken nothing for `silence`.
    pub fn new(fd: OwnedFd, silence: Duration) -> Self {
        FdWriter { fd, silence }
    }
}

impl Write for FdWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if !is_ready(&self.fd, PollFlags::OUT, self.silence)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let part = buffer.get(..WRITE_BYTES).unwrap_or(buffer);
        Ok(rustix::io::write(&self.fd, part)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the descriptor is ready, or has failed, which the next call reports. False when the time is up.
fn is_ready(fd: impl AsFd, flags: PollFlags, within: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, flags)];
    let timeout = Timespec::try_from(within).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Err(io::ErrorKind::Interrupted.into()),
        Err(errno) => Err(errno.into()),
    }
}
