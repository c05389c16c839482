//! `backy backup`

use backy_lib::backup::{BackupOptions, BackupReport};
use backy_lib::schedule::next_due;
use backy_lib::units::parse_rate;
use backy_lib::{Archive, Clock, SystemClock, Tag};

use crate::Session;
use crate::cli::Verbosity;
use crate::errors::Failure;
use crate::output::{duration, local_minute, signed_size, size};
use crate::words::{self, list};

/// Make a revision of the source, if one is due
///
/// What is due is told by the schedule in backy.toml; without a schedule a backup is always due. When nothing is due,
/// and when it worked, nothing is printed, so that cron has nothing to mail (on a terminal, or with -v, it is said in a
/// line). Only blocks that have changed are stored.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Make one now, whatever the schedule says
    #[arg(short, long)]
    force: bool,

    /// Make one now and give it this tag, which stays until it is removed by hand; may be repeated
    #[arg(short, long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,

    /// Only say whether a revision would be made, and with which tags
    #[arg(long)]
    dry_run: bool,

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
        limit_rate: args.limit_rate,
        ..BackupOptions::default()
    };
    let archive = Archive::open(&session.folder)?;
    let plan = archive.plan_backup(&options, &SystemClock)?;
    if args.dry_run {
        if plan.due {
            archive.open_source()?;
        }
        if args.json {
            return session.output.json(&plan);
        }
        let text = if plan.due { due(&plan.tags) } else { not_due(&archive)? };
        return session.output.result(format!("{text}\n").as_bytes());
    }
    if !plan.due {
        if session.verbosity == Verbosity::Verbose {
            session.output.note(&not_due(&archive)?);
        }
        return if args.json { session.output.json(&None::<BackupReport>) } else { Ok(()) };
    }
    // Before the lock: a source that cannot be read changes nothing at all.
    let source = archive.open_source().inspect_err(|error| {
        archive.record_failure("backup", &Session::holder("backup"), error, &SystemClock);
    })?;
    let reporter = session.reporter();
    let mut writer = session.writer(archive, "backup", &reporter)?;
    let report = writer.backup(&source, &options, &SystemClock, &reporter)?;
    drop(reporter);
    if args.json {
        session.output.json(&report)?;
    }
    match &report {
        Some(report) if session.tells() => session.output.note(&summary(report)),
        None if session.verbosity == Verbosity::Verbose => {
            session.output.note("another backup has just been made");
        }
        _ => {}
    }
    Ok(())
}

fn due<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> String {
    match list(tags) {
        tags if tags.is_empty() => "A backup would be made, without tags.".to_owned(),
        tags => format!("A backup would be made, with the tags {tags}."),
    }
}

fn not_due(archive: &Archive) -> Result<String, Failure> {
    let config = archive.config()?;
    let now = SystemClock.now();
    let next = config.schedule.iter().filter_map(|(tag, interval)| {
        Some((next_due(archive.revisions(), tag, interval, now)?, tag))
    });
    let when = match next.min() {
        Some((time, tag)) => format!("; next is {tag}, from {} on", local_minute(time)),
        None => String::new(),
    };
    Ok(format!("No backup is due{when}."))
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
