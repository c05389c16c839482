//! `backy report`

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use backy_lib::config::FLEET_PATH;
use backy_lib::progress::Silent;
use backy_lib::{Error, SystemClock};
use clap::ValueHint;

use crate::commands::absolute;
use crate::commands::run::Fleet;
use crate::errors::Failure;
use crate::{Session, report};

/// Write an HTML page about one or many archives
///
/// One self-contained file: the verdicts and the commands to run, how full each disk is and when it will be full, and
/// for each archive its revisions, changes, verified data, damage and schedule. Healthy archives are collapsed. Mail
/// it, print it, or put it on a web server.
///
/// DIR is as in 'backy check'; the default is the archive of --backupdir or, where there is none, what
/// /etc/backy/fleet.toml names. Takes no lock and changes nothing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File to write or replace; - for standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,

    /// Archives, or folders that hold archives
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    folders: Vec<OsString>,

    #[command(flatten)]
    fleet: Fleet,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let mut folders = args.folders.clone();
    let has_fleet = args.fleet.is_given() || Path::new(FLEET_PATH).exists();
    if folders.is_empty() && (is_archive(&session.folder) || !has_fleet) {
        folders.push(session.folder.clone().into());
    }
    let request = args.fleet.request(&folders, session)?;
    let host = request.check(true, &SystemClock, &Silent)?;
    let page = report::page(&host);
    if args.output == Path::new("-") {
        return session.output.result(page.as_bytes());
    }
    let path = absolute("--output", &args.output)?;
    check(&path)?;
    // From here on there is a file beside it to delete.
    let _under_way = session.interrupt.begin();
    replace(&path, page.as_bytes()).map_err(Error::io(&path, "write the page"))?;
    if session.tells() {
        session.output.note(&format!("wrote {}: {}", path.display(), host.summary));
    }
    Ok(())
}

/// Whatever is replaced has to be a file, and none of an archive.
fn check(path: &Path) -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::message(format!("--output '{}': {why}; name another file", path.display()))
    };
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(refused("it exists and is not a regular file"));
    }
    match path.parent().is_some_and(is_archive) {
        true => Err(refused("its folder is an archive")),
        false => Ok(()),
    }
}

/// Whoever looks at the page meanwhile has the old one or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    // As any file that is made there: the umask says who may read it.
    let permissions = Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn is_archive(folder: &Path) -> bool {
    folder.join("manifest.json").exists()
}
