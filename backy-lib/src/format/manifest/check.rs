//! Whether a manifest that was read can be used.
//!
//! First checks what it requires, because a newer format may do anything with the rest; then the checksum of its
//! text; last whether its revisions are a chain. Nothing here looks at the other files of the archive.

use std::collections::HashSet;

use serde::Deserialize;

use super::{
    CHECKSUM_KEY, FORMAT, KNOWN_INCOMPATIBLE, Manifest, ManifestFlaw, NO_CHECKSUM, Operation,
    Revision, STANDALONE, bounded,
};
use crate::base::digest::Digest;
use crate::base::revision::RevisionId;
use crate::format::name::FileName;
use crate::format::qcow2::Layout;

impl Manifest {
    /// Checks that the revisions are a chain, and that the claims about them are possible.
    pub(super) fn check(&self) -> Result<(), String> {
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
            let limit = Layout::max_image_bytes(self.block_size);
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

/// The part of a manifest that shows whether this program can understand the rest.
#[derive(Deserialize)]
pub(super) struct Needs {
    format: u32,
    #[serde(default, deserialize_with = "bounded::features")]
    incompatible: Vec<String>,
}

impl Needs {
    pub(super) fn check(&self) -> Result<(), ManifestFlaw> {
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

/// Checks that the checksum is that of the text.
pub(super) fn check_text(text: &str) -> Result<(), ManifestFlaw> {
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

pub(super) fn json_flaw(error: serde_json::Error) -> ManifestFlaw {
    ManifestFlaw::Damaged(format!("JSON: found {error}"))
}

fn show(id: Option<RevisionId>) -> String {
    id.map_or("none".to_owned(), |id| id.to_string())
}
