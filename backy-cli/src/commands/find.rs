//! `backy find`

use std::os::unix::ffi::OsStrExt;

use backy_lib::{RevisionSpec, escape};

use crate::Session;
use crate::cli::{REVISION_HELP, revision};
use crate::errors::Failure;

/// Print the path of the file that holds a revision
///
/// The newest is a raw image. An older one is a qcow2 overlay, which qemu-img reads together with the newer ones that it
/// builds on. While a backup runs, or when one was interrupted, the newest is an overlay too.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which revision; the newest without it
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// The same without -r
    #[arg(value_name = "REV", value_parser = revision, conflicts_with = "revision")]
    named: Option<RevisionSpec>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let archive = session.archive()?;
    let wanted = args.revision.as_ref().or(args.named.as_ref()).unwrap_or(&RevisionSpec::Latest);
    let number = wanted.resolve(archive.revisions())?;
    let path = archive.find(number)?;
    if number == 0 && path.extension().is_some_and(|extension| extension == "qcow2") {
        let lock = session.folder.join("lock");
        session.output.warning(&format!(
            "a backup is running or was interrupted: until it has ended or is undone, the revision is this overlay over last.raw; \
             'flock {} COMMAND' waits for a running one",
            lock.display()
        ));
    }
    // For programs as it is, whatever its name; a terminal must not be steered by it.
    let mut line = match session.output.stdout_is_terminal() {
        true => escape::line(&path.to_string_lossy()).into_owned().into_bytes(),
        false => path.as_os_str().as_bytes().to_vec(),
    };
    line.push(b'\n');
    session.output.result(&line)
}
