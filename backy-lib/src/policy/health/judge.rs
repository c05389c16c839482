//! The rules: what is a problem, and what to do about it. The table in `cause.rs` says how bad each is.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Cause, Facts, Freeze, Health, OriginStatus, PULL, Problem, ProblemKind, age, display_age,
    freezes, future, space, tags, tracking, unchecked_since,
};
use crate::base::clock::latest;
use crate::base::units::display_size;
use crate::format::manifest::{Operation, Revision};
use crate::policy::config::{Config, DEFAULT_STALL, Monitoring};
use crate::policy::retention::{Pins, excess};

/// Default limit of a chain's length: each delta is a file that a read may have to open.
const LONG_CHAIN: u32 = 200;
/// How many deltas more than `max_chain` are acceptable until the next maintenance.
const CHAIN_PATIENCE: u32 = 10;
/// Longest text from the history that a message repeats.
const MAX_ERROR_CHARS: usize = 300;

/// The verdict.
pub fn judge(facts: &Facts<'_>) -> Health {
    let defaults = Monitoring::default();
    let limits = facts.config.map_or(&defaults, |config| &config.monitoring);
    let mut problems = Vec::new();
    problems.extend(config(facts));
    problems.extend(backups(facts));
    problems.extend(pulls(facts));
    problems.extend(unwritable(facts));
    problems.extend(future::problem(facts.ahead, facts.now));
    problems.extend(failed(facts));
    problems.extend(interrupted(facts));
    problems.extend(missing(facts));
    problems.extend(replaced(facts));
    problems.extend(damage(facts, limits));
    problems.extend(flaws(facts, limits));
    problems.extend(set_aside(facts));
    problems.extend(drill(facts, limits));
    problems.extend(unchecked(facts, limits));
    problems.extend(chain(facts, limits));
    problems.extend(free_space(facts, limits));
    problems.extend(unusual(facts, limits));
    problems.extend(exposed(facts));
    problems.extend(mismatch(facts));
    problems.extend(unknown(facts));
    problems.extend(too_many(facts));
    problems.extend(tracking::uncompared(facts));
    problems.extend(stuck(facts.lock_holder, facts.progress, facts.now, DEFAULT_STALL));
    if facts.manifest.is_undo() {
        problems.retain(|problem| !NOT_OF_AN_UNDO_ARCHIVE.contains(&problem.kind));
        return Health::of(problems, || well_to_undo(facts));
    }
    Health::of(problems, || well(facts))
}

/// Problems that make no sense for an undo archive: nobody backs up to it or restores from it elsewhere.
const NOT_OF_AN_UNDO_ARCHIVE: [ProblemKind; 5] = [
    ProblemKind::NoBackup,
    ProblemKind::Overdue,
    ProblemKind::Drill,
    ProblemKind::Chain,
    ProblemKind::UnusualChange,
];

fn well_to_undo(facts: &Facts<'_>) -> String {
    let made = facts.manifest.revisions.first().map(|newest| age_of(newest.started, facts.now));
    let target = facts.manifest.source.as_ref().map_or("a restore", |source| &source.path);
    let target = target.escape_debug();
    format!(
        "undo archive of {target}, made {} ago; 'backy restore' brings back what was overwritten",
        made.unwrap_or_default()
    )
}

fn well(facts: &Facts<'_>) -> String {
    let (revisions, now) = (&facts.manifest.revisions, facts.now);
    let age = revisions.first().map(|newest| age_of(newest.started, now)).unwrap_or_default();
    let pulled = facts.config.ok().and_then(|config| config.origin.as_ref());
    let pulled = pulled.zip(facts.last_pull).map(|(_, last)| age_of(last.started, now));
    let pulled = pulled.map(|age| format!(", pulled {age} ago")).unwrap_or_default();
    match revisions.len() {
        1 => format!("1 revision, the newest {age} old{pulled}"),
        count => format!("{count} revisions, the newest {age} old{pulled}"),
    }
}

fn age_of(time: Timestamp, now: Timestamp) -> String {
    display_age(now.as_second() - time.as_second())
}

fn config(facts: &Facts<'_>) -> Option<Problem> {
    match facts.config {
        Err(why) => Some(
            Cause::Config
                .problem(why, "correct it; 'backy config' prints all settings and problems"),
        ),
        Ok(config) if !is_filled(config) && !is_pushed(facts, config) => {
            Some(Cause::NoSource.problem("no source is configured", "set it in backy.toml"))
        }
        Ok(_) => None,
    }
}

/// No backup exists, or the last one is too old.
fn backups(facts: &Facts<'_>) -> Option<Problem> {
    let config: &Config = facts.config.ok()?;
    let is_pushed = is_pushed(facts, config);
    if config.source.is_none() && !is_pushed {
        return None;
    }
    let revisions = &facts.manifest.revisions;
    if !revisions.iter().any(|revision| revision.started <= latest(facts.now)) {
        let advice = "run 'backy backup', then let cron or a timer run it";
        let message = match revisions.len() {
            0 => "there is no backup yet",
            _ => "no valid backup: all revisions are from the future",
        };
        return Some(Cause::NoBackup.problem(message, advice));
    }
    let tags = tags(&facts.past(), config, facts.now);
    let mut overdue = age::overdue(revisions, config, &tags, facts.now)?;
    if is_pushed {
        overdue.advice =
            "find out why its origin makes no backups, or does not push them".to_owned();
    }
    Some(overdue)
}

/// Whether something in the archive's own config brings revisions.
fn is_filled(config: &Config) -> bool {
    config.source.is_some() || config.origin.is_some()
}

/// Whether another archive has brought the newest revision, by `backy push`.
fn is_pushed(facts: &Facts<'_>, config: &Config) -> bool {
    let source = facts.manifest.source.as_ref();
    !is_filled(config) && source.is_some_and(|source| source.is_archive())
}

/// A copy has no revision yet, its last pull is too old, or its newest revision.
fn pulls(facts: &Facts<'_>) -> Vec<Problem> {
    let config = facts.config.ok();
    let Some((config, origin)) = config.and_then(|config| Some((config, config.origin.as_ref()?)))
    else {
        return Vec::new();
    };
    let revisions = &facts.manifest.revisions;
    if !revisions.iter().any(|revision| revision.started <= latest(facts.now)) {
        let advice = "run 'backy pull', then let cron or a timer run it";
        let message = match revisions.len() {
            0 => format!("nothing has been pulled from {} yet", origin.url),
            _ => "no valid revision: all are from the future".to_owned(),
        };
        return vec![Cause::NoBackup.problem(message, advice)];
    }
    let status = OriginStatus::of(origin, facts.last_pull, revisions, facts.now);
    let mut old = age::overdue(revisions, config, &[], facts.now);
    if let Some(old) = &mut old {
        let advice = "find out why the origin makes no backups, or why they were not pulled";
        old.advice = advice.to_owned();
    }
    status.problem(facts.now).into_iter().chain(old).collect()
}

/// The operation that holds the lock has made no progress for `stall`.
pub(crate) fn stuck(
    holder: Option<&str>,
    progress: Option<Timestamp>,
    now: Timestamp,
    stall: Duration,
) -> Option<Problem> {
    let (holder, progress) = (holder?, progress?);
    let silent = Duration::try_from(now.duration_since(progress)).ok()?;
    if silent < stall {
        return None;
    }
    let age = age_of(progress, now);
    let message = format!("no progress for {age} of what holds the lock: {holder}");
    let advice = "find out what that process waits for, such as a disk, a network file system or a hook; ending it \
                  loses no revision";
    Some(Cause::Stuck.problem(message, advice))
}

/// Backups fail without a trace, because the archive cannot be written to.
fn unwritable(facts: &Facts<'_>) -> Option<Problem> {
    let config: &Config = facts.config.ok().filter(|config| is_filled(config))?;
    let why = facts.unwritable?;
    let is_past = |due: &Timestamp| *due <= facts.now;
    let tags = tags(&facts.past(), config, facts.now);
    let due = tags.iter().filter_map(|tag| tag.due_at.filter(is_past)).min();
    let due = due.map_or_else(String::new, |due| format!("; one has been due since {due}"));
    let what = if config.origin.is_some() { "pulls" } else { "backups" };
    let message = format!("the archive is not writable, so {what} fail: {why}{due}");
    let advice = "look for the reason in the kernel log (dmesg), then make it writable again";
    Some(Cause::Unwritable.problem(message, advice))
}

fn failed<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Problem> + 'a {
    facts.failures.iter().map(|run| {
        let why = run.error.as_deref().unwrap_or("history.jsonl has no reason");
        let mut short: String = why.chars().take(MAX_ERROR_CHARS).collect();
        if short.len() < why.len() {
            short.push('…');
        }
        let (operation, age) = (&run.operation, age_of(run.finished, facts.now));
        Cause::Failed.problem(
            format!("the last {operation} failed {age} ago: {short}"),
            format!("correct that, then run 'backy {operation}'"),
        )
    })
}

fn interrupted(facts: &Facts<'_>) -> Option<Problem> {
    let operation = facts.manifest.in_progress.as_ref();
    let operation =
        operation.filter(|_| facts.lock_holder.is_none() && facts.mismatch.is_none())?;
    let is_copy = facts.config.is_ok_and(|config| config.origin.is_some());
    let what = match operation.operation {
        Operation::Backup if is_copy => PULL,
        Operation::Backup => "backup",
        Operation::Remove | Operation::Merge => "maintenance",
    };
    let message = format!("the {what} started at {} was interrupted", operation.started);
    let next = if is_copy { PULL } else { "backup" };
    let advice = format!("run 'backy {next}', which recovers by itself");
    Some(Cause::Interrupted.problem(message, advice))
}

fn exposed(facts: &Facts<'_>) -> Option<Problem> {
    let advice = "see 'chown' and 'chmod go-w'; a file system without permissions can be mounted with umask=077, or \
                  accepted with accept_no_permissions in backy.toml";
    Some(Cause::Exposed.problem(facts.exposed?, advice))
}

/// Nothing can be said until the right manifest is in place: the advice of other problems would be wrong.
fn mismatch(facts: &Facts<'_>) -> Option<Problem> {
    let advice = "until then backy makes no backup and changes nothing";
    let message = facts.mismatch?;
    Some(Cause::Mismatch.problem(message, advice))
}

fn unknown(facts: &Facts<'_>) -> Option<Problem> {
    let first = facts.unknown.first().filter(|_| facts.mismatch.is_none())?;
    let message = match facts.unknown.len() {
        1 => format!("{first} is not a file of this archive"),
        count => {
            format!("{first} and {} more are not files of this archive", count - 1)
        }
    };
    let advice = "find out where it comes from; backy never deletes it; delete it yourself if nobody needs it";
    Some(Cause::UnknownFile.problem(message, advice))
}

/// Far more revisions stay than the schedule keeps, apparently by accident.
fn too_many(facts: &Facts<'_>) -> Option<Problem> {
    let schedule = &facts.config.ok()?.schedule;
    let message = excess(&facts.manifest.revisions, schedule, Pins::OfSchedule)?;
    let advice =
        "remove unneeded tags with 'backy tag REV -TAG'; 'backy maintenance -n' shows why for each";
    Some(Cause::Excess.problem(message, advice))
}

fn missing<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Problem> + 'a {
    let advice = "bring it back from a copy of the archive";
    let missing = facts.missing.iter().filter(|_| facts.mismatch.is_none());
    missing.map(move |message| Cause::MissingFile.problem(message.as_str(), advice))
}

/// The image is not the file that backy left: only a comparison can show whether it is still right.
fn replaced(facts: &Facts<'_>) -> Option<Problem> {
    let message = facts.replaced.filter(|_| facts.mismatch.is_none())?;
    let advice = "run 'backy scrub', which verifies all of it; the next backup does so, too";
    Some(Cause::ReplacedImage.problem(message, advice))
}

/// Revisions were lost when the manifest was rebuilt.
fn set_aside(facts: &Facts<'_>) -> Option<Problem> {
    let first = facts.set_aside.first()?;
    let more = match facts.set_aside.len() {
        1 => String::new(),
        count => format!(" and {} more files", count - 1),
    };
    let message = format!("a rebuild could not use {first}{more}: their data is in no revision");
    let advice = "bring the missing files back from a copy of the archive and run 'backy scrub --rebuild --force', or \
                  delete these to confirm the loss";
    Some(Cause::SetAside.problem(message, advice))
}

fn damage(facts: &Facts<'_>, limits: &Monitoring) -> Option<Problem> {
    let damaged = facts.bad_blocks.iter().filter(|&&count| count > 0).count();
    if damaged == 0 {
        return None;
    }
    let mut message = match facts.bad_blocks.len() {
        1 => "the only revision has damaged blocks".to_owned(),
        all => format!("{damaged} of {all} revisions have damaged blocks"),
    };
    if facts.mismatch.is_some() {
        let advice = "check again when the manifest and the files belong together";
        return Some(Cause::Damage.problem(message, advice));
    }
    if facts.manifest.is_undo() {
        let message = "the undo archive has damaged blocks";
        let advice =
            "run 'backy scrub' to see which; 'backy restore --keep-going' brings back the others";
        return Some(Cause::Damage.problem(message, advice));
    }
    let cause = if is_known(facts) { Cause::KnownDamage } else { Cause::Damage };
    if cause == Cause::KnownDamage {
        message += "; confirmed";
    }
    let mut advice = "run 'backy scrub', which lists them and repairs what it can".to_owned();
    if facts.bad_blocks.first().is_some_and(|&newest| newest > 0) {
        advice += "; the next backup repairs the newest";
    }
    if is_frozen(facts, limits, ProblemKind::Damage) {
        advice += "; nothing expires until then, or until 'backy maintenance --confirm'";
    }
    Some(cause.problem(message, advice))
}

/// Whether the user confirmed this number of lost blocks in each revision.
fn is_known(facts: &Facts<'_>) -> bool {
    let confirmed = facts.manifest.confirmed_damage();
    let mut counts = facts.manifest.revisions.iter().zip(facts.bad_blocks);
    counts.all(|(revision, &count)| confirmed.get(&revision.uuid).copied().unwrap_or(0) >= count)
}

/// Damage to files that a scrub found and could not repair, other than single blocks.
fn flaws(facts: &Facts<'_>, limits: &Monitoring) -> Option<Problem> {
    let revisions = || facts.manifest.revisions.iter().enumerate();
    let flawed = || revisions().filter(|(_, revision)| !revision.flaws.is_empty());
    let open =
        flawed().find_map(|(number, revision)| Some((number, revision.open_flaws().next()?)));
    let first = flawed().find_map(|(number, revision)| Some((number, revision.flaws.first()?)));
    let (number, flaw) = open.or(first)?;
    let more = match flawed().count() {
        1 => String::new(),
        count => format!(" ({} more revisions have damaged files)", count - 1),
    };
    let message =
        format!("revision {number} has a damaged file: {}: {}{more}", flaw.file, flaw.message);
    let mut advice = "restore the file from a copy of the archive and run 'backy scrub'".to_owned();
    if is_frozen(facts, limits, ProblemKind::Damage) {
        advice += "; nothing expires until then, or until 'backy maintenance --confirm'";
    }
    let cause = if open.is_some() { Cause::Damage } else { Cause::KnownDamage };
    Some(cause.problem(message, advice))
}

fn is_frozen(facts: &Facts<'_>, limits: &Monitoring, kind: ProblemKind) -> bool {
    let by = |freeze: &Freeze| freeze.kind == kind;
    limits.freeze && freezes(facts.manifest, facts.bad_blocks).iter().any(by)
}

fn drill(facts: &Facts<'_>, limits: &Monitoring) -> Option<Problem> {
    let last = facts.manifest.drill.as_ref();
    if let Some(drill) = last.filter(|drill| !drill.passed) {
        let message = format!("the last drill failed: {}", drill.message);
        let advice = format!("run 'backy scrub', then 'backy drill -r {}' again", drill.revision);
        return Some(Cause::DrillFailed.problem(message, advice));
    }
    let limit = limits.drill_within?;
    let since = match last {
        Some(drill) => drill.started,
        None => facts.manifest.revisions.last()?.finished,
    };
    if facts.now.duration_since(since) <= limit {
        return None;
    }
    let message = match last {
        Some(drill) => {
            format!("the last drill was {} ago", age_of(drill.started, facts.now))
        }
        None => "there has been no drill yet".to_owned(),
    };
    let wanted = display_age(limit.as_secs());
    let message = format!("{message}; backy.toml asks for one every {wanted}");
    Some(Cause::DrillMissed.problem(message, "run 'backy drill'"))
}

fn unchecked(facts: &Facts<'_>, limits: &Monitoring) -> Option<Problem> {
    let since = unchecked_since(facts.manifest)?;
    if facts.now.duration_since(since) <= limits.scrub_within {
        return None;
    }
    let never = facts.manifest.revisions.iter().all(|revision| revision.read_at().next().is_none());
    let age = age_of(since, facts.now);
    let message = match never {
        true => format!("stored data has never been verified, for {age}"),
        false => format!("some stored data has not been verified for {age}"),
    };
    let advice = "run 'backy scrub' regularly, or with a larger --budget";
    Some(Cause::Scrub.problem(message, advice))
}

/// The largest number of deltas that reading a revision goes through.
pub(crate) fn chain_length(revisions: &[Revision]) -> u32 {
    let (mut longest, mut length) = (0, 0);
    for revision in revisions.iter().skip(1) {
        length = if revision.is_standalone() { 0 } else { length + 1 };
        longest = longest.max(length);
    }
    longest
}

/// A chain with more deltas than this is too long.
pub(crate) fn long_chain(config: Option<&Config>) -> u32 {
    let wanted = config.and_then(|config| config.max_chain);
    let set = config.and_then(|config| config.monitoring.long_chain);
    let patient = wanted.map(|wanted| wanted.saturating_add(CHAIN_PATIENCE));
    set.or(patient).unwrap_or(LONG_CHAIN)
}

fn chain(facts: &Facts<'_>, _limits: &Monitoring) -> Option<Problem> {
    let config = facts.config.ok();
    let (found, limit) = (chain_length(&facts.manifest.revisions), long_chain(config));
    if found <= limit {
        return None;
    }
    let advice = match config.and_then(|config| config.max_chain) {
        Some(_) => "find out why 'backy maintenance' does not run or fails",
        None => {
            "set max_chain in backy.toml, or keep fewer revisions, and run 'backy maintenance'; or raise long_chain"
        }
    };
    let message = format!("the longest chain has {found} deltas, more than {limit}");
    Some(Cause::Chain.problem(message, advice))
}

fn free_space(facts: &Facts<'_>, limits: &Monitoring) -> Option<Problem> {
    let found = facts.space?;
    let free = display_size(found.free_bytes);
    let percent = |share: u32| u128::from(found.size_bytes) * u128::from(share);
    let is_below = |of: u128| u128::from(found.free_bytes) * 100 < of;
    let least = percent(limits.min_free_percent);
    let full_in = found.full_at.map(|time| time.duration_since(facts.now));
    let by_time = full_in.and_then(|time| space::cause(time, limits.full_within));
    let by_share = match () {
        () if is_below(least / u128::from(space::CRITICAL_PART)) => Some(Cause::LastSpace),
        () if is_below(least) => Some(Cause::Space),
        () => None,
    };
    let cause = by_time.max(by_share)?;
    let message = match full_in.filter(|time| *time <= limits.full_within) {
        Some(time) => format!(
            "the file system will be full in {}: {free} free, and the archive grows by {} a day",
            display_age(time.as_secs()),
            display_size(found.growth_bytes_per_day.unwrap_or(0).unsigned_abs())
        ),
        None => {
            let share = u128::from(found.free_bytes) * 100 / u128::from(found.size_bytes.max(1));
            format!("little space: {free} of {} free, {share} %", display_size(found.size_bytes))
        }
    };
    let advice =
        "free some space, keep fewer revisions in backy.toml, or delete some with 'backy rm'";
    Some(cause.problem(message, advice))
}

fn unusual(facts: &Facts<'_>, limits: &Monitoring) -> Option<Problem> {
    let alarms = freezes(facts.manifest, facts.bad_blocks);
    let mut alarms = alarms.into_iter().filter(|freeze| freeze.kind == ProblemKind::UnusualChange);
    let first = alarms.next()?;
    let message = match alarms.count() {
        0 => first.message,
        more => format!("{} ({more} more like it)", first.message),
    };
    let nothing_expires = if limits.freeze { "; nothing expires until then" } else { "" };
    let advice = format!(
        "find out what changed the source, and check the previous revision; if all is in order, run \
         'backy maintenance --confirm'{nothing_expires}"
    );
    Some(Cause::UnusualChange.problem(message, advice))
}

#[cfg(test)]
mod tests;
