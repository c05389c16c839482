//! `backy find`

use std::os::unix::ffi::OsStrExt;

use backy_lib::{RevisionSpec, escape};

use crate::Session;
use crate::cli::{REVISION_HELP, revision};
use crate::errors::Failure;

/// Print the path of the file that holds a revision
///
/// The newest is a raw image. An older one is a qcow2 overlay, which qemu-img reads together with the newer ones
/// under it. While a backup runs, and after an interrupted one, the newest is an overlay, too.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision [default: the newest]
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// Revision, without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let archive = session.archive()?;
    let wanted = args.revision.as_ref().or(args.named.as_ref()).unwrap_or(&RevisionSpec::Latest);
    let id = wanted.resolve(archive.revisions())?;
    let path = archive.find(id)?;
    let is_newest = archive.revisions().first().is_some_and(|newest| newest.uuid == id);
    if is_newest && path.extension().is_some_and(|extension| extension == "qcow2") {
        let lock = session.folder.join("lock");
        session.output.warning(&format!(
            "a backup is running or was interrupted: until it ends or is undone, this overlay on last.raw holds \
             the revision; 'flock {} COMMAND' waits for a running backup",
            lock.display()
        ));
    }
    // Programs get the exact bytes. On a terminal, control characters in the name are escaped.
    let mut line = match session.output.stdout_is_terminal() {
        true => escape::line(&path.to_string_lossy()).into_owned().into_bytes(),
        false => path.as_os_str().as_bytes().to_vec(),
    };
    line.push(b'\n');
    session.output.result(&line)
}
