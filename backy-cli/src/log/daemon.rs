//! Where a command without a terminal reports what it finds: the system's log, and a file if one is named.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backy_lib::{Clock, Error, SystemClock};
use jiff::tz::TimeZone;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Event, Severity, Style};
use crate::errors::Failure;

/// Where the system's log listens.
const SYSTEM_LOG: &str = "/dev/log";
/// How long to wait for a system's log that accepts nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// The facility of daemons, times 8. Source: RFC 3164, section 4.1.1.
const DAEMON: u32 = 3 << 3;

/// Accepts lines. One that cannot be written is lost: there is no other place for it.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<PathBuf>,
    system: bool,
    style: Arc<Style>,
}

impl Log {
    /// With the system's log if `system`, and a file, which is appended to, and created if missing. `style` is that
    /// of the file.
    ///
    /// # Errors
    /// When the file cannot be written to, or may not be one's own.
    pub(crate) fn open(
        file: Option<PathBuf>,
        system: bool,
        style: Arc<Style>,
    ) -> Result<Self, Failure> {
        if let Some(path) = &file {
            append(path)?;
        }
        Ok(Log { file, system, style })
    }

    /// Writes one line.
    pub(crate) fn line(&self, severity: Severity, event: Event, text: &str) {
        if let Some(path) = &self.file {
            // Opened each time, so that it may be rotated meanwhile.
            let line = self.style.line(severity, event, text) + "\n";
            if let Ok(mut file) = append(path) {
                let _ = file.write_all(line.as_bytes());
            }
        }
        if self.system {
            let time = SystemClock.now().to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S");
            let (priority, process) = (DAEMON | severity as u32, rustix::process::getpid());
            let said = self.style.said(severity, text);
            let _ = send(format!("<{priority}>{time} backy[{process}]: {said}").as_bytes());
        }
    }
}

/// Opens the file, or makes one that only its group may read as well. It waits for nobody (a FIFO), and does not
/// write to where somebody else's link, or file, in its place would lead.
fn append(path: &Path) -> Result<File, Failure> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let refused = |found: &str| {
        Failure::message(format!(
            "--log '{}': found {found}, expected a regular file of root or your own, or none; name another file",
            path.display()
        ))
    };
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => refused("a symbolic link"),
        // A FIFO that nobody reads, or a socket.
        Some(Errno::NXIO) => refused("no regular file"),
        _ => Error::io(path, "open the log")(error).into(),
    })?;
    let found = file.metadata().map_err(Error::io(path, "look up the log"))?;
    match () {
        () if !found.is_file() => Err(refused("no regular file")),
        () if found.nlink() > 1 => Err(refused("a file with other names (hard links)")),
        () if ![0, geteuid().as_raw()].contains(&found.uid()) => {
            Err(refused(&format!("a file of user {}", found.uid())))
        }
        () => Ok(file),
    }
}

/// The system's log may restart at any time, so each line finds it again.
fn send(line: &[u8]) -> io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to(line, SYSTEM_LOG)
}
