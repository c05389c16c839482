//! Connections to servers, each of which is made, written to and read from within limits of time.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Fault, Patience};
use crate::base::error::describe_io;
use crate::base::fork::Withheld;
use crate::format::nbd_address::Place;

/// How often a full queue of a Unix socket is tried again.
const TICK: Duration = Duration::from_millis(50);

/// The two directions.
pub(super) type Streams = (Box<dyn Read + Send>, Box<dyn Write + Send>);

/// Connects to a server. The addresses that a name of a host has are tried in their order; looking them up takes as
/// long as the system's resolver allows.
pub(super) fn open(place: &Place, patience: Patience) -> Result<Streams, Fault> {
    match place {
        Place::Tcp { host, port } => {
            let stream = open_tcp(host, *port, patience.connect).map_err(|error| {
                format!(
                    "cannot connect to {host}, port {port}: {}; is the server running, and may this host reach it?",
                    described(&error)
                )
            })?;
            let limited = stream.set_read_timeout(Some(patience.silence));
            let limited = limited.and(stream.set_write_timeout(Some(patience.silence)));
            limited.and(stream.set_nodelay(true)).map_err(|error| describe_io(&error))?;
            Ok(halves(stream))
        }
        Place::Unix(path) => {
            let stream = open_unix(path, patience.connect).map_err(|error| {
                format!(
                    "cannot connect to the socket {}: {}; is the server running?",
                    path.display(),
                    described(&error)
                )
            })?;
            of_unix(stream, patience)
        }
    }
}

/// Both directions of a connection that exists.
pub(super) fn of_unix(stream: UnixStream, patience: Patience) -> Result<Streams, Fault> {
    let limited = stream.set_read_timeout(Some(patience.silence));
    let limited = limited.and(stream.set_write_timeout(Some(patience.silence)));
    limited.map_err(|error| describe_io(&error))?;
    Ok(halves(stream))
}

fn described(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => describe_io(error),
    }
}

fn open_tcp(host: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
    let since = Instant::now();
    let mut last = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = within.saturating_sub(since.elapsed());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to a socket, whose queue may be full for so long.
pub(in crate::source) fn open_unix(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let since = Instant::now();
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            // So many others wait that the queue is full.
            Err(Errno::AGAIN) if since.elapsed() < within => sleep(TICK),
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A socket, for one of its directions. A forked child does not have it: it would keep the connection open.
struct Half<S>(Arc<Withheld<S>>);

fn halves<S>(stream: S) -> Streams
where
    S: AsFd + Send + Sync + 'static,
    for<'a> &'a S: Read + Write,
{
    let stream = Arc::new(Withheld::new(stream));
    (Box::new(Half(Arc::clone(&stream))), Box::new(Half(stream)))
}

impl<S> Read for Half<S>
where
    for<'a> &'a S: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream: &S = &self.0;
        stream.read(buffer)
    }
}

impl<S> Write for Half<S>
where
    for<'a> &'a S: Write,
{
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut stream: &S = &self.0;
        stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
