//! `manifest.json`: the revisions, and what is under way. Replacing it is the commit of every operation.
//!
//! Pretty-printed JSON for people, guarded by a checksum over its own text: SHA-256 of the file with the 64
//! digits of `checksum` as zeros. Fields that this program does not know survive a rewrite.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::revision::{RevisionId, Tag};
use crate::storage::FileName;
use crate::units::{BlockIndex, BlockSize};

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// A manifest that is longer is not read.
pub const MANIFEST_LIMIT_BYTES: u64 = 64 << 20;

/// Incompatible features that this program knows: none so far.
const KNOWN_INCOMPATIBLE: [&str; 0] = [];

/// More tags do not fit into the header of a digest file.
pub const MAX_TAGS: usize = 24;

const CHECKSUM_KEY: &str = "\"checksum\": \"";
const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    checksum: String,
    format: u32,
    incompatible: Vec<String>,
    compatible: Vec<String>,
    /// Block size of the archive, in bytes.
    pub block_size: BlockSize,
    /// What was backed up last.
    pub source: Option<SourceIdentity>,
    /// The operation that is under way, or was when it was interrupted.
    pub in_progress: Option<InProgress>,
    /// Newest first. The first one's image is `last.raw`, the others are deltas on the one before.
    pub revisions: Vec<Revision>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// What was backed up: enough to notice that it has become something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// The path as configured.
    pub path: String,
    /// `file` or `block device`.
    pub kind: String,
}

/// An operation that has begun and not been committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    /// The operation.
    pub operation: Operation,
    /// The revision that it makes.
    pub revision: RevisionId,
    /// When it began.
    pub started: Timestamp,
}

/// Operations that leave something to undo when they are interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A backup.
    Backup,
}

/// One committed revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its name.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// When its backup was committed.
    pub finished: Timestamp,
    /// Exact size of the image in bytes.
    pub size_bytes: u64,
    /// Digest of the revision; never changes.
    pub digest: Digest,
    /// The file that holds it: `last.raw` or `<uuid>.qcow2`.
    pub image: String,
    /// The next newer revision, which a delta reads through to.
    pub base: Option<RevisionId>,
    /// Why it exists: schedules that were due, and words given by hand.
    pub tags: BTreeSet<Tag>,
    /// Those of the tags that were given by hand and only go by hand.
    #[serde(default)]
    pub pinned_tags: BTreeSet<Tag>,
    /// What its backup did.
    pub statistics: Statistics,
    /// What is known to be wrong with it.
    #[serde(default)]
    pub findings: Findings,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// What a backup did.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Bytes read from the source; holes are not read.
    pub read_bytes: u64,
    /// Bytes in blocks that differed from the revision before.
    pub changed_bytes: u64,
    /// Bytes that the files of the archive take on disk more than before.
    pub stored_bytes: i64,
    /// Time from start to commit.
    pub seconds: f64,
}

/// What is known to be wrong with the blocks of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Blocks that its own file holds with a content that is not what was backed up.
    #[serde(default)]
    pub bad_blocks: Vec<BlockRange>,
}

/// `count` blocks from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first block.
    pub first: BlockIndex,
    /// How many blocks.
    pub count: u64,
}

impl Findings {
    /// Adds a block, given in ascending order.
    pub fn push_bad_block(&mut self, block: BlockIndex) {
        match self.bad_blocks.last_mut() {
            Some(last) if last.first.plus(last.count) == block => last.count += 1,
            _ => self.bad_blocks.push(BlockRange { first: block, count: 1 }),
        }
    }

    /// How many blocks are bad.
    pub fn bad_block_count(&self) -> u64 {
        self.bad_blocks.iter().fold(0, |sum, blocks| sum.saturating_add(blocks.count))
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestFlaw {
    /// It is not as it was written; a sentence with place, found and expected.
    Damaged(String),
    /// It needs a newer program; says what it needs.
    Unsupported(String),
}

impl Revision {
    /// A revision that has just been backed up, the newest.
    pub fn newest(
        uuid: RevisionId,
        started: Timestamp,
        finished: Timestamp,
        size_bytes: u64,
        digest: Digest,
        statistics: Statistics,
    ) -> Self {
        Revision {
            uuid,
            started,
            finished,
            size_bytes,
            digest,
            image: FileName::IMAGE.to_string(),
            base: None,
            tags: BTreeSet::new(),
            pinned_tags: BTreeSet::new(),
            statistics,
            findings: Findings::default(),
            unknown: Map::new(),
        }
    }

    /// The file that holds it.
    pub fn file(&self) -> FileName {
        match self.base {
            None => FileName::IMAGE,
            Some(_) => FileName::Delta(self.uuid),
        }
    }
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
            unknown: BTreeMap::new(),
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
        Ok(manifest)
    }

    /// The file's content.
    ///
    /// # Errors
    /// A sentence when a value has no JSON form.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let blank = Manifest { checksum: NO_CHECKSUM.to_owned(), ..self.clone() };
        let text = serde_json::to_string_pretty(&blank).map_err(|error| error.to_string())? + "\n";
        let checksum = Digest::of(text.as_bytes()).to_string();
        // `checksum` is the first field, so that the first run of zeros in the file is its own.
        Ok(text.replacen(NO_CHECKSUM, &checksum, 1).into_bytes())
    }

    /// Makes `revision` the newest; the one that was becomes a delta on it.
    pub fn push_newest(&mut self, revision: Revision) {
        if let Some(newest) = self.revisions.first_mut() {
            newest.image = FileName::Delta(newest.uuid).to_string();
            newest.base = Some(revision.uuid);
        }
        self.revisions.insert(0, revision);
    }

    fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        let mut newer: Option<&Revision> = None;
        for (number, revision) in self.revisions.iter().enumerate() {
            let place = |field: &str| format!("revision {number} ({}), {field}", revision.uuid);
            if !seen.insert(revision.uuid) {
                return Err(format!("{}: found twice, expected once", place("uuid")));
            }
            let base = newer.map(|newer| newer.uuid);
            if revision.base != base {
                return Err(format!(
                    "{}: found {}, expected {}",
                    place("base"),
                    show(revision.base),
                    show(base)
                ));
            }
            let image = revision.file().to_string();
            if revision.image != image {
                return Err(format!(
                    "{}: found {:?}, expected {image}",
                    place("image"),
                    revision.image
                ));
            }
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
        if let Some(operation) = &self.in_progress
            && seen.contains(&operation.revision)
        {
            return Err(format!(
                "in_progress: found {}, which is among the revisions",
                operation.revision
            ));
        }
        Ok(())
    }
}

/// The part of a manifest that says whether the rest can be understood.
#[derive(Deserialize)]
struct Needs {
    format: u32,
    #[serde(default)]
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
            ("base", (|m| m.revisions.swap(0, 1)) as fn(&mut Manifest)),
            ("uuid", |m| m.revisions[1] = m.revisions[0].clone()),
            ("image", |m| m.revisions[1].image = "../x".to_owned()),
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

    #[test]
    fn neighbouring_bad_blocks_become_one_range() {
        let mut findings = Findings::default();
        [3, 4, 5, 9].into_iter().for_each(|n| findings.push_bad_block(BlockIndex(n)));
        assert_eq!(findings.bad_blocks.len(), 2);
        assert_eq!(findings.bad_block_count(), 4);
    }
}
