//! `backy serve`

use std::os::fd::AsFd;
use std::path::PathBuf;

use backy_lib::origin::wire::{Outcome, Pipes, ServeOptions, serve};
use backy_lib::{Error, ErrorKind};
use clap::ValueHint;

use super::{absolute, far};
use crate::Session;
use crate::errors::Failure;

/// Let a copy pull from archives below a folder
///
/// What 'backy pull ssh://HOST/PATH' runs on the other machine. Speaks with it on standard input and output; see
/// doc/protocol.md. Reads only, and only archives below DIR or DIR itself. To restrict a key to it, put this before the
/// key in authorized_keys: command="backy serve --stdio /srv/backup",restrict
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Speak on standard input and output
    #[arg(long, required = true)]
    stdio: bool,

    /// Folder with the archives
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let root = absolute("DIR", &args.dir)?;
    let options = ServeOptions { program: far::name(), ..ServeOptions::default() };
    let streams = pipes()?.streams(&options, || session.interrupt.requested());
    match serve(&root, streams, &options).map_err(unheard)? {
        Outcome::Failed(message) => Err(Failure::message(message)),
        Outcome::Done(_) | Outcome::HungUp => Ok(()),
    }
}

/// The caller gets every error but that of the connection, and its user reads standard error of this process as well.
pub(super) fn unheard(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Source | ErrorKind::Interrupted => error.into(),
        _ => Failure::Verdict(1),
    }
}

/// Standard input and output.
pub(super) fn pipes() -> Result<Pipes, Failure> {
    let failed = |error| Failure::message(format!("standard input and output: {error}"));
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    Ok(Pipes { input, output })
}
