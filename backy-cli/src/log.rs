//! Where a command without a terminal says what it finds: the system's log, and a file if one is named.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backy_lib::{Clock, Error, SystemClock};
use jiff::tz::TimeZone;

use crate::output::one_line;

/// Where the system's log listens.
const SYSTEM_LOG: &str = "/dev/log";
/// How long a system's log that takes nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The facility of daemons, times 8. Source: RFC 3164, section 4.1.1.
const DAEMON: u32 = 3 << 3;

/// How much a line matters, with the numbers of RFC 3164.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
            Severity::Info => "",
        }
    }
}

/// Takes lines. One that cannot be written is lost: there is nobody else to tell.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<PathBuf>,
    system: bool,
}

impl Log {
    /// With the system's log if `system`, and a file, which is appended to and made if it is not there.
    ///
    /// # Errors
    /// When the file cannot be written to.
    pub(crate) fn open(file: Option<PathBuf>, system: bool) -> Result<Self, Error> {
        if let Some(path) = &file {
            append(path).map_err(Error::io(path, "open the log"))?;
        }
        Ok(Log { file, system })
    }

    /// Writes one line.
    pub(crate) fn line(&self, severity: Severity, text: &str) {
        let text = one_line(text);
        let process = rustix::process::getpid();
        let now = SystemClock.now();
        let said = format!("backy[{process}]: {}{text}", severity.word());
        if let Some(path) = &self.file {
            // Opened each time, so that it may be rotated meanwhile.
            let time = now.strftime("%Y-%m-%dT%H:%M:%SZ");
            let line = format!("{time} {said}\n");
            let _ = append(path).and_then(|mut file| file.write_all(line.as_bytes()));
        }
        if self.system {
            let time = now.to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S").to_string();
            let _ = send(format!("<{}>{time} {said}", DAEMON | severity as u32).as_bytes());
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The system's log may be started anew at any time, so each line finds it again.
fn send(line: &[u8]) -> io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to(line, SYSTEM_LOG)
}
