//! `backy mount`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backy_lib::Error;
use backy_lib::mount::{MountOptions, Mounted, group_number, mount};
use backy_lib::progress::{Event, Observer};
use backy_lib::units::parse_size;
use clap::{ValueEnum, ValueHint};

use crate::Session;
use crate::background::{self, Outcome};
use crate::cli::revision;
use crate::commands::{absolute, temporary_folder};
use crate::errors::Failure;
use crate::log::{self, Log, Severity};
use crate::output::Output;
use crate::words::shell_word;

/// Mount the archive: every revision is a file
///
/// MOUNTPOINT has a file for each revision, named by its UUID, with the bytes of the whole disk, for losetup, mount
/// -o loop,ro, fsck -n, qemu and cp. latest, by-number, by-date and by-tag link to them; UUID.partitions has a file
/// for each partition. New revisions appear and deleted ones disappear while mounted; an open file stays readable.
/// Damaged blocks return an I/O error.
///
/// Returns when the mount is ready; 'umount MOUNTPOINT' ends it ('fusermount3 -u MOUNTPOINT' if you are not root).
/// Holds no lock. In /etc/fstab: /srv/backup/mynode /mnt/mynode fuse.backy noauto 0 0, with the long options, '_' for
/// '-'.
///
/// Example: backy mount /mnt && mount -o loop,ro /mnt/latest.partitions/1 /mnt2
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stay in the foreground until unmounted; Ctrl-C unmounts
    #[arg(short, long)]
    foreground: bool,

    /// Let this group read the files, and write them with --writable
    ///
    /// By default, only root and you may read them. Users other than root need user_allow_other in /etc/fuse.conf.
    #[arg(long, value_name = "GROUP", value_parser = group_number)]
    gid: Option<u32>,

    /// Let other users see the mount; only root may read its files
    ///
    /// Use it to let root read what another user mounted. Users other than root need user_allow_other in
    /// /etc/fuse.conf.
    #[arg(long)]
    allow_other: bool,

    /// Make the files writable, to replay a journal or boot a machine
    ///
    /// Writes go to temporary files, which backy deletes on unmount. The archive does not change.
    #[arg(long)]
    writable: bool,

    /// Folder for the temporary files [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR", requires = "writable", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,

    /// Memory for cached data
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    cache: u64,

    /// Append problems to this file as well as to the system log
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    log: Option<PathBuf>,

    /// Folder to mount on; its contents are hidden meanwhile
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    mountpoint: PathBuf,
}

/// How often to check whether it was unmounted.
const POLL: Duration = Duration::from_millis(100);
/// How long to wait for a mount that is in use when the system asks to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is mounted where, in absolute paths: the background process has another current folder.
struct Place {
    mountpoint: PathBuf,
    writable: Option<PathBuf>,
    log: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    check_mountpoint(&args.mountpoint)?;
    let in_background_half = session.is_background_half;
    if in_background_half {
        background::close_inherited().map_err(in_background)?;
    }
    // Also at a second Ctrl-C, the mount has to be removed first.
    session.interrupt.only_in_order();
    let writable = args.writable.then(|| temporary_folder(args.dir.as_deref())).transpose()?;
    let log = args.log.as_deref().map(|file| absolute("--log", file)).transpose()?;
    let place = Place { mountpoint: absolute("MOUNTPOINT", &args.mountpoint)?, writable, log };
    if !args.foreground && !in_background_half {
        return start(args, &place, session);
    }
    let archive = session.archive()?;
    let log = Log::open(place.log.clone(), in_background_half, session.style())?;
    let watch = Arc::new(Watch { output: session.output.clone(), log });
    let options = MountOptions {
        allow_other: args.allow_other,
        gid: args.gid,
        writable: place.writable.clone(),
        cache_bytes: args.cache,
        ..MountOptions::default()
    };
    let observer: Arc<dyn Observer + Send + Sync> = watch.clone();
    let mounted = mount(&archive, &place.mountpoint, &options, observer)?;
    // The mount keeps nothing of the archive open, so that its disk can be unmounted right after the mount.
    drop(archive);
    let names = format!("{} on {}", session.folder.display(), place.mountpoint.display());
    if in_background_half && let Err(error) = background::let_go() {
        // The caller has ended, or nothing works any more.
        mounted.unmount()?;
        return Err(in_background(error));
    }
    let mounted_names = format!("mounted {names}");
    watch.log.line(Severity::Info, log::Event::Note, &mounted_names);
    session.notify(|manager| manager.ready(&mounted_names));
    if args.foreground && session.tells() {
        session.output.note(&format!("mounted {names}; Ctrl-C or '{}' ends it", umount(&place)));
    }
    let ended = serve(mounted, &place.mountpoint, session);
    match &ended {
        Ok(()) => {
            watch.log.line(Severity::Info, log::Event::Note, &format!("unmounted {names}"));
        }
        Err(failure) => watch.log.line(Severity::Error, log::Event::Warning, &failure.text()),
    }
    ended
}

/// Refuses a revision here: it means one of the files that a mount has.
fn check_mountpoint(mountpoint: &Path) -> Result<(), Failure> {
    let Some(text) = mountpoint.to_str().filter(|text| revision(text).is_ok()) else {
        return Ok(());
    };
    Err(Failure::message(format!(
        "'{text}' reads as a revision; a mount shows all of them under by-number, by-date and by-tag: name only a \
         folder (./{} is one)",
        shell_word(text)
    )))
}

fn in_background(error: std::io::Error) -> Failure {
    Failure::message(format!("cannot go to the background: {error}; try --foreground"))
}

/// Reports findings.
struct Watch {
    output: Output,
    log: Log,
}

impl Observer for Watch {
    fn event(&self, event: &Event) {
        // In the background nobody sees standard error, and the log has the line.
        let text = match event {
            Event::Finding(text) | Event::Note(text) => text,
            Event::Begin { .. } => return,
        };
        self.output.finding(text);
        self.log.line(Severity::Warning, log::Event::Finding, text);
    }
}

/// Starts the background process, and waits for it.
fn start(args: &Args, place: &Place, session: &Session) -> Result<(), Failure> {
    let mut words: Vec<OsString> = vec!["-b".into(), session.folder.clone().into(), "mount".into()];
    words.extend(args.allow_other.then(|| "--allow-other".into()));
    if let Some(gid) = args.gid {
        words.extend(["--gid".into(), gid.to_string().into()]);
    }
    if let Some(folder) = &place.writable {
        words.extend(["--writable".into(), "--dir".into(), folder.into()]);
    }
    words.extend(["--cache".into(), args.cache.to_string().into()]);
    if let Some(file) = &place.log {
        words.extend(["--log".into(), file.into()]);
    }
    if let Some(format) = session.log_format.and_then(|format| format.to_possible_value()) {
        words.extend(["--log-format".into(), format.get_name().into()]);
    }
    words.push(place.mountpoint.clone().into());
    let started = background::start(&session.itself, &words, session.operation, &session.interrupt);
    match started.map_err(in_background)? {
        Outcome::Ready => {
            if session.tells() {
                let (folder, mountpoint) = (session.folder.display(), place.mountpoint.display());
                let end = umount(place);
                session.output.note(&format!("mounted {folder} on {mountpoint}; '{end}' ends it"));
            }
            Ok(())
        }
        Outcome::Interrupted => Err(Failure::interrupted("interrupted; nothing is mounted")),
        Outcome::Ended(status) if status.code() == Some(1) => Err(Failure::Told),
        Outcome::Ended(status) => Err(Failure::message(format!(
            "the background process ended with {status}; try --foreground"
        ))),
    }
}

/// What unmounts it.
fn umount(place: &Place) -> String {
    let program = if rustix::process::geteuid().is_root() { "umount" } else { "fusermount3 -u" };
    format!("{program} {}", place.mountpoint.display())
}

/// Waits until somebody unmounts it, or asks to stop, and then for its users.
fn serve(mounted: Mounted, mountpoint: &Path, session: &Session) -> Result<(), Failure> {
    let interrupt = &session.interrupt;
    let mut asked: Option<Instant> = None;
    let mut told = false;
    while !mounted.wait(POLL) {
        let again = interrupt.take();
        if again && asked.is_none() {
            session.notify(|manager| {
                manager.stopping(&format!("unmounting {}", mountpoint.display()))
            });
        }
        let Some(since) = asked.or(again.then(Instant::now)) else { continue };
        let patient = interrupt.by_ctrl_c() || since.elapsed() < PATIENCE;
        if (again && asked.is_some()) || !patient {
            return take_away(&mounted, mountpoint);
        }
        asked = Some(since);
        match mounted.unmount() {
            Err(error) if !told => {
                told = true;
                session.output.note(&waiting(&error, interrupt.by_ctrl_c()));
            }
            // It ends now, or has reported already why not.
            _ => {}
        }
    }
    mounted.join()?;
    match interrupt.by_ctrl_c() {
        true => {
            let text = format!("interrupted; {} is unmounted", mountpoint.display());
            Err(Failure::interrupted(text))
        }
        false => Ok(()),
    }
}

fn waiting(error: &Error, by_ctrl_c: bool) -> String {
    let next = match by_ctrl_c {
        true => "Ctrl-C again detaches it at once".to_owned(),
        false => format!("detaching it in {} s", PATIENCE.as_secs()),
    };
    format!("{error}; trying again until that works; {next}")
}

/// Takes the mount away from its users. They get errors, as this process does not wait for them.
fn take_away(mounted: &Mounted, mountpoint: &Path) -> Result<(), Failure> {
    mounted.detach()?;
    let place = mountpoint.display();
    Err(Failure::interrupted(format!("{place} was in use and is detached; its users get errors")))
}
