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

/// Make a revision of the source, if one is due
///
/// The schedule in backy.toml decides when a backup is due; without a schedule one always is. A series keeps the
/// hour and the weekday of its first revision, however often you ask. Prints nothing when it succeeds, when no
/// backup is due, or when another backup of this archive is at work and makes what is due (on a terminal, or
/// with -v, it prints a line when it has made one). Only blocks that have changed are stored.
///
/// The hooks of backy.toml are run around the reading of the source: 'before', then the source is read, then 'after', which is
/// run in any case, also when the backup fails, is interrupted or killed. A backup that is not expected to fit on the disk is not
/// begun.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Make one now, whatever the schedule says
    #[arg(short, long)]
    force: bool,

    /// Make one now and pin it with this tag, which stays until you remove it; may be repeated
    #[arg(short, long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,

    /// Make the revision of this tag of the schedule now; it expires as usual; may be repeated
    #[arg(long = "as", value_name = "TAG")]
    scheduled: Vec<Tag>,

    #[command(flatten)]
    waiting: Waiting,

    /// Only say whether a revision would be made, with which tags, and how much room it would take; no hooks are run
    #[arg(long)]
    dry_run: bool,

    /// Begin also when there is less room than a backup is expected to take
    #[arg(long)]
    no_space_check: bool,

    /// Read at most this many bytes of the source a second, such as 100M
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_rate: Option<u64>,

    /// Print a report for programs: the revision that was made, or null (with --dry-run the plan)
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
            session.output.note("another backup of this archive is at work");
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
            session.output.note("another backup has just been made");
        }
        _ => {}
    }
    Ok(())
}

/// `None` when what is due is being made by another backup. Whoever wants one now wants one of his own.
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
        // What others may have written into the config is not opened.
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

/// The source, as far as it is there now: what only a hook makes is not, and the source itself tells the size.
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
            format!("about {} of room, {} at most", size(expected), size(room.most_bytes))
        }
        None => format!("at most {} of room", size(room.most_bytes)),
    };
    let free = room.free_bytes.map(|free| format!("; {} are free", size(free)));
    let missing = room.missing_bytes().map(|missing| format!(", {} are missing", size(missing)));
    format!("It would take {expected}{}{}.", free.unwrap_or_default(), missing.unwrap_or_default())
}

fn due<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> String {
    match list(tags) {
        tags if tags.is_empty() => "A backup would be made, without tags.".to_owned(),
        tags => format!("A backup would be made, with the tags {tags}."),
    }
}

fn not_due(plan: &BackupPlan) -> String {
    let next = plan.next_tag.as_ref().zip(plan.next_due);
    let when = next.map(|(tag, time)| format!("; next is {tag}, at {}", local_minute(time)));
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
        count => format!(", {} healed", words::count(count as usize, "bad block")),
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
