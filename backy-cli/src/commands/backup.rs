//! `backy backup`

use backy_lib::backup::{BackupOptions, BackupPlan, BackupReport, pins_scheduled};
use backy_lib::progress::Observer;
use backy_lib::room::Estimate;
use backy_lib::source::{DeviceSource, Source};
use backy_lib::units::parse_rate;
use backy_lib::{Archive, ArchiveWriter, Error, ErrorKind, SpaceCheck, SystemClock, Tag};

use crate::errors::Failure;
use crate::output::{duration, local_minute, signed_size, size};
use crate::waiting::Waiting;
use crate::words::{self, list};
use crate::{Session, guard};

/// Back up the source if a backup is due
///
/// The schedule in backy.toml decides when a backup is due; without a schedule one always is. A series keeps the hour
/// and the weekday of its first revision. Prints nothing when it succeeds, when no backup is due, or when another
/// backup of this archive is running (on a terminal, or with -v, it reports a new revision in one line).
///
/// Runs the hooks of backy.toml: 'before', then it reads the source, then 'after', which runs even if the backup
/// fails or is killed. A backup that is not expected to fit on the disk does not start.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Back up now, whatever the schedule says
    #[arg(short, long)]
    force: bool,

    /// Back up now and pin the revision with this tag, until you remove it; repeatable
    #[arg(short, long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,

    /// Make the revision for this tag of the schedule now; it expires as usual; repeatable
    #[arg(long = "as", value_name = "TAG")]
    scheduled: Vec<Tag>,

    #[command(flatten)]
    waiting: Waiting,

    /// Only report whether a backup is due, its tags and its space; runs no hooks
    #[arg(long)]
    dry_run: bool,

    /// Start even if the backup is expected not to fit on the disk
    #[arg(long)]
    no_space_check: bool,

    /// Read at most this many bytes of the source per second, such as 100M
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_rate: Option<u64>,

    /// Print the report as JSON: the new revision, or null (with --dry-run the plan)
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Whether nothing is changed.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

pub(crate) fn run(args: Args, session: &Session) -> Result<(), Failure> {
    let options = BackupOptions {
        force: args.force,
        tags: args.tags.into_iter().collect(),
        scheduled: args.scheduled.into_iter().collect(),
        limit_rate: args.limit_rate,
        space: match args.no_space_check {
            true => SpaceCheck::Explain,
            false => SpaceCheck::Require,
        },
        ..BackupOptions::default()
    };
    let archive = session.archive()?;
    if args.dry_run {
        let plan = archive.plan_backup(&options, &SystemClock)?;
        return dry_run(&archive, plan, &options, args.json, session);
    }
    let archive = archive.trusted()?;
    let plan = archive.plan_backup(&options, &SystemClock)?;
    if !plan.due {
        archive.note_asked(&Session::holder("backup"), &SystemClock);
        if session.tells() {
            session.output.note(&not_due(&plan));
        }
        return if args.json { session.output.json(&None::<BackupReport>) } else { Ok(()) };
    }
    if archive.config()?.hooks.before.is_none() {
        // Before the lock: a source that cannot be read changes nothing at all.
        archive.open_source().inspect_err(|error| {
            archive.record_failure("backup", &Session::holder("backup"), error, &SystemClock);
        })?;
    }
    let reporter = session.reporter();
    let Some(mut writer) = open_writer(archive, &options, args.waiting, session, &reporter)? else {
        drop(reporter);
        if session.tells() {
            session.output.note("another backup of this archive is running");
        }
        return if args.json { session.output.json(&None::<BackupReport>) } else { Ok(()) };
    };
    let guard = guard::words(&session.itself);
    let mut hooks = writer.hooks(|config| config.source.clone(), guard)?;
    let open = |archive: &Archive| -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(archive.open_source()?))
    };
    let report = writer.backup_from(open, &mut hooks, &options, &SystemClock, &reporter)?;
    drop(reporter);
    if args.json {
        session.output.json(&report)?;
    }
    match &report {
        Some(report) if session.tells() => session.output.note(&summary(report)),
        None if session.tells() => {
            session.output.note("another backup has just finished");
        }
        _ => {}
    }
    Ok(())
}

/// `None` when another backup already makes the revision that is due. A backup that was asked for by hand is always made.
fn open_writer(
    archive: Archive,
    options: &BackupOptions,
    waiting: Waiting,
    session: &Session,
    observer: &dyn Observer,
) -> Result<Option<ArchiveWriter>, Failure> {
    if options.is_wanted_now() {
        return session.writer(archive, "backup", waiting, observer).map(Some);
    }
    let (holder, wait) = (Session::holder("backup"), waiting.duration());
    Ok(ArchiveWriter::open_for_due_backup(archive, &holder, wait, observer)?)
}

fn dry_run(
    archive: &Archive,
    mut plan: BackupPlan,
    options: &BackupOptions,
    json: bool,
    session: &Session,
) -> Result<(), Failure> {
    if let Some(warning) = pins_scheduled(&archive.config()?, options) {
        session.output.warning(&warning);
    }
    if plan.due {
        // Others may have written a path into the config: backy does not open it.
        let source = match archive.trusted() {
            Ok(trusted) => open_for_estimate(&trusted)?,
            Err(error) if error.kind() == ErrorKind::Untrusted => None,
            Err(error) => return Err(error.into()),
        };
        let source = source.as_ref().map(|source| source as &dyn Source);
        plan.room = Some(archive.estimate_backup(source, options)?);
    }
    if json {
        return session.output.json(&plan);
    }
    let text = match plan.room {
        Some(room) => format!("{} {}", due(&plan.tags), room_in_words(&room)),
        None if plan.due => due(&plan.tags),
        None => not_due(&plan),
    };
    session.output.result(format!("{text}\n").as_bytes())
}

/// The source as it is now: a snapshot that a hook makes does not exist yet, and the source has the same size.
fn open_for_estimate(archive: &Archive) -> Result<Option<DeviceSource>, Failure> {
    let config = archive.config()?;
    Ok(match (&config.hooks.before, config.hooks.snapshot, &config.source) {
        (None, _, _) => Some(archive.open_source()?),
        (Some(_), Some(_), Some(source)) => archive.open_device(source).ok(),
        (Some(_), _, _) => archive.open_source().ok(),
    })
}

fn room_in_words(room: &Estimate) -> String {
    let expected = match room.expected_bytes {
        Some(expected) => {
            format!("about {} of space, at most {}", size(expected), size(room.most_bytes))
        }
        None => format!("at most {} of space", size(room.most_bytes)),
    };
    let free = room.free_bytes.map(|free| format!("; {} free", size(free)));
    let missing = room.missing_bytes().map(|missing| format!(", {} more needed", size(missing)));
    format!("It would take {expected}{}{}.", free.unwrap_or_default(), missing.unwrap_or_default())
}

fn due<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> String {
    match list(tags) {
        tags if tags.is_empty() => "A backup is due, without tags.".to_owned(),
        tags => format!("A backup is due, with the tags {tags}."),
    }
}

fn not_due(plan: &BackupPlan) -> String {
    let next = plan.next_tag.as_ref().zip(plan.next_due);
    let when = next.map(|(tag, time)| format!("; the next is {tag} at {}", local_minute(time)));
    format!("No backup is due{}.", when.unwrap_or_default())
}

fn summary(report: &BackupReport) -> String {
    let revision = &report.revision;
    let statistics = &revision.statistics;
    let tags = match list(&revision.tags) {
        tags if tags.is_empty() => "no tags".to_owned(),
        tags => tags,
    };
    let healed = match report.healed_blocks {
        0 => String::new(),
        count => format!(", {} repaired", words::count(count as usize, "bad block")),
    };
    format!(
        "made revision {} ({tags}): {} in {}, {} changed, {} more stored{healed}",
        revision.uuid,
        size(revision.size_bytes),
        duration(statistics.seconds),
        size(statistics.changed_bytes),
        signed_size(statistics.stored_bytes),
    )
}
