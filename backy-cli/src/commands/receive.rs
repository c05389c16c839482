//! `backy receive`

use std::path::PathBuf;

use backy_lib::origin::wire::ServeOptions;
use backy_lib::push::ReceiveRequest;
use clap::ValueHint;

use super::{absolute, far, serve};
use crate::Session;
use crate::errors::Failure;
use crate::waiting::Waiting;

/// Let an archive push to its copy below a folder
///
/// What 'backy push ssh://HOST/PATH' runs on the other machine. Speaks with it on standard input and output; see
/// doc/protocol.md. Only adds revisions, and only to archives below DIR or to DIR itself. To restrict a key to it, put
/// this before the key in authorized_keys: command="backy receive --stdio /srv/copy",restrict
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Speak on standard input and output
    #[arg(long, required = true)]
    stdio: bool,

    /// Folder with the copies
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,

    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let root = absolute("DIR", &args.dir)?;
    let options = ServeOptions { program: far::name(), ..ServeOptions::default() };
    let request = ReceiveRequest { root, trust: session.trust, options };
    let reporter = session.reporter();
    let received = request.run(serve::pipes()?, &session.caller(args.waiting, &reporter));
    drop(reporter);
    match received.map_err(serve::unheard)? {
        // The caller reports what is missing, and exits accordingly.
        Some(report) if !report.is_complete() => Err(Failure::Verdict(1)),
        _ => Ok(()),
    }
}
