//! `manifest.json`: the revisions, and what is under way. Replacing it is the commit of every operation.
//!
//! Pretty-printed JSON for people, guarded by a checksum over its own text: SHA-256 of the file with the 64
//! digits of `checksum` as zeros. Fields that this program does not know survive a rewrite, at every depth.
//!
//! Nothing is written that could not be read again: what would be too long is made shorter where that costs no revision and
//! hides no damage.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

mod alarm;
mod bounded;
mod findings;
mod flaw;
mod names;
mod ranges;
mod revision;
mod series;
mod source;
mod text;
mod unknown;

use crate::base::digest::Digest;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::name::{FileName, StagingToken};

pub use alarm::{Alarm, KnownDamage};
pub use findings::{BlockRange, Findings, within};
pub use flaw::Flaw;
pub(crate) use ranges::Ranges;
pub use revision::{Revision, Statistics, Verified};
pub use series::Series;
pub use source::{Sameness, SourceIdentity};
pub use unknown::{UNKNOWN_LIMIT_BYTES, UNKNOWN_LIMIT_DEPTH, Unknown};

use unknown::keeps_unknown;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// A manifest that is longer is not read.
pub const MANIFEST_LIMIT_BYTES: u64 = 64 << 20;

/// A manifest that is longer has no room for one more revision, with the most tags and all that is said of its source.
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
    /// The operation that is under way, or was when it was interrupted.
    pub in_progress: Option<InProgress>,
    /// Newest first. The first one's image is `last.raw`; of the others each is a delta on the one before, or standalone.
    pub revisions: Vec<Revision>,
    /// The last test restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillReport>,
    /// Deltas and digest files that a rebuild could make nothing of: kept until somebody removes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "names::set_aside")]
    pub set_aside: Vec<FileName>,
    /// Files that backy has made, or is going to make, and that no revision needs: the next writer deletes them. Those that the
    /// manifest names otherwise are not among them when it is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "names::removable")]
    pub removable: Vec<FileName>,
    /// What the file `last.raw` was when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_file: Option<ImageFile>,
    /// What the name has under which a manifest is written before it takes the place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    staging: Option<String>,
    /// Revisions of which unusually much had changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// Damage that somebody has confirmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_damage: Vec<KnownDamage>,
    /// When the series of scheduled tags began, one for a tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

/// What tells `last.raw` from one that was put in its place: any change of a file changes its time, and a copy gets a new one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct ImageFile {
    /// When its content was last changed, as the file system had it. Its length is that of the newest revision.
    pub modified: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl ImageFile {
    /// One that was changed at this time.
    pub fn new(modified: Timestamp) -> Self {
        ImageFile { modified, unknown: Unknown::new() }
    }
}

/// An operation that has begun and not been committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    /// The operation.
    pub operation: Operation,
    /// The revision that a backup makes, that is removed, or to whose delta blocks are appended.
    pub revision: RevisionId,
    /// When it began.
    pub started: Timestamp,
}

impl InProgress {
    /// Whether it writes to `last.raw`, or puts another file in its place.
    pub(crate) fn changes_image(&self) -> bool {
        match self.operation {
            Operation::Backup | Operation::Remove => true,
            Operation::Merge => false,
        }
    }
}

/// What a test restore found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[non_exhaustive]
pub struct DrillReport {
    /// The revision.
    pub revision: RevisionId,
    /// When it began.
    pub started: Timestamp,
    /// Time that reading or restoring took, without that of a command.
    pub seconds: f64,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Bytes that were read and checked; zero blocks are not read.
    pub read_bytes: u64,
    /// Those a second.
    pub bytes_per_second: u64,
    /// The program that was run on it.
    #[serde(default, deserialize_with = "program_alone")]
    pub command: Option<String>,
    /// Whether every byte came out right, and the command was content.
    pub passed: bool,
    /// One sentence.
    pub message: String,
    /// Fields of newer programs.
    #[serde(flatten, skip_deserializing)]
    pub unknown: Unknown,
}

impl DrillReport {
    /// Whether nothing more need be said of `failed`, a drill before this one: this one failed as well, or proves that it is right now.
    pub(crate) fn settles(&self, failed: &DrillReport) -> bool {
        let ran_as_much = self.command.is_some() || failed.command.is_none();
        !self.passed || self.revision == failed.revision && ran_as_much
    }
}

/// Earlier versions wrote the whole command, with whatever secrets were in it: nobody sees them any more, and the next manifest is
/// written without them.
fn program_alone<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<String>, D::Error> {
    let command = Option::<String>::deserialize(from)?;
    Ok(command.map(|command| command.split(' ').next().unwrap_or_default().to_owned()))
}

/// Operations that leave something to undo when they are interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A backup.
    Backup,
    /// The newest revision is removed: the image goes back to the one before, as when a backup is undone.
    Remove,
    /// Blocks are appended to a delta, without a change of what it reads as.
    Merge,
}

keeps_unknown!(Manifest, ImageFile, DrillReport);

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestFlaw {
    /// It is not as it was written; a sentence with place, found and expected.
    Damaged(String),
    /// It needs a newer program; says what it needs.
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

    /// The file's content. What would be longer than [`MANIFEST_FULL_BYTES`] lacks the oldest dates of verification and, where
    /// that is not enough, has ranges of bad blocks joined with the right ones between those that are closest. It may still be
    /// too long.
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

    /// Leaves half of what can be spared out; whether there was anything.
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
                left -= revision.findings.join(gap, left);
            }
            gap = gap.saturating_mul(2);
        }
        gaps > 0
    }

    /// The checksum of the file that this was read from.
    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// The checksum that is in the first bytes of a file; it guards all of it.
    pub fn checksum_at_start(start: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(start);
        let (_, rest) = text.split_once(CHECKSUM_KEY)?;
        Some(rest.get(..NO_CHECKSUM.len())?.to_owned())
    }

    /// What the name has under which the next manifest is written: the same as long as there is this archive.
    pub fn staging_token(&self) -> StagingToken {
        let own = self.staging.as_deref().and_then(StagingToken::parse);
        // An older program's manifest has none; whoever finds the same manifest finds the same token.
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
        for revision in &self.revisions {
            named.extend([revision.file(), revision.digests_file()]);
        }
        named
    }

    /// A name that is needed is not removable, whatever the list says.
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

    /// Whether this is what `restore --undo` has made: of its only revision the archive holds what the restore was
    /// going to overwrite, and deliberately nothing else. Earlier versions did not mark it; theirs are known by their
    /// tag and by what they lack.
    pub fn is_undo(&self) -> bool {
        let [revision] = self.revisions.as_slice() else { return false };
        let is_marked = self.compatible.iter().any(|feature| feature == UNDO);
        let is_tagged = || {
            let has_tag = revision.pinned_tags.iter().map(Tag::as_str).eq([UNDO]);
            has_tag && revision.tags == revision.pinned_tags
        };
        is_marked || is_tagged() && !revision.findings.bad_blocks.is_empty()
    }

    /// Makes `revision` the newest; the one that was becomes a delta on it. What is known of the image goes with it; of the blocks that have
    /// been written it has to be told by [`Revision::note_rewritten`].
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

    /// Takes revision `number` out; one that read through to it reads through to the next newer one. If it is the newest, the
    /// next one becomes that.
    pub fn remove(&mut self, number: usize) {
        if number >= self.revisions.len() {
            return;
        }
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

    /// The next newer revision.
    pub fn newer(&self, number: usize) -> Option<&Revision> {
        self.revisions.get(number.checked_sub(1)?)
    }

    fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        let mut newer: Option<&Revision> = None;
        let standalone = self.incompatible.iter().any(|feature| feature == STANDALONE);
        for (number, revision) in self.revisions.iter().enumerate() {
            let place = |field: &str| format!("revision {number} ({}), {field}", revision.uuid);
            if !seen.insert(revision.uuid) {
                return Err(format!("{}: found twice, expected once", place("uuid")));
            }
            let image = match newer {
                None => FileName::IMAGE.to_string(),
                Some(_) => FileName::Delta(revision.uuid).to_string(),
            };
            if revision.image != image {
                return Err(format!(
                    "{}: found {:?}, expected {image}",
                    place("image"),
                    revision.image
                ));
            }
            let base = newer.map(|newer| newer.uuid);
            if revision.base != base && !(standalone && revision.is_standalone()) {
                return Err(format!(
                    "{}: found {}, expected {}",
                    place("base"),
                    show(revision.base),
                    show(base)
                ));
            }
            revision.check_ranges(self.block_size).map_err(|(field, found)| {
                format!(
                    "{}: found {found}, expected blocks of the image in ascending order",
                    place(field)
                )
            })?;
            let limit = super::qcow2::Layout::max_image_bytes(self.block_size);
            if revision.size_bytes > limit {
                return Err(format!(
                    "{}: found {}, expected at most {limit}",
                    place("size_bytes"),
                    revision.size_bytes
                ));
            }
            newer = Some(revision);
        }
        if let Some(operation) = &self.in_progress {
            let (id, known) = (operation.revision, seen.contains(&operation.revision));
            let merge = operation.operation == Operation::Merge;
            if known != merge {
                let (is, not) = if known { ("is", " not") } else { ("is not", "") };
                return Err(format!(
                    "in_progress: found {id}, which {is} among the revisions, expected one that is{not}"
                ));
            }
        }
        Ok(())
    }
}

/// The part of a manifest that says whether the rest can be understood.
#[derive(Deserialize)]
struct Needs {
    format: u32,
    #[serde(default, deserialize_with = "bounded::features")]
    incompatible: Vec<String>,
}

impl Needs {
    fn check(&self) -> Result<(), ManifestFlaw> {
        if self.format != FORMAT {
            return Err(ManifestFlaw::Unsupported(format!(
                "archive format {} is not supported, only {FORMAT}",
                self.format
            )));
        }
        let unknown: Vec<&str> = self
            .incompatible
            .iter()
            .map(String::as_str)
            .filter(|name| !KNOWN_INCOMPATIBLE.contains(name))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(ManifestFlaw::Unsupported(format!(
            "the archive uses features that this version does not know: {}",
            unknown.join(", ").escape_default()
        )))
    }
}

fn check_text(text: &str) -> Result<(), ManifestFlaw> {
    let missing = || ManifestFlaw::Damaged("checksum: found none, expected 64 digits".to_owned());
    let (before, rest) = text.split_once(CHECKSUM_KEY).ok_or_else(missing)?;
    let (found, after) = rest.split_at_checked(NO_CHECKSUM.len()).ok_or_else(missing)?;
    let blank = format!("{before}{CHECKSUM_KEY}{NO_CHECKSUM}{after}");
    let expected = Digest::of(blank.as_bytes()).to_string();
    if found == expected {
        return Ok(());
    }
    Err(ManifestFlaw::Damaged(format!(
        "checksum: found {}, expected {expected}: the file was edited or is torn",
        found.escape_default()
    )))
}

fn json_flaw(error: serde_json::Error) -> ManifestFlaw {
    ManifestFlaw::Damaged(format!("JSON: found {error}"))
}

fn show(id: Option<RevisionId>) -> String {
    id.map_or("none".to_owned(), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn manifest(revisions: usize) -> Manifest {
        let mut manifest = Manifest::new(BlockSize::DEFAULT);
        for n in 0..revisions {
            let time = Timestamp::from_second(1_000_000 + n as i64).unwrap();
            let digest = Digest::of(&[n as u8]);
            manifest.push_newest(Revision::newest(
                RevisionId::new(time),
                time,
                time,
                n as u64,
                digest,
                Statistics::default(),
            ));
        }
        manifest
    }

    /// As an editor of the file would have it who also mends the checksum.
    fn rewritten(manifest: &Manifest, change: impl Fn(String) -> String) -> Vec<u8> {
        let text = String::from_utf8(manifest.encode().unwrap()).unwrap();
        let (before, rest) = text.split_once(CHECKSUM_KEY).unwrap();
        let blank = change(format!("{before}{CHECKSUM_KEY}{NO_CHECKSUM}{}", &rest[64..]));
        blank.replacen(NO_CHECKSUM, &Digest::of(blank.as_bytes()).to_string(), 1).into_bytes()
    }

    #[test]
    fn a_manifest_reads_back_as_written() {
        for count in [0, 1, 3] {
            let manifest = manifest(count);
            let read = Manifest::parse(&manifest.encode().unwrap()).unwrap();
            assert_eq!(read.revisions, manifest.revisions);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = manifest(2).encode().unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Manifest::parse(&flipped).is_err(), "byte {at}");
            assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let bytes = rewritten(&manifest(1), |text| {
            text.replacen("\"format\"", "\"later\": [1],\n  \"format\"", 1).replacen(
                "\"uuid\"",
                "\"mood\": \"good\",\n      \"uuid\"",
                1,
            )
        });
        let again = Manifest::parse(&bytes).unwrap().encode().unwrap();
        let again = String::from_utf8(again).unwrap();
        assert!(again.contains("\"later\"") && again.contains("\"mood\""), "{again}");
    }

    /// Fields are kept in each object of a manifest, however deep, and in lists of objects.
    #[test]
    fn unknown_fields_survive_at_every_depth() {
        let mut full = manifest(2);
        let at = Timestamp::UNIX_EPOCH;
        full.revisions[1].size_bytes = 1 << 20;
        let blocks = |first, count| BlockRange { first: BlockIndex(first), count };
        full.revisions[1].findings.add(blocks(3, 2));
        full.revisions[1].set_verified(blocks(0, 2), at);
        full.source = Some(SourceIdentity::new("/dev/x", "file"));
        let id = full.revisions[0].uuid;
        full.alarms = vec![Alarm::new(id, at, 7, 1)];
        full.confirm(&[(id, 2)], at);
        let mut value = serde_json::to_value(&full).unwrap();
        let count = insert_everywhere(&mut value);
        assert_eq!(count, 12, "{value:#}");
        let read: Manifest = serde_json::from_value(value).unwrap();
        let again = Manifest::parse(&read.encode().unwrap()).unwrap();
        let text = String::from_utf8(again.encode().unwrap()).unwrap();
        assert_eq!(text.matches("later").count(), count, "{text}");
    }

    fn insert_everywhere(value: &mut Value) -> usize {
        match value {
            Value::Array(values) => values.iter_mut().map(insert_everywhere).sum(),
            Value::Object(fields) => {
                let within: usize = fields.values_mut().map(insert_everywhere).sum();
                fields.insert("later".to_owned(), serde_json::json!([{"deep": 0.3}]));
                within + 1
            }
            _ => 0,
        }
    }

    /// However much damage there is, a manifest is short enough to be read: dates of verification go first; then right blocks
    /// between bad ones count as bad, but no bad one as right.
    #[test]
    fn a_manifest_is_never_too_long_to_be_read() {
        let mut large = manifest(2);
        let blocks = 10_000_000;
        large.revisions[1].size_bytes = BlockSize::DEFAULT.bytes() * blocks;
        let one = |first| BlockRange { first: BlockIndex(first), count: 1 };
        large.revisions[1].findings.add_all((0..blocks).step_by(10).map(one));
        large.revisions[1].set_verified(one(1), Timestamp::UNIX_EPOCH);
        let read = |manifest: &Manifest| {
            let text = manifest.encode().unwrap();
            assert!(text.len() as u64 <= MANIFEST_FULL_BYTES, "{}", text.len());
            Manifest::parse(&text).unwrap()
        };
        assert_eq!(read(&large).revisions, large.revisions, "a million ranges have room");
        large.revisions[1].findings.add_all((0..blocks).step_by(5).map(one));
        let shorter = read(&large);
        assert!(shorter.revisions[1].verified.is_empty());
        let found = &shorter.revisions[1].findings;
        assert!(found.bad_blocks.len() < 2_000_000 && found.bad_blocks.len() > 500_000);
        assert!(large.revisions[1].findings.bad_blocks.iter().all(|r| found.is_bad(r.first)));
    }

    /// A number with more digits than a float has is rounded once, and stays.
    #[test]
    fn numbers_in_unknown_fields_survive_any_number_of_rewrites() {
        for number in ["26666666666666611853989", "285566666666666666666666666667", "0.3", "-1e-7"]
        {
            let later = format!("\"later\": {number},\n  \"format\"");
            let bytes = rewritten(&manifest(1), |text| text.replacen("\"format\"", &later, 1));
            let once = Manifest::parse(&bytes).unwrap().encode().unwrap();
            let twice = Manifest::parse(&once).unwrap().encode().unwrap();
            assert!(once == twice, "{number}: {}", String::from_utf8_lossy(&twice));
        }
    }

    #[test]
    fn unknown_incompatible_features_and_formats_are_refused_by_name() {
        let bytes = rewritten(&manifest(1), |text| {
            text.replacen("\"incompatible\": []", "\"incompatible\": [\"warp\"]", 1)
        });
        let Err(ManifestFlaw::Unsupported(what)) = Manifest::parse(&bytes) else { panic!() };
        assert!(what.contains("warp"), "{what}");
        let bytes =
            rewritten(&manifest(1), |text| text.replacen("\"format\": 1", "\"format\": 2", 1));
        let Err(ManifestFlaw::Unsupported(what)) = Manifest::parse(&bytes) else { panic!() };
        assert!(what.contains("format 2"), "{what}");
    }

    #[test]
    fn a_chain_that_is_not_one_is_refused() {
        for (what, change) in [
            ("image", (|m| m.revisions.swap(0, 1)) as fn(&mut Manifest)),
            ("uuid", |m| m.revisions[1] = m.revisions[0].clone()),
            ("image", |m| m.revisions[1].image = "../x".to_owned()),
            ("image", |m| m.revisions[1].image = "last.raw".to_owned()),
            ("findings", |m| {
                let range = BlockRange { first: BlockIndex(u64::MAX), count: 7 };
                m.revisions[1].findings.bad_blocks = vec![range];
            }),
            ("in_progress", |m| {
                let (operation, started) = (Operation::Backup, Timestamp::UNIX_EPOCH);
                let revision = m.revisions[1].uuid;
                m.in_progress = Some(InProgress { operation, revision, started });
            }),
            ("size_bytes", |m| m.revisions[1].size_bytes = u64::MAX),
            ("base", |m| m.revisions[2].base = Some(m.revisions[0].uuid)),
        ] {
            let mut manifest = manifest(3);
            change(&mut manifest);
            let Err(ManifestFlaw::Damaged(flaw)) = Manifest::parse(&manifest.encode().unwrap())
            else {
                panic!("{what}")
            };
            assert!(flaw.contains(what), "{flaw}");
        }
    }

    /// A standalone revision is a feature that an older program must refuse by name, and only as long as there is one.
    #[test]
    fn a_standalone_revision_is_named_as_a_feature() {
        let mut manifest = manifest(3);
        manifest.revisions[1].base = None;
        let bytes = manifest.encode().unwrap();
        let mut read = Manifest::parse(&bytes).unwrap();
        assert!(read.revisions[1].is_standalone() && read.incompatible == [STANDALONE]);
        read.remove(1);
        assert_eq!(read.revisions[1].base, Some(read.revisions[0].uuid));
        assert!(!String::from_utf8(read.encode().unwrap()).unwrap().contains(STANDALONE));
        let hidden = rewritten(&manifest, |text| text.replacen("\"standalone\"", "", 1));
        assert!(matches!(Manifest::parse(&hidden), Err(ManifestFlaw::Damaged(_))));
    }

    /// Removing the newest makes the next one the image, removing another passes its base on.
    #[test]
    fn removing_a_revision_keeps_a_chain() {
        for number in 0..4 {
            let mut manifest = manifest(4);
            manifest.remove(number);
            let read = Manifest::parse(&manifest.encode().unwrap()).unwrap();
            assert_eq!(read.revisions.len(), 3);
            assert!(read.revisions[0].is_image());
        }
    }
}
