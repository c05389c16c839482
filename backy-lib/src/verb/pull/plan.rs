//! Which revisions of an origin to pull, and which not: a pure function of what both sides have.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::PullOptions;
use crate::base::error::{Error, Result};
use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::{Manifest, Revision};
use crate::origin::{Listing, Offered};
use crate::policy::config::Interval;
use crate::policy::retention::{Rule, retention};

/// What a pull would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullPlan {
    /// The origin.
    pub origin: String,
    /// The revisions to pull, oldest first.
    pub pull: Vec<Wanted>,
    /// How many revisions of the origin this archive has already.
    pub present: usize,
    /// Revisions that this archive does not have, and does not pull, oldest first.
    pub left_out: Vec<LeftOut>,
    /// What else somebody should know, as sentences.
    pub notes: Vec<String>,
}

/// A revision to pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Wanted {
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// Exact size in bytes.
    pub size_bytes: u64,
}

/// A revision that is not pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// The reason.
    pub why: String,
    /// Whether somebody asked for this revision, so that something is missing without it.
    pub requested: bool,
}

impl LeftOut {
    pub(super) fn new(revision: &Offered, why: String, requested: bool) -> Self {
        LeftOut { uuid: revision.uuid, started: revision.started, why, requested }
    }
}

/// What both sides have, and the schedule of the copy.
pub(super) struct Sides<'a> {
    /// The name of the origin.
    pub origin: &'a str,
    pub listing: &'a Listing,
    pub manifest: &'a Manifest,
    pub schedule: &'a BTreeMap<Tag, Interval>,
    pub now: Timestamp,
}

/// What to pull.
///
/// # Errors
/// [`Error::Specification`] if the block sizes differ; [`Error::Source`] if both sides have different content under
/// one name; [`Error::NoSuchRevision`] if the origin lacks a revision that was asked for.
pub(super) fn plan(sides: &Sides<'_>, options: &PullOptions) -> Result<PullPlan> {
    let Sides { origin, listing, manifest, .. } = *sides;
    check_same(sides)?;
    let offered: Vec<Revision> = listing.revisions.iter().map(Offered::as_revision).collect();
    let asked_for = options.revisions.as_ref().map(|spec| spec.resolve(&offered)).transpose()?;
    let asked_for: Option<HashSet<RevisionId>> = asked_for.map(|ids| ids.into_iter().collect());
    let is_chosen = |id: RevisionId| asked_for.as_ref().is_none_or(|ids| ids.contains(&id));
    let is_here = |revision: &&Offered| manifest.revision(revision.uuid).is_some();
    let mut left_out = Vec::new();
    let mut wanted = Vec::new();
    let missing = listing.revisions.iter().enumerate().filter(|(_, revision)| !is_here(revision));
    for (number, revision) in missing.filter(|(_, revision)| is_chosen(revision.uuid)) {
        match sides.is_newer(number, revision) {
            true => wanted.push(revision),
            false => {
                let why = "older than the newest revision here".to_owned();
                left_out.push(LeftOut::new(revision, why, asked_for.is_some()));
            }
        }
    }
    if asked_for.is_none() {
        let expired = sides.would_expire(&wanted);
        wanted.retain(|revision| match expired.get(&revision.uuid) {
            None => true,
            Some(why) => {
                let why = format!("the schedule here would let it expire at once: {why}");
                left_out.push(LeftOut::new(revision, why, false));
                false
            }
        });
    }
    wanted.reverse();
    left_out.sort_by_key(|left_out| left_out.started);
    let wanted = wanted.iter().map(|revision| Wanted {
        uuid: revision.uuid,
        started: revision.started,
        size_bytes: revision.size_bytes,
    });
    Ok(PullPlan {
        origin: origin.to_owned(),
        pull: wanted.collect(),
        present: listing.revisions.iter().filter(is_here).count(),
        left_out,
        notes: sides.is_behind().into_iter().collect(),
    })
}

/// Checks that revisions of the same name are the same, and that a name means one revision.
fn check_same(sides: &Sides<'_>) -> Result<()> {
    let Sides { origin, listing, manifest, .. } = sides;
    let (theirs, own) = (listing.block_size, manifest.block_size);
    if theirs != own {
        let message = format!(
            "{origin}: its blocks have {} bytes, those of this archive {}; expected the same size: pull into a new \
             folder",
            theirs.bytes(),
            own.bytes()
        );
        return Err(Error::Specification { message });
    }
    let error = |message| Err(Error::Source { path: origin.into(), message });
    let mut names = HashSet::new();
    for revision in &listing.revisions {
        let (uuid, found) = (revision.uuid, revision.digest);
        if !names.insert(uuid) {
            return error(format!("it lists revision {uuid} twice, expected each name once"));
        }
        let Some(known) = manifest.revision(uuid) else { continue };
        if (known.digest, known.size_bytes) != (found, revision.size_bytes) {
            return error(format!(
                "revision {uuid} is another one there: found digest {found}, expected {} as it is here; nothing was \
                 pulled; find out which of the two was changed",
                known.digest
            ));
        }
    }
    Ok(())
}

impl Sides<'_> {
    /// Whether a revision of the origin is newer than the newest one here. The order of the origin decides, not the
    /// clock, as long as the origin has that one; else times do, unless the time of the newest here is in the future.
    fn is_newer(&self, number: usize, revision: &Offered) -> bool {
        let place = |id: RevisionId| self.listing.revisions.iter().position(|r| r.uuid == id);
        let Some(newest) = self.manifest.revisions.first() else { return true };
        if let Some(common) = place(newest.uuid) {
            return number < common;
        }
        let common = self.manifest.revisions.iter().find_map(|own| place(own.uuid));
        let is_after = revision.started >= newest.started || newest.started > self.now;
        common.is_none_or(|common| number < common) && is_after
    }

    /// Those of the wanted revisions, newest first, that the schedule here would not keep, and why. Times from the
    /// future expire nothing, and the newest revision always stays.
    fn would_expire(&self, wanted: &[&Offered]) -> BTreeMap<RevisionId, String> {
        let wanted = wanted.iter().map(|revision| revision.as_revision());
        let then = wanted.chain(self.manifest.revisions.iter().cloned());
        let then: Vec<Revision> = then.filter(|revision| revision.started <= self.now).collect();
        let here = self.manifest.revisions.iter();
        let here = here.filter(|r| !r.findings.bad_blocks.is_empty() || !r.flaws.is_empty());
        let there = self.listing.revisions.iter().filter(|r| !r.bad_blocks.is_empty());
        let damaged = here.map(|r| r.uuid).chain(there.map(|r| r.uuid)).collect();
        let newest = self.listing.revisions.first().map(|newest| newest.uuid);
        let verdicts = retention(&then, &damaged, &Rule::Schedule(self.schedule));
        let expired = verdicts.into_iter().filter(|verdict| !verdict.keep);
        let expired = expired.filter(|verdict| Some(verdict.uuid) != newest);
        expired.map(|verdict| (verdict.uuid, verdict.reason)).collect()
    }

    /// A sentence if the newest revision of the origin is older than the newest one here.
    fn is_behind(&self) -> Option<String> {
        let (newest, theirs) = (self.manifest.revisions.first()?, self.listing.revisions.first()?);
        let is_behind = newest.uuid != theirs.uuid
            && (self.manifest.revision(theirs.uuid).is_some() || !self.is_newer(0, theirs));
        is_behind.then(|| {
            format!(
                "the newest revision of {} is of {}, that of this archive of {}: it was set back, or is not the \
                 origin of this archive",
                self.origin, theirs.started, newest.started
            )
        })
    }
}
