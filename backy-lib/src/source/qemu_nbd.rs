//! What QEMU can open, served by a `qemu-nbd` of our own for one connection.

use std::ffi::OsString;
use std::fs;
use std::io::{self, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use uuid::Uuid;

use super::hooks::process::{Tail, end_group};
use super::nbd::{NbdAddress, NbdOptions, NbdSource};
use super::program::{NOT_FOUND, QEMU_NBD, prepared, quoted};
use super::served::Server;
use crate::base::error::{Error, describe_io};
use crate::base::fork::{Maker, Withheld};

/// Where the folder with the socket is, for the moment until it is connected: the path of a socket is short.
const FOLDER: &str = "/tmp";

/// How long the program may take to end when nobody is connected any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives the program its socket, as systemd does (`sd_listen_fds(3)`), so that it cannot be asked before it listens.
///
/// It ends by itself when the connection does; but not before both sides have agreed. So it is killed when nobody holds
/// the other end of standard output any more, even if this process is killed. It would forget a SIGTERM that comes
/// while it opens the image.
const SCRIPT: &str = r#"
exec 3<&0 4<&1 </dev/null >&2
sh -c 'unset LISTEN_FDNAMES; export LISTEN_PID=$$ LISTEN_FDS=1; exec qemu-nbd "$@" 4<&-' sh "$@" &
server=$!
{ exec 3<&-; read -r nothing <&4; kill -9 $server; } &
watch=$!
exec 3<&- 4<&-
wait $server
status=$?
kill $watch
exit $status
"#;

/// A connection to a server that serves nothing else.
pub(super) struct Export {
    /// `None` once it is ended.
    nbd: Option<NbdSource>,
    child: Child,
    /// The other end of the child's standard output.
    hold: Option<Withheld<PipeWriter>>,
    said: Arc<Mutex<Tail>>,
    reader: Option<JoinHandle<()>>,
    maker: Maker,
}

impl Export {
    /// Starts the program with these arguments, which name what it opens, and connects to it.
    ///
    /// # Errors
    /// A sentence: that it is not installed, or why it does not serve that.
    pub(super) fn open(
        opened: Vec<OsString>,
        bitmap: Option<&str>,
    ) -> std::result::Result<Self, String> {
        let failed = |error: io::Error| format!("cannot run 'qemu-nbd': {}", describe_io(&error));
        let (listener, stream) = pair().map_err(failed)?;
        let mut words: Vec<OsString> = ["-c", SCRIPT, "sh", "--read-only"].map(Into::into).into();
        if let Some(bitmap) = bitmap {
            words.push(format!("--bitmap={bitmap}").into());
        }
        words.extend(opened);
        let (held, hold) = io::pipe().map_err(failed)?;
        let (stderr, writer) = io::pipe().map_err(failed)?;
        let said = Arc::new(Mutex::new(Tail::default()));
        let kept = Arc::clone(&said);
        let reader = std::thread::Builder::new().spawn(move || keep(stderr, &kept));
        let reader = Some(reader.map_err(failed)?);
        let child = prepared("/bin/sh", &words)
            .stdin(OwnedFd::from(listener))
            .stdout(OwnedFd::from(held))
            .stderr(writer)
            .spawn()
            .map_err(failed)?;
        let hold = Some(Withheld::new(hold));
        let mut export = Export { nbd: None, child, hold, said, reader, maker: Maker::this() };
        let address = NbdAddress::parse("nbd+unix:///?socket=/qemu-nbd")?;
        let options = NbdOptions { bitmap: bitmap.map(str::to_owned), ..NbdOptions::default() };
        match NbdSource::over_unix(stream, &address, &options) {
            Ok(nbd) => export.nbd = Some(nbd),
            Err(error) => return Err(export.explained(error)),
        }
        Ok(export)
    }

    /// What the program has said itself explains more than that the connection has ended.
    fn explained(mut self, error: Error) -> String {
        let message = match error {
            Error::Source { message, .. } => message,
            other => other.to_string(),
        };
        let status = self.end();
        let said = quoted(&std::mem::take(&mut *lock(&self.said)).lines());
        match status {
            Some(code) if code == NOT_FOUND => QEMU_NBD.not_found(),
            _ if said.is_empty() => format!("'qemu-nbd': {message}"),
            _ => format!("'qemu-nbd' ended{said}"),
        }
    }

    /// Ends the connection and waits for the program to end; returns its exit status.
    fn end(&mut self) -> Option<i32> {
        self.nbd = None;
        let asked = Instant::now();
        let mut status = None;
        while asked.elapsed() < PATIENCE {
            status = self.child.try_wait().ok().flatten();
            if status.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.hold = None;
        if status.is_none() {
            end_group(i32::try_from(self.child.id()).ok());
            status = self.child.wait().ok();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        status?.code()
    }
}

impl Server for Export {
    fn nbd(&self) -> Option<&NbdSource> {
        self.nbd.as_ref()
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        match self.maker.is_this() {
            true => drop(self.end()),
            // A forked child neither owns the program nor has the thread that listens to it.
            false => std::mem::forget(self.reader.take()),
        }
    }
}

fn lock(said: &Mutex<Tail>) -> std::sync::MutexGuard<'_, Tail> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the end of what the program says.
fn keep(mut pipe: io::PipeReader, said: &Mutex<Tail>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut piece) {
        lock(said).push(piece.get(..count).unwrap_or_default());
    }
}

/// A socket that listens, and the only connection to it: it waits there until somebody serves it. Nobody else can get
/// at the socket, which is in a folder of our own, and gone when this returns.
fn pair() -> io::Result<(UnixListener, UnixStream)> {
    let folder = PathBuf::from(FOLDER).join(format!("backy-{}", Uuid::now_v7().simple()));
    rustix::fs::mkdir(&folder, Mode::RWXU)?;
    let connected = connected(&folder.join("nbd"));
    let removed = fs::remove_dir(&folder);
    let pair = connected?;
    removed?;
    Ok(pair)
}

fn connected(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let listener = UnixListener::bind(path)?;
    let stream = UnixStream::connect(path);
    rustix::fs::unlink(path)?;
    Ok((listener, stream?))
}
