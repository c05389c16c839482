//! The called side: `backy serve` answers, `backy receive` asks. Both stay below one folder.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::hello::{Call, Hello, Push, Role, listen};
use super::{Answering, FdReader, FdWriter, Outcome, Patience, WireOrigin, answer, place};
use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::origin::{LocalOrigin, Origin};
use crate::storage::Trust;

/// How to take a call.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// What this program calls itself.
    pub program: String,
    /// How long to wait for the caller.
    pub patience: Patience,
    /// How many threads work; by default as many as there are cores, and not more than four.
    pub threads: Option<usize>,
    /// Becomes true when the connection has failed. The reader of it should then stop.
    pub stop: Arc<AtomicBool>,
}

/// Answers a caller who pulls from an archive below `root`. Changes nothing.
///
/// # Errors
/// What the caller was told, or that the connection failed.
pub fn serve<R: Read + Send, W: Write>(
    root: &Path,
    streams: (R, W),
    options: &ServeOptions,
) -> Result<Outcome> {
    let (hello, call) = listen(streams, &options.program, options.patience)?;
    let open = || {
        check_role(&hello, Role::Ask)?;
        let folder = place::existing(root, &hello.archive)?;
        Archive::open_with(&folder, Trust::Checked)
    };
    let archive = match open() {
        Ok(archive) => archive,
        Err(error) => return Err(call.refuse(error)),
    };
    let origin = || -> Result<Box<dyn Origin>> {
        let (archive, _) = archive.reload()?;
        Ok(Box::new(LocalOrigin::new(archive)))
    };
    let answering = Answering {
        origin: &origin,
        block_size: archive.manifest().block_size,
        threads: options.threads,
        limit_rate: None,
        patience: options.patience,
        stop: Arc::clone(&options.stop),
    };
    answer(call.accept()?, &answering)
}

/// Takes a call of somebody who pushes to an archive below `root`.
///
/// # Errors
/// What the caller was told, or that the connection failed.
pub fn accept<R: Read, W: Write>(
    root: &Path,
    streams: (R, W),
    options: &ServeOptions,
) -> Result<Accepted<R, W>> {
    let (hello, call) = listen(streams, &options.program, options.patience)?;
    let place = check_role(&hello, Role::Answer)
        .and_then(|()| place::existing_or_new(root, &hello.archive));
    match place {
        Ok(folder) => {
            let push = hello.push.unwrap_or_default();
            let name = format!("the caller ({})", hello.program.escape_debug());
            Ok(Accepted { folder, push, name, call, patience: options.patience })
        }
        Err(error) => Err(call.refuse(error)),
    }
}

/// The standard input and output of this process, or another pair of pipes.
pub struct Pipes {
    /// From the other side.
    pub input: OwnedFd,
    /// To the other side.
    pub output: OwnedFd,
}

impl Pipes {
    /// As streams that do not wait for ever, and that stop soon after `stopped` or the `stop` of the options has become
    /// true.
    pub fn streams<'a>(
        self,
        options: &ServeOptions,
        stopped: impl Fn() -> bool + Send + 'a,
    ) -> (FdReader<'a>, FdWriter) {
        let (stop, silence) = (Arc::clone(&options.stop), options.patience.silence);
        let stopped = move || stop.load(Relaxed) || stopped();
        (FdReader::new(self.input, silence, stopped), FdWriter::new(self.output, silence))
    }
}

fn check_role(hello: &Hello, expected: Role) -> Result<()> {
    if hello.role == expected {
        return Ok(());
    }
    let message = match expected {
        Role::Ask => {
            "only pulls are served here; for a push, run backy receive instead of backy serve"
        }
        Role::Answer => {
            "only pushes are taken here; for a pull, run backy serve instead of backy receive"
        }
    };
    Err(Error::Specification { message: message.to_owned() })
}

/// A push that was called for.
pub struct Accepted<R, W> {
    /// The folder of the copy, which may not exist yet.
    pub folder: PathBuf,
    /// What the caller wishes.
    pub push: Push,
    name: String,
    call: Call<R, W>,
    patience: Patience,
}

impl<R: Read, W: Write + Send + 'static> Accepted<R, W> {
    /// Begins: the caller's archive as an origin.
    pub fn begin(self) -> Result<WireOrigin<R, W>> {
        WireOrigin::new(self.call.accept()?, &self.name, self.patience)
    }

    /// Refuses the call with this error, and returns it.
    pub fn refuse(self, error: Error) -> Error {
        self.call.refuse(error)
    }
}
