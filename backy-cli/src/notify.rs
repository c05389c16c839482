//! Reports progress to the service manager that started this process. Source: `sd_notify(3)`.
//!
//! backy ignores a manager that does not listen, or not now: a backup never waits for it.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use backy_lib::escape;

use crate::output::environment;

/// What names the manager's socket.
pub(crate) const VARIABLE: &str = "NOTIFY_SOCKET";

/// A way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
}

impl Notifier {
    /// The manager that the environment names, if any.
    pub(crate) fn detect() -> Option<Self> {
        let name = environment(VARIABLE)?;
        Notifier::connect(&name).ok()
    }

    fn connect(name: &OsStr) -> io::Result<Self> {
        let manager = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            // A virtual machine's manager, which does not belong here.
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Notifier { socket, manager })
    }

    /// All is in place.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", escape::line(status)));
    }

    /// What is being done.
    pub(crate) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", escape::line(status)));
    }

    /// It ends from here on.
    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", escape::line(status)));
    }

    fn send(&self, state: &str) {
        let _ = self.socket.send_to_addr(state.as_bytes(), &self.manager);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket in a folder and one in no folder are both found. Each message is one datagram whose lines are its
    /// own.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "removes its own socket")]
    fn both_kinds_of_sockets_are_spoken_to() {
        let folder = std::env::temp_dir().join(format!("backy-notify-{}", std::process::id()));
        let path = folder.with_extension("socket");
        let abstract_name = format!("@{}", folder.display());
        let in_folder = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&abstract_name.as_bytes()[1..]).unwrap();
        let in_none = UnixDatagram::bind_addr(&address).unwrap();
        for (name, manager) in
            [(path.as_os_str(), &in_folder), (OsStr::new(&abstract_name), &in_none)]
        {
            Notifier::connect(name).unwrap().ready("a\nREADY=0");
            let mut buffer = [0; 100];
            let len = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"READY=1\nSTATUS=a\\nREADY=0");
        }
        std::fs::remove_file(&path).unwrap();
        for wrong in ["", "vsock:2:1234", "relative"] {
            assert!(Notifier::connect(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
