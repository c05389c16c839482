//! `maintenance` and `rm`: what the schedule no longer keeps, or somebody wants gone, goes.
//!
//! A plan is made first, from the manifest, the config and what is known to be damaged; then its steps are executed, each
//! committed by itself with a manifest of its own. What frees room without needing any comes first, and a
//! file kept in reserve gives way when there is none left even for the manifest.

mod request;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::left_overs::{self, sweep};
use crate::archive::moment;
use crate::archive::proof;
use crate::archive::recover::{recover, room};
use crate::archive::reserve;
use crate::base::canary::{Bug, planted};
use crate::base::clock::{Clock, latest};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::limits;
use crate::base::progress::{self, Event, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, display_size};
use crate::format::digests::DigestsHeader;
use crate::format::manifest::{BlockRange, Findings, InProgress, Manifest, Operation, Revision};
use crate::image::chain::Chain;
use crate::image::damage;
use crate::image::digests::DigestWriter;
use crate::policy::config::Config;
use crate::policy::health::{self, Freeze};
use crate::policy::plan::{self, Step};
use crate::policy::retention::{Pins, Rule, Verdict, excess, retention};
use crate::storage::manifest;
use crate::storage::{DigestsKind, FileName, Storage};
use crate::verb::merge::{self, Appended};

pub use request::{MaintenanceRequest, RemovalRequest};

/// How to maintain.
#[derive(Debug, Clone, Default)]
pub struct MaintenanceOptions {
    /// Keep this many of the newest instead of what the schedule says.
    pub keep: Option<u32>,
    /// Confirm first that every alarm and all damage that is known are seen to, so that revisions expire again.
    pub confirm: bool,
    /// Threads that compress; `None` for one a core.
    pub threads: Option<usize>,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MaintenancePlan {
    /// For each revision, newest first, whether it stays, and why.
    pub verdicts: Vec<Verdict>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Bytes on disk that come free; negative when standalone revisions take more.
    pub frees_bytes: i64,
    /// Why nothing expires, although the rule would let it.
    pub frozen: Vec<Freeze>,
    /// Why far more revisions stay than the schedule keeps, as a sentence; null when they do not.
    pub excess: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// The plan, all of which was executed.
    #[serde(flatten)]
    pub plan: MaintenancePlan,
    /// Bytes on disk that came free.
    pub freed_bytes: i64,
    /// What was confirmed before.
    pub confirmed: Vec<Freeze>,
    /// Time that it took.
    pub seconds: f64,
}

/// What the schedule, or a number of revisions to keep, says now.
pub(crate) fn plan(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    config: &Config,
    options: &MaintenanceOptions,
    now: Timestamp,
    observer: &dyn Observer,
) -> Result<MaintenancePlan> {
    let unreadable = damage::unreadable(&**storage, manifest)?;
    let bad_blocks: Vec<u64> = unreadable.iter().map(Findings::bad_block_count).collect();
    let revisions = manifest.revisions.iter().zip(&bad_blocks);
    let damaged = revisions.filter(|&(revision, &bad)| bad > 0 || !revision.flaws.is_empty());
    let damaged = damaged.map(|(revision, _)| revision.uuid);
    let damaged: HashSet<RevisionId> = damaged.collect();
    let frozen = match config.monitoring.freeze && !options.confirm {
        true => health::freezes(&health::as_of(manifest, now).0, &bad_blocks),
        false => Vec::new(),
    };
    let rule = match options.keep {
        Some(keep) => Rule::Newest(keep),
        None => Rule::Schedule(&config.schedule),
    };
    let mut verdicts = retention(&manifest.revisions, &damaged, &rule);
    if !frozen.is_empty() {
        verdicts.iter_mut().for_each(Verdict::freeze);
    }
    let goes = verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.uuid);
    let goes: HashSet<RevisionId> = goes.collect();
    let mut steps = plan::removal(&manifest.revisions, &goes);
    let stay: Vec<Revision> = verdicts
        .iter()
        .zip(&manifest.revisions)
        .filter(|(verdict, _)| verdict.keep)
        .map(|(verdict, revision)| {
            let mut revision = revision.clone();
            revision.tags.retain(|tag| !verdict.expired_tags.contains(tag));
            revision
        })
        .collect();
    steps.extend(plan::standalone(&stay, config));
    let excess = match options.keep {
        Some(_) => None,
        None => excess(&manifest.revisions, &config.schedule, Pins::All),
    };
    let estimated = estimate(storage, manifest, verdicts, steps, observer)?;
    Ok(MaintenancePlan { frozen, excess, ..estimated })
}

/// Takes note that somebody has looked at all alarms and at the damage that is known; whether there was any of it that nobody
/// had. One manifest, so that it is done or not.
pub(crate) fn confirm(
    storage: &dyn Storage,
    manifest: &mut Manifest,
    clock: &dyn Clock,
) -> Result<Vec<Freeze>> {
    let unreadable = damage::unreadable(storage, manifest)?;
    let bad_blocks: Vec<u64> = unreadable.iter().map(Findings::bad_block_count).collect();
    let now = clock.now();
    let known = health::as_of(manifest, now).0;
    let open = health::freezes(&known, &bad_blocks);
    if open.is_empty() {
        return Ok(open);
    }
    let revisions = manifest.revisions.iter().map(|revision| revision.uuid);
    let damage: Vec<(RevisionId, u64)> =
        revisions.zip(bad_blocks).filter(|&(_, bad)| bad > 0).collect();
    let mut after = manifest.clone();
    after.forget_confirmations_after(latest(now));
    after.confirm(&damage, now);
    reserve::publish(storage, &after)?;
    *manifest = after;
    Ok(open)
}

/// The removal of the revisions with these numbers, whatever the schedule says.
///
/// # Errors
/// [`Error::Specification`] when none would be left.
pub(crate) fn plan_removal(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    numbers: &[usize],
    observer: &dyn Observer,
) -> Result<MaintenancePlan> {
    let numbers: HashSet<usize> = numbers.iter().copied().collect();
    let goes = |number: usize| numbers.contains(&number);
    if !manifest.revisions.is_empty() && (0..manifest.revisions.len()).all(goes) {
        let all = match manifest.revisions.len() {
            1 => "this is the only revision".to_owned(),
            count => format!("these are all {count} revisions"),
        };
        let message = format!(
            "{}: {all}, and one has to stay; to be rid of all, remove the folder",
            storage.folder().display()
        );
        return Err(Error::Specification { message });
    }
    let verdict = |(number, revision): (usize, &Revision)| Verdict {
        number,
        uuid: revision.uuid,
        keep: !goes(number),
        reason: if goes(number) { "removed by hand" } else { "not named" }.to_owned(),
        expired_tags: Default::default(),
    };
    let verdicts: Vec<Verdict> = manifest.revisions.iter().enumerate().map(verdict).collect();
    let going = verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.uuid);
    let steps = plan::removal(&manifest.revisions, &going.collect());
    estimate(storage, manifest, verdicts, steps, observer)
}

/// Adds what comes free, and puts the merges that need the least room first.
fn estimate(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    verdicts: Vec<Verdict>,
    steps: Vec<Step>,
    observer: &dyn Observer,
) -> Result<MaintenancePlan> {
    let mut weighed = Vec::new();
    for step in steps {
        progress::check(observer)?;
        let (frees, needs) = weigh(storage, manifest, &step, observer)?;
        let order = match step {
            Step::Remove { .. } => 0,
            Step::Merge { .. } => 1,
            Step::RollBack { .. } => 2,
            Step::Standalone { .. } => 3,
        };
        weighed.push((order, needs, frees - needs, step));
    }
    weighed.sort_by_key(|(order, needs, _, _)| (*order, *needs));
    let frees_bytes = weighed.iter().map(|(_, _, frees, _)| frees).sum();
    let steps = weighed.into_iter().map(|(_, _, _, step)| step).collect();
    Ok(MaintenancePlan { verdicts, steps, frees_bytes, frozen: Vec::new(), excess: None })
}

/// Bytes on disk that a step frees and needs. What cannot be read counts as nothing: executing the step will say so.
fn weigh(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    step: &Step,
    observer: &dyn Observer,
) -> Result<(i64, i64)> {
    let size_of = |ids: &[RevisionId]| {
        let ids: HashSet<&RevisionId> = ids.iter().collect();
        let named = manifest.revisions.iter().filter(|revision| ids.contains(&revision.uuid));
        let files =
            named.flat_map(|revision| [FileName::Delta(revision.uuid), revision.digests_file()]);
        files.map(|file| reserve::allocated_bytes(&**storage, file)).sum::<Result<u64>>()
    };
    let zero_if_damaged = |result: Result<u64>| match result {
        Err(error) if error.is_damage() => Ok(0),
        other => other.map(|bytes| bytes as i64),
    };
    let number = |id: &RevisionId| manifest.revisions.iter().position(|r| r.uuid == *id);
    Ok(match step {
        Step::Remove { revisions } => (zero_if_damaged(size_of(revisions))?, 0),
        Step::Merge { revisions, into } => {
            let needs = merge::needed_bytes(storage, manifest, revisions, *into, observer);
            (zero_if_damaged(size_of(revisions))?, zero_if_damaged(needs)?)
        }
        // The delta of the one that becomes the newest goes; what it holds has to have room in the image.
        Step::RollBack { to, .. } => {
            let needs = room::needed_bytes(&**storage, manifest);
            (zero_if_damaged(size_of(std::slice::from_ref(to)))?, zero_if_damaged(needs)?)
        }
        Step::Standalone { revision, .. } => {
            let needs = match number(revision) {
                Some(number) => merge::standalone_bytes(storage, manifest, number, observer),
                None => Ok(0),
            };
            (0, zero_if_damaged(needs)?)
        }
    })
}

/// The files of an older revision.
fn files_of(id: RevisionId) -> [FileName; 2] {
    [FileName::Delta(id), FileName::Digests(id, DigestsKind::Delta)]
}

/// Executes plans. The archive has been recovered; `manifest` is the one on disk and is kept up to date.
pub(crate) struct Maintainer<'a> {
    pub(crate) storage: &'a Arc<dyn Storage>,
    pub(crate) manifest: &'a mut Manifest,
    pub(crate) level: i32,
    pub(crate) threads: Option<usize>,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) observer: &'a dyn Observer,
}

impl Maintainer<'_> {
    /// Executes a plan step by step.
    ///
    /// # Errors
    /// That of the first step that fails; those before it stay done. A step that fails because stored data is damaged does
    /// not keep the others from being done.
    pub(crate) fn execute(&mut self, plan: MaintenancePlan) -> Result<MaintenanceReport> {
        let clock = Instant::now();
        let before = self.allocated_bytes()?;
        for verdict in &plan.verdicts {
            let named = self.manifest.revisions.iter_mut().find(|r| r.uuid == verdict.uuid);
            if let Some(revision) = named.filter(|_| verdict.keep) {
                revision.tags.retain(|tag| !verdict.expired_tags.contains(tag));
            }
        }
        let expired = plan.verdicts.iter().any(|v| v.keep && !v.expired_tags.is_empty());
        if expired && plan.steps.is_empty() {
            reserve::publish(&**self.storage, self.manifest)?;
        }
        let mut damage = None;
        for step in &plan.steps {
            progress::check(self.observer)?;
            match self.step(step) {
                Err(error) if error.is_damage() && self.manifest.in_progress.is_none() => {
                    damage.get_or_insert(error);
                }
                done => done?,
            }
        }
        if let Some(error) = damage {
            return Err(error);
        }
        let freed_bytes = before as i64 - self.allocated_bytes()? as i64;
        let (confirmed, seconds) = (Vec::new(), clock.elapsed().as_secs_f64());
        Ok(MaintenanceReport { plan, freed_bytes, confirmed, seconds })
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        plan::check(step, &self.manifest.revisions)?;
        match step {
            Step::Remove { revisions } => self.commit_without(revisions),
            Step::Merge { revisions, into } => self.merge(revisions, *into),
            Step::RollBack { .. } => self.roll_back(),
            Step::Standalone { revision, .. } => self.make_standalone(*revision),
        }
    }

    /// Commits what has been done, takes revisions out of the manifest, then removes their files.
    fn commit_without(&mut self, ids: &[RevisionId]) -> Result<()> {
        self.commit(self.without(ids, None), ids)
    }

    /// The same while an operation is under way that cannot be undone for want of room: nothing reads through to these revisions,
    /// and undoing it needs none of them.
    pub(crate) fn remove_oldest(&mut self, ids: &[RevisionId]) -> Result<()> {
        plan::check(&Step::Remove { revisions: ids.to_vec() }, &self.manifest.revisions)?;
        let under_way = self.manifest.in_progress.clone();
        let under_way = under_way.filter(|operation| !ids.contains(&operation.revision));
        self.commit(self.without(ids, under_way), ids)
    }

    /// The manifest without revisions.
    fn without(&self, ids: &[RevisionId], under_way: Option<InProgress>) -> Manifest {
        let mut after = self.manifest.clone();
        after.in_progress = under_way;
        for id in ids {
            if let Some(number) = after.revisions.iter().position(|r| r.uuid == *id) {
                after.remove(number);
            }
            after.removable.extend(files_of(*id));
        }
        after
    }

    fn commit(&mut self, after: Manifest, ids: &[RevisionId]) -> Result<()> {
        if planted(Bug::FilesFirst) {
            self.remove_files(ids)?;
        }
        reserve::publish(&**self.storage, &after)?;
        *self.manifest = after;
        self.remove_files(ids)
    }

    fn remove_files(&self, ids: &[RevisionId]) -> Result<()> {
        for id in ids {
            for name in files_of(*id) {
                self.storage.remove(name)?;
            }
        }
        Ok(())
    }

    fn merge(&mut self, ids: &[RevisionId], into: RevisionId) -> Result<()> {
        let number = self.number(into)?;
        for id in ids.iter().chain([&into]) {
            self.check_flaws(*id)?;
        }
        let (storage, observer) = (self.storage, self.observer);
        let needed = merge::needed_bytes(storage, self.manifest, ids, into, observer);
        let appended = self.append(into, needed, |this| {
            merge::absorb(this.storage, this.manifest, ids, into, this.observer)
        })?;
        let (lost, is_unproved) = (appended.bad_blocks.len() as u64, appended.is_unproved);
        self.note_appended(number, appended);
        let mut after = self.without(ids, None);
        if is_unproved {
            self.tell_unproved(into, lost);
            if let Some(number) = after.revisions.iter().position(|r| r.uuid == into) {
                proof::accept_older(self.storage, &mut after, number, self.observer)?;
            }
        }
        self.commit(after, ids)
    }

    fn tell_unproved(&self, into: RevisionId, lost: u64) {
        self.observer.event(&Event::Finding(format!(
            "{}: {lost} blocks of revision {into} are lost: a file of a revision that it read through to is missing or damaged",
            self.storage.path(FileName::Delta(into)).display()
        )));
    }

    /// A delta with a flaw may hold more than its tables say: a merge would take it for what it looks like, and delete the
    /// rest. So it waits until somebody has confirmed that.
    fn check_flaws(&self, id: RevisionId) -> Result<()> {
        let number = self.number(id)?;
        let Some(revision) = self.manifest.revisions.get(number) else { return Ok(()) };
        match revision.open_flaws().next() {
            // Of a file that is not there, nothing can be recovered.
            Some(flaw) if self.storage.list()?.contains(&revision.file()) => {
                let path = self.storage.folder().join(&flaw.file);
                Err(Error::flawed(path)(format!(
                    "{}, found {}; a merge would delete what may still be recovered of revision {id}: \
                     'backy maintenance --confirm' allows it",
                    flaw.message, flaw.found
                )))
            }
            _ => Ok(()),
        }
    }

    fn make_standalone(&mut self, id: RevisionId) -> Result<()> {
        let number = self.number(id)?;
        let (level, threads) = (self.level, self.threads);
        let (storage, observer) = (self.storage, self.observer);
        let needed = merge::standalone_bytes(storage, self.manifest, number, observer);
        let appended = self.append(id, needed, |this| {
            let (storage, observer) = (this.storage, this.observer);
            merge::make_standalone(storage, this.manifest, number, level, threads, observer)
        })?;
        self.note_appended(number, appended);
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            revision.base = None;
        }
        self.commit_without(&[])
    }

    fn number(&self, id: RevisionId) -> Result<usize> {
        let number = self.manifest.revisions.iter().position(|revision| revision.uuid == id);
        number.ok_or_else(|| Error::Plan { message: format!("revision {id}: there is none") })
    }

    fn note_appended(&mut self, number: usize, appended: Appended) {
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            let one = |first| BlockRange { first, count: 1 };
            revision.findings.add_all(appended.bad_blocks.into_iter().map(one));
            revision.note_rewritten(appended.blocks);
        }
    }

    /// Lets `append` change the delta of a revision, or undoes that. Does not begin when there is no room, with the reserve,
    /// for as many bytes as are `needed`.
    fn append<T>(
        &mut self,
        revision: RevisionId,
        needed: Result<u64>,
        append: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let bytes = needed?;
        reserve::claim(&**self.storage, bytes)
            .map_err(|error| self.explained(error, revision, bytes))?;
        let started = self.clock.now();
        self.manifest.in_progress =
            Some(InProgress { operation: Operation::Merge, revision, started });
        let published = manifest::publish(&**self.storage, self.manifest);
        let error = match published.and_then(|()| append(self)) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        match recover(self.storage, self.manifest, self.observer) {
            Ok(()) => Err(error),
            Err(second) => Err(Error::UndoFailed { first: error.into(), second: second.into() }),
        }
    }

    /// That there is no room, with what would have to fit.
    fn explained(&self, error: Error, revision: RevisionId, bytes: u64) -> Error {
        if error.kind() != ErrorKind::NoSpace {
            return error;
        }
        let Error::Io { source, .. } = error else { return error };
        let path = self.storage.path(FileName::Delta(revision));
        let bytes = display_size(bytes);
        Error::io(path, format!("append about {bytes} that it reads from newer revisions"))(source)
    }

    /// Makes the next older revision the newest. From the manifest's publishing on this is the undoing of a backup: it goes
    /// on by itself, here or in the next writer.
    fn roll_back(&mut self) -> Result<()> {
        let Some(newest) = self.manifest.revisions.first().map(|newest| newest.uuid) else {
            return Ok(());
        };
        moment::check_image(self.storage, self.manifest, self.observer)?;
        // Undoing writes to holes of the image, and must find room there when it can no longer be called off.
        let room = self.with_reserve(|this| room::make(&**this.storage, this.manifest))?;
        let entered = self.with_reserve(|this| this.enter_digests());
        let after = entered.and_then(|()| self.with_reserve(|this| this.rolled_back()));
        let after = after.inspect_err(|_| {
            // Half of the digests, and the room; what cannot be removed now is removed by the next writer.
            let _ = sweep(&**self.storage, self.manifest);
            room.give_back(&**self.storage);
        })?;
        // When this fails either manifest may be in place, and what the new one needs stays.
        reserve::publish(&**self.storage, &after)?;
        *self.manifest = after;
        self.with_reserve(|this| recover(this.storage, this.manifest, this.observer)).inspect_err(
            |_| {
                let note = format!(
                    "revision {newest} is gone; the image is brought back by the next backup"
                );
                self.observer.event(&Event::Note(note));
            },
        )
    }

    /// Does something that needs little room; on a full disk once more without the reserve.
    fn with_reserve<T>(&mut self, act: impl Fn(&mut Self) -> Result<T>) -> Result<T> {
        match act(self) {
            Err(error)
                if error.kind() == ErrorKind::NoSpace && reserve::release(&**self.storage)? =>
            {
                act(self)
            }
            done => done,
        }
    }

    /// Enters the digest file of the image to be as one that goes if nothing comes of it.
    fn enter_digests(&mut self) -> Result<()> {
        let mut after = self.manifest.clone();
        let Some(older) = self.manifest.revisions.get(1) else { return Ok(()) };
        let name = FileName::Digests(older.uuid, DigestsKind::Image);
        if !after.removable.contains(&name) {
            left_overs::check_vacant(&**self.storage, &[name])?;
            after.removable.push(name);
        }
        manifest::publish(&**self.storage, &after)?;
        *self.manifest = after;
        Ok(())
    }

    /// Writes the digests of the image to be; gives the manifest to be.
    fn rolled_back(&mut self) -> Result<Manifest> {
        let storage = &**self.storage;
        // What it reads from the image can only be told by digests that are right.
        proof::prove_newest(self.storage, self.manifest, self.observer)?;
        let mut after = self.manifest.clone();
        let (Some(newest), Some(older)) =
            (self.manifest.revisions.first(), self.manifest.revisions.get(1))
        else {
            return Ok(after);
        };
        let chain = Chain::open(self.storage, self.manifest, 1)?;
        chain.verify_digests(self.observer)?;
        let kind = DigestsKind::Image;
        storage.remove(FileName::Digests(older.uuid, kind))?;
        let mut digests = DigestWriter::create(storage, older.uuid, kind)?;
        let mut next = BlockIndex(0);
        while let Some(first) = chain.next_data_block(next)? {
            progress::check(self.observer)?;
            let located = chain.locate(first, limits().window_blocks)?;
            next = first.plus(located.len() as u64);
            for (located, block) in located.iter().zip(first.0..) {
                digests.push(BlockIndex(block), located.entry)?;
            }
        }
        digests.finish(&DigestsHeader::new(kind, older, self.manifest.block_size))?;
        storage.sync_folder()?;
        // What is bad in the image stays so where the older revision reads through to it.
        let unreadable = damage::unreadable(storage, self.manifest)?;
        after.remove(0);
        if let (Some(revision), Some(bad)) =
            (after.revisions.first_mut(), unreadable.into_iter().nth(1))
        {
            let count = self.manifest.block_size.count(revision.size_bytes);
            let all = BlockRange { first: BlockIndex(0), count };
            revision.findings.replace(&[all], bad.bad_blocks);
            revision.findings.inherit(&newest.findings);
            revision.forget_verified();
        }
        let (operation, revision) = (Operation::Remove, newest.uuid);
        left_overs::enter(
            &mut after,
            InProgress { operation, revision, started: self.clock.now() },
        );
        Ok(after)
    }

    fn allocated_bytes(&self) -> Result<u64> {
        let files = self.manifest.revisions.iter().flat_map(|r| [r.file(), r.digests_file()]);
        files.map(|file| reserve::allocated_bytes(&**self.storage, file)).sum()
    }
}
