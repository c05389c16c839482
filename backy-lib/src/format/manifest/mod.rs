//! `manifest.json`: the revisions, and what is under way. Replacing it is the commit of every operation.
//!
//! Pretty-printed JSON for people, guarded by a checksum over its own text: SHA-256 of the file with the 64
//! digits of `checksum` as zeros. Fields that this program does not know survive a rewrite, at every depth.
//!
//! Nothing is written that could not be read again: if the text would be too long, it is shortened where that costs
//! no revision and hides no damage.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

mod alarm;
mod bookmark;
mod bounded;
mod check;
mod findings;
mod flaw;
mod names;
mod revision;
mod series;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod unknown;
pub(crate) mod verified;

pub(crate) use crate::base::block_ranges::Ranges;
use crate::base::digest::Digest;
use crate::base::mark::{ArchiveId, MarkName};
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::name::{FileName, StagingToken};

pub use crate::base::block_ranges::{BlockRange, BlockRanges};
pub use alarm::{Alarm, KnownDamage, Unreported};
pub use bookmark::{Bookmark, Hints};
pub use findings::Findings;
pub use flaw::Flaw;
pub use revision::{Revision, Statistics};
pub use series::Series;
pub use source::{Sameness, SourceIdentity};
pub use unknown::{UNKNOWN_LIMIT_BYTES, UNKNOWN_LIMIT_DEPTH, Unknown};
pub use verified::Verified;

use check::{Needs, check_text, json_flaw};
use unknown::keeps_unknown;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// A longer manifest is not read.
pub const MANIFEST_LIMIT_BYTES: u64 = 64 << 20;

/// A longer manifest has no space for one more revision with the most tags and the longest description of its source.
pub const MANIFEST_FULL_BYTES: u64 = MANIFEST_LIMIT_BYTES - (64 << 10);

/// Incompatible feature: an older revision may be standalone, so that the chain is in several pieces.
const STANDALONE: &str = "standalone";

/// Compatible feature: an undo archive, see [`Manifest::is_undo`].
const UNDO: &str = "undo";

/// Incompatible features that this program knows.
const KNOWN_INCOMPATIBLE: [&str; 1] = [STANDALONE];

/// More tags do not fit into the header of a digest file.
pub const MAX_TAGS: usize = 24;

const CHECKSUM_KEY: &str = "\"checksum\": \"";
const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Manifest {
    checksum: String,
    format: u32,
    #[serde(deserialize_with = "bounded::features")]
    incompatible: Vec<String>,
    #[serde(deserialize_with = "bounded::features")]
    compatible: Vec<String>,
    /// Block size of the archive, in bytes.
    pub block_size: BlockSize,
    /// What was backed up last.
    pub source: Option<SourceIdentity>,
    /// The operation that is under way, or was interrupted.
    pub in_progress: Option<InProgress>,
    /// Newest first. The image of the first one is `last.raw`; each of the others is a delta on the previous one in
    /// this list, or standalone.
    pub revisions: Vec<Revision>,
    /// The last test restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillReport>,
    /// Deltas and digest files that a rebuild could not place: kept until somebody deletes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "names::set_aside")]
    pub set_aside: Vec<FileName>,
    /// Files that backy has made, or is going to make, and that no revision needs: the next writer deletes them.
    /// Reading the manifest removes files from this list that it names elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "names::removable")]
    pub removable: Vec<FileName>,
    /// The identity of the file `last.raw` when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_file: Option<ImageFile>,
    /// The part of the name under which a manifest is written before it replaces this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    staging: Option<String>,
    /// Revisions in which unusually much has changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// Damage that somebody has confirmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_damage: Vec<KnownDamage>,
    /// When the series of each scheduled tag began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
    /// Says that `pull.spool` is ours, if there is such a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<Spool>,
    /// What the marks at the source are named after. An archive gets it with its first mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveId>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

/// What has arrived of a revision that is not complete yet: the next pull need not ask for it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Spool {
    /// The revision. Once this archive has it, nobody needs the file any more.
    pub revision: RevisionId,
    /// When the last pull of it began.
    pub started: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Spool {
    /// For a pull of this revision that begins now.
    pub fn new(revision: RevisionId, started: Timestamp) -> Self {
        Spool { revision, started, unknown: Unknown::new() }
    }
}

/// Distinguishes `last.raw` from a file that was put in its place: any change of a file changes its time, and a copy
/// gets a new one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct ImageFile {
    /// When its content was last changed, by the file system's time. Its length is that of the newest revision.
    pub modified: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl ImageFile {
    /// The identity of an image that was changed at this time.
    pub fn new(modified: Timestamp) -> Self {
        ImageFile { modified, unknown: Unknown::new() }
    }
}

/// An operation that has begun and is not committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    /// The operation.
    pub operation: Operation,
    /// The revision that a backup makes, that is being deleted, or whose delta gets more blocks.
    pub revision: RevisionId,
    /// When it began.
    pub started: Timestamp,
}

impl InProgress {
    /// Whether it writes to `last.raw`, or replaces it.
    pub(crate) fn changes_image(&self) -> bool {
        match self.operation {
            Operation::Backup | Operation::Remove => true,
            Operation::Merge => false,
        }
    }
}

/// The result of a test restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct DrillReport {
    /// The revision.
    pub revision: RevisionId,
    /// When it began.
    pub started: Timestamp,
    /// Time that reading or restoring took, without the command.
    pub seconds: f64,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Bytes that were read and checked; zero blocks are not read.
    pub read_bytes: u64,
    /// Bytes read per second.
    pub bytes_per_second: u64,
    /// The program that was run on it.
    #[serde(default, deserialize_with = "program_alone")]
    pub command: Option<String>,
    /// Whether every byte was right and the command succeeded.
    pub passed: bool,
    /// One sentence.
    pub message: String,
    /// Fields of newer programs.
    #[serde(flatten, skip_deserializing)]
    pub unknown: Unknown,
}

impl DrillReport {
    /// Whether nothing more need be reported about `failed`, an earlier drill: this one failed as well, or proves
    /// that the revision is now right.
    pub(crate) fn settles(&self, failed: &DrillReport) -> bool {
        let ran_as_much = self.command.is_some() || failed.command.is_none();
        !self.passed || self.revision == failed.revision && ran_as_much
    }
}

/// Earlier versions wrote the whole command, with any secrets in it: nothing shows these any more, and the next
/// manifest is written without them.
fn program_alone<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<String>, D::Error> {
    let command = Option::<String>::deserialize(from)?;
    Ok(command.map(|command| command.split(' ').next().unwrap_or_default().to_owned()))
}

/// Operations that leave something to undo if they are interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A backup.
    Backup,
    /// Deletes the newest revision: the image returns to the previous one, as when a backup is undone.
    Remove,
    /// Appends blocks to a delta, which reads the same afterwards.
    Merge,
}

keeps_unknown!(Manifest, Spool, ImageFile, DrillReport);

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestFlaw {
    /// It differs from what was written; a sentence with place, found and expected.
    Damaged(String),
    /// It needs a newer program; says in what respect.
    Unsupported(String),
}

impl Manifest {
    /// The manifest of a new archive.
    pub fn new(block_size: BlockSize) -> Self {
        Manifest {
            checksum: NO_CHECKSUM.to_owned(),
            format: FORMAT,
            incompatible: Vec::new(),
            compatible: Vec::new(),
            block_size,
            source: None,
            in_progress: None,
            revisions: Vec::new(),
            drill: None,
            set_aside: Vec::new(),
            removable: Vec::new(),
            image_file: None,
            staging: None,
            alarms: Vec::new(),
            known_damage: Vec::new(),
            series: Vec::new(),
            spool: None,
            archive: None,
            unknown: Unknown::new(),
        }
    }

    /// Reads a manifest and checks that it makes sense.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestFlaw> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            ManifestFlaw::Damaged(format!("text: found {error}, expected UTF-8"))
        })?;
        // Features first: a newer format may do anything with the rest.
        let needs: Needs = serde_json::from_str(text).map_err(json_flaw)?;
        needs.check()?;
        check_text(text)?;
        let manifest: Manifest = serde_json::from_str(text).map_err(json_flaw)?;
        manifest.check().map_err(ManifestFlaw::Damaged)?;
        Ok(manifest.without_named_removable())
    }

    /// The file's content. If it would be longer than [`MANIFEST_FULL_BYTES`], omits the oldest dates of
    /// verification. If that is not enough, joins the closest ranges of bad blocks, with the good ones between them.
    /// It may still be too long.
    ///
    /// # Errors
    /// A sentence when a value has no JSON form.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let staging = Some(self.staging_token().to_string());
        let checksum = NO_CHECKSUM.to_owned();
        let mut blank = Manifest { checksum, staging, ..self.clone() }.without_named_removable();
        blank.incompatible.retain(|feature| feature != STANDALONE);
        if blank.revisions.iter().any(Revision::is_standalone) {
            blank.incompatible.push(STANDALONE.to_owned());
        }
        let mut text = text::pretty(&blank)?;
        while text.len() as u64 > MANIFEST_FULL_BYTES && blank.shorten() {
            text = text::pretty(&blank)?;
        }
        let checksum = Digest::of(text.as_bytes()).to_string();
        // `checksum` is the first field, so that the first run of zeros in the file is its own.
        Ok(text.replacen(NO_CHECKSUM, &checksum, 1).into_bytes())
    }

    /// Leaves out half of what is dispensable; returns whether there was anything.
    fn shorten(&mut self) -> bool {
        let dates = self.revisions.iter().flat_map(|revision| &revision.verified);
        let mut dates: Vec<Timestamp> = dates.map(|verified| verified.at).collect();
        dates.sort_unstable();
        if let Some(&middle) = dates.get(dates.len() / 2) {
            for revision in &mut self.revisions {
                revision.verified.retain(|verified| verified.at > middle);
            }
            return true;
        }
        let ranges = |revision: &Revision| revision.findings.bad_blocks.len().saturating_sub(1);
        let gaps: usize = self.revisions.iter().map(ranges).sum();
        let mut gap = 1_u64;
        let mut left = gaps.div_ceil(2);
        while left > 0 {
            for revision in &mut self.revisions {
                left -= revision.findings.bad_blocks.join(gap, left);
            }
            gap = gap.saturating_mul(2);
        }
        gaps > 0
    }

    /// The checksum of the file that this was read from.
    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// The checksum in the first bytes of a file; it guards the whole file.
    pub fn checksum_at_start(start: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(start);
        let (_, rest) = text.split_once(CHECKSUM_KEY)?;
        Some(rest.get(..NO_CHECKSUM.len())?.to_owned())
    }

    /// The token in the name under which the next manifest is written: the same for the whole life of the archive.
    pub fn staging_token(&self) -> StagingToken {
        let own = self.staging.as_deref().and_then(StagingToken::parse);
        // The manifest of an older program has none; everybody who reads the same manifest derives the same token.
        own.unwrap_or_else(|| match self.checksum == NO_CHECKSUM {
            true => StagingToken::FIRST,
            false => StagingToken::of(&self.checksum),
        })
    }

    /// Gives a new archive a token that no other has.
    pub fn with_staging_token(self, token: StagingToken) -> Self {
        Manifest { staging: Some(token.to_string()), ..self }
    }

    /// The files that belong to an archive with this manifest.
    pub fn named_files(&self) -> BTreeSet<FileName> {
        let mut named = BTreeSet::from([
            FileName::README,
            FileName::CONFIG,
            FileName::MANIFEST,
            FileName::Lock,
            FileName::Reserve,
            FileName::History,
            FileName::OldHistory,
        ]);
        named.extend(&self.set_aside);
        if self.has_spool() {
            named.insert(FileName::Spool);
        }
        for revision in &self.revisions {
            named.extend([revision.file(), revision.digests_file()]);
        }
        named
    }

    /// The name of the mark of a revision at the source; `None` in an archive that never made one.
    pub(crate) fn mark_of(&self, revision: RevisionId) -> Option<MarkName> {
        Some(MarkName { archive: self.archive?, revision })
    }

    /// Whether `pull.spool` is ours and of use for the next pull.
    pub fn has_spool(&self) -> bool {
        self.spool.as_ref().is_some_and(|spool| self.revision(spool.revision).is_none())
    }

    /// Removes names that are needed from the removable files, whatever the list says.
    fn without_named_removable(mut self) -> Self {
        if !self.removable.is_empty() {
            let named = self.named_files();
            self.removable.retain(|name| !named.contains(name));
            self.removable.sort_unstable();
            self.removable.dedup();
        }
        self
    }

    /// Makes this the manifest of an undo archive.
    pub fn mark_as_undo(&mut self) {
        if !self.compatible.iter().any(|feature| feature == UNDO) {
            self.compatible.push(UNDO.to_owned());
        }
    }

    /// Whether `restore --undo` has made this. Its only revision holds what the restore was going to overwrite, and
    /// deliberately nothing else. Earlier versions did not mark such a manifest; it is recognised by its tag and by
    /// what it lacks.
    pub fn is_undo(&self) -> bool {
        let [revision] = self.revisions.as_slice() else { return false };
        let is_marked = self.compatible.iter().any(|feature| feature == UNDO);
        let is_tagged = || {
            let has_tag = revision.pinned_tags.iter().map(Tag::as_str).eq([UNDO]);
            has_tag && revision.tags == revision.pinned_tags
        };
        is_marked || is_tagged() && !revision.findings.bad_blocks.is_empty()
    }

    /// Makes `revision` the newest; the previous newest becomes a delta on it. What is known of the image passes to
    /// `revision`; the caller reports the blocks that have been written with [`Revision::note_rewritten`].
    pub fn push_newest(&mut self, mut revision: Revision) {
        if let Some(newest) = self.revisions.first_mut() {
            newest.image = FileName::Delta(newest.uuid).to_string();
            newest.base = Some(revision.uuid);
            let end = BlockIndex(self.block_size.count(revision.size_bytes));
            revision.verified = std::mem::take(&mut newest.verified);
            revision.rewritten = std::mem::take(&mut newest.rewritten);
            for ranges in [&mut revision.verified, &mut revision.rewritten] {
                ranges.retain_mut(|range| {
                    let first = range.blocks.first;
                    range.blocks = BlockRange::between(first, range.blocks.end().min(end));
                    range.blocks.count > 0
                });
            }
        }
        self.revisions.insert(0, revision);
    }

    /// Takes a revision out; one that read through to it now reads through to the next newer one. If it is the
    /// newest, the next older one takes its place.
    pub fn remove(&mut self, id: RevisionId) {
        let Some(number) = self.number_of(id) else { return };
        let removed = self.revisions.remove(number);
        self.forget_alarms_of_gone();
        let newer = self.newer(number).map(|newer| newer.uuid);
        let Some(older) = self.revisions.get_mut(number) else { return };
        if removed.is_image() {
            older.image = removed.image;
            older.base = None;
        } else if older.base == Some(removed.uuid) {
            older.base = newer;
        }
    }

    /// The revision with this name.
    pub fn revision(&self, id: RevisionId) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.uuid == id)
    }

    /// The number of a revision, 0 being the newest: its place in this manifest and in no other.
    pub(crate) fn number_of(&self, id: RevisionId) -> Option<usize> {
        self.revisions.iter().position(|revision| revision.uuid == id)
    }

    /// The next newer revision.
    pub(crate) fn newer(&self, number: usize) -> Option<&Revision> {
        self.revisions.get(number.checked_sub(1)?)
    }
}
