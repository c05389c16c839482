//! What the manifest keeps about the changes that a source reports.
//!
//! None of it is needed to read a revision: without it, the next backup reads the whole source.

use serde::{Deserialize, Serialize};

use super::Unknown;
use super::unknown::keeps_unknown;
use crate::base::revision::RevisionId;

/// Says that the source at a mark of its own was what a revision holds. Only that of the newest revision is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Bookmark {
    /// What keeps the mark and reports changes since then, such as `reflink`.
    pub tracker: String,
    /// What distinguishes the mark from another one with the same name, in the tracker's words.
    pub id: String,
    /// What distinguishes the source from another one, in the tracker's words.
    pub identity: String,
    /// The tracker reports changes of whole units of this many bytes.
    pub granularity: u64,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Bookmark {
    /// A mark that has just been made.
    pub fn new(tracker: &str, id: String, identity: String, granularity: u64) -> Self {
        Bookmark { tracker: tracker.to_owned(), id, identity, granularity, unknown: Unknown::new() }
    }
}

/// How much of the source a backup did not read, because the source had reported that it had not changed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Hints {
    /// The revision since which the source reported changes; null when everything was read.
    pub since: Option<RevisionId>,
    /// Bytes that were not read, apart from holes.
    pub skipped_bytes: u64,
    /// Bytes that were read and compared although nothing had changed according to the source.
    pub compared_bytes: u64,
    /// Why everything was read: one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Hints {
    /// Nothing was skipped, and why.
    pub fn not_used(reason: String) -> Self {
        Hints { reason: Some(reason), ..Hints::default() }
    }

    /// They were used.
    pub fn used(since: RevisionId, skipped_bytes: u64, compared_bytes: u64) -> Self {
        Hints { since: Some(since), skipped_bytes, compared_bytes, ..Hints::default() }
    }
}

keeps_unknown!(Bookmark, Hints);
