//! `backy backup`

use backy_lib::backup::{
    BackupOptions, BackupOutcome, BackupPlan, BackupReport, BackupRequest, BackupSource,
};
use backy_lib::room::Estimate;
use backy_lib::units::parse_rate;
use backy_lib::{SpaceCheck, Tag};

use crate::errors::Failure;
use crate::output::{duration, local_minute, signed_size, size};
use crate::progress::Planning;
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

    /// Read all of the source, whatever it reports about changes
    #[arg(long)]
    read_all: bool,

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
        read_all: args.read_all,
        beside: session.job.map_or(0, |job| job.at_once.saturating_sub(1)),
        space: match args.no_space_check {
            true => SpaceCheck::Explain,
            false => SpaceCheck::Require,
        },
        ..BackupOptions::default()
    };
    let meeting = session.meeting.clone();
    let request = BackupRequest { source: BackupSource::Config, options, meeting };
    let archive = session.archive()?;
    if args.dry_run {
        let planning = Planning(session);
        let plan = request.plan(&archive, &session.caller(args.waiting, &planning))?;
        return show_plan(&plan, args.json, session);
    }
    let reporter = session.reporter();
    let caller = session.caller(args.waiting, &reporter);
    let guard = || {
        session.begins();
        Ok(guard::words(&session.itself))
    };
    let outcome = request.run(&archive, guard, &caller)?;
    drop(reporter);
    let is_made = matches!(outcome, BackupOutcome::Made(_));
    // The timer asks often, and the journal is not to have a line for each answer.
    if session.tells() && (is_made || !session.output.is_journal()) {
        session.output.note(&match &outcome {
            BackupOutcome::Made(report) => summary(report),
            BackupOutcome::NotDue(plan) => not_due(plan),
            BackupOutcome::Running => "another backup of this archive is running".to_owned(),
            BackupOutcome::JustMade => "another backup has just finished".to_owned(),
        });
    }
    if args.json { session.output.json(&outcome.report()) } else { Ok(()) }
}

fn show_plan(plan: &BackupPlan, json: bool, session: &Session) -> Result<(), Failure> {
    if json {
        return session.output.json(plan);
    }
    let text = match plan.room {
        Some(room) => format!("{} {}", due(&plan.tags), room_in_words(&room)),
        None if plan.due => due(&plan.tags),
        None => not_due(plan),
    };
    session.output.result(format!("{text}\n").as_bytes())
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

pub(crate) fn summary(report: &BackupReport) -> String {
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
    let read = match &revision.hints {
        Some(hints) if hints.since.is_some() => {
            format!(", {} read", size(statistics.read_bytes + hints.compared_bytes))
        }
        _ => String::new(),
    };
    format!(
        "made revision {} ({tags}): {} in {}{read}, {} changed, {} more stored{healed}",
        revision.uuid,
        size(revision.size_bytes),
        duration(statistics.seconds),
        size(statistics.changed_bytes),
        signed_size(statistics.stored_bytes),
    )
}
