//! Names of what a source keeps for an archive: the marks of its revisions.
//!
//! A mark stands for the state of the source that a revision holds. Its name has the UUIDs of the archive and of the
//! revision, so that two archives of one source never touch each other's marks, and a source that was rolled back
//! does not have the mark that is looked for.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::canary::{Bug, planted};
use crate::base::revision::RevisionId;

/// What every name of a mark begins with.
const PREFIX: &str = "backy.";

/// Name of an archive at its source: a UUID of version 7. A copy of the archive's folder has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArchiveId(Uuid);

impl ArchiveId {
    /// A new name, made at `time`. A clock before 1970 counts as 1970.
    pub fn new(time: Timestamp) -> Self {
        ArchiveId(Uuid::from_bytes(RevisionId::new(time).to_bytes()))
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Name of the mark of a revision: `backy.<archive>.<revision>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MarkName {
    /// The archive that has the revision.
    pub archive: ArchiveId,
    /// The revision that holds the state of the source at the mark.
    pub revision: RevisionId,
}

impl MarkName {
    /// A name that nothing has yet, for what an archive keeps at its source only while that is read.
    pub(crate) fn passing(archive: Option<ArchiveId>) -> Self {
        let archive = archive.unwrap_or_else(|| ArchiveId(Uuid::now_v7()));
        MarkName { archive, revision: RevisionId::from(Uuid::now_v7()) }
    }
}

impl fmt::Display for MarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if planted(Bug::MarkWithoutUuid) {
            return write!(f, "{PREFIX}{0}.{0}", self.archive);
        }
        write!(f, "{PREFIX}{}.{}", self.archive, self.revision)
    }
}

impl FromStr for MarkName {
    type Err = String;

    /// Accepts only what [`MarkName`] displays.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.strip_prefix(PREFIX).and_then(|rest| {
            let (archive, revision) = rest.split_once('.')?;
            let archive: RevisionId = archive.parse().ok()?;
            let archive = ArchiveId(Uuid::from_bytes(archive.to_bytes()));
            Some(MarkName { archive, revision: revision.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("'{}' is not the name of a mark", text.escape_debug()))
    }
}

impl From<MarkName> for String {
    fn from(name: MarkName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for MarkName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name is read back as it was written, and nothing else is taken for one.
    #[test]
    fn names_of_marks_are_read_back() {
        let (archive, revision) =
            (ArchiveId::new(Timestamp::UNIX_EPOCH), RevisionId::new(Timestamp::UNIX_EPOCH));
        let name = MarkName { archive, revision };
        assert_eq!(name.to_string().parse(), Ok(name));
        assert_eq!(name.to_string(), format!("backy.{archive}.{revision}"));
        let text = name.to_string();
        for wrong in [
            String::new(),
            "backy.".to_owned(),
            format!("{text}x"),
            format!("x{text}"),
            text.to_uppercase(),
            text.replace("backy.", ""),
            format!("backy.{revision}"),
            format!("backy.{archive}.{revision}.{revision}"),
        ] {
            assert!(wrong.parse::<MarkName>().is_err(), "{wrong}");
        }
    }
}
