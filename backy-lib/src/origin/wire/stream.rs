//! Pipes and sockets as streams that do not wait for ever.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::pipe::fcntl_setpipe_size;

use super::frame::Stopped;

/// How often a waiting read looks whether it has to stop.
const TICK: Duration = Duration::from_millis(200);

/// A pipe with space has at least this much of it, so that writing no more never waits.
const WRITE_BYTES: usize = 4096;

/// As much as a pipe may hold without privileges.
const PIPE_BYTES: usize = 1 << 20;

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
    way: Way,
}

/// How to write as much as there is space for, and not to wait.
#[derive(Clone, Copy)]
enum Way {
    /// The pipe has been opened once more: whoever else has it may wait as before.
    Pipe,
    Socket,
    /// Little at a time, and only if there is space.
    Other,
}

impl FdWriter {
    /// Writing fails once the other side has taken nothing for `silence`.
    pub fn new(fd: OwnedFd, silence: Duration) -> Self {
        let kind = fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let (fd, way) = match kind {
            Ok(FileType::Fifo) => match opened_again(&fd) {
                Ok(own) => (own, Way::Pipe),
                Err(_) => (fd, Way::Other),
            },
            Ok(FileType::Socket) => (fd, Way::Socket),
            _ => (fd, Way::Other),
        };
        FdWriter { fd, silence, way }
    }
}

impl Write for FdWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self.way {
                Way::Pipe => rustix::io::write(&self.fd, buffer),
                Way::Socket => send(&self.fd, buffer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Way::Other => Err(Errno::AGAIN),
            };
            if written != Err(Errno::AGAIN) {
                return Ok(written?);
            }
            if !is_ready(&self.fd, PollFlags::OUT, self.silence)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if matches!(self.way, Way::Other) {
                let part = buffer.get(..WRITE_BYTES).unwrap_or(buffer);
                return Ok(rustix::io::write(&self.fd, part)?);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same pipe, so that it does not block and other descriptors of it still do.
fn opened_again(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = openat(CWD, path, flags, Mode::empty())?;
    // Where that is not allowed, it is as large as before.
    let _ = fcntl_setpipe_size(&own, PIPE_BYTES);
    Ok(own)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::fs::fcntl_getfl;

    use super::*;

    /// As long as somebody reads, everything arrives; nobody else's descriptor stops waiting because of it.
    fn passes_on(read: OwnedFd, write: OwnedFd) {
        let other = write.try_clone().unwrap();
        let sent: Vec<u8> = (0..3 * PIPE_BYTES).map(|at| (at / 1000) as u8).collect();
        let mut writer = FdWriter::new(write, Duration::from_secs(60));
        let reading = std::thread::spawn(move || {
            let mut arrived = Vec::new();
            FdReader::new(read, Duration::from_secs(60), || false).read_to_end(&mut arrived)?;
            io::Result::Ok(arrived)
        });
        writer.write_all(&sent).unwrap();
        assert!(!fcntl_getfl(&other).unwrap().contains(OFlags::NONBLOCK));
        drop((writer, other));
        assert!(reading.join().unwrap().unwrap() == sent);
    }

    /// Nobody reads: it ends when the time is up.
    fn gives_up(_read: OwnedFd, write: OwnedFd) {
        let mut writer = FdWriter::new(write, Duration::from_millis(20));
        let error = writer.write_all(&vec![7; 64 * PIPE_BYTES]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = io::pipe().unwrap();
        (read.into(), write.into())
    }

    fn sockets() -> (OwnedFd, OwnedFd) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other.into())
    }

    #[test]
    fn a_pipe_and_a_socket_pass_on_everything_and_others_still_wait() {
        for (read, write) in [pipe(), sockets()] {
            passes_on(read, write);
        }
    }

    #[test]
    fn who_takes_nothing_is_not_waited_for_for_ever() {
        for (read, write) in [pipe(), sockets()] {
            gives_up(read, write);
        }
    }

    /// A file is written to at its own place, as somebody's shell has opened it.
    #[test]
    fn a_file_is_not_opened_again() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before ").unwrap();
        let mut writer = FdWriter::new(file.try_clone().unwrap().into(), Duration::from_secs(60));
        writer.write_all(&[b'x'; WRITE_BYTES + 1]).unwrap();
        assert_eq!(file.metadata().unwrap().len() as usize, 7 + WRITE_BYTES + 1);
    }
}
