//! Problems of a revision's files that a scrub found and could not repair, other than single blocks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::unknown::keeps_unknown;
use super::{Revision, Unknown};
use crate::format::name::FileName;

/// The most flaws that a revision keeps: one is enough to make somebody look.
const MAX_FLAWS: usize = 8;
/// The longest message that is kept.
const MAX_MESSAGE_CHARS: usize = 300;

/// A problem with a file of a revision that does not concern single blocks: its header, its tables, its digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Flaw {
    /// The file within the archive's folder.
    pub file: String,
    /// What was found, and what was expected.
    pub message: String,
    /// When a scrub first found it.
    pub found: Timestamp,
    /// When somebody confirmed that they know of it.
    pub confirmed: Option<Timestamp>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

keeps_unknown!(Flaw);

impl Revision {
    /// Records the problems that a scrub finds now. Known ones keep their dates; those that are no longer found are
    /// forgotten.
    pub fn set_flaws(&mut self, found: Vec<(FileName, String)>, now: Timestamp) {
        let known = std::mem::take(&mut self.flaws);
        for (file, message) in found.into_iter().take(MAX_FLAWS) {
            let file = file.to_string();
            let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
            let same = |flaw: &&Flaw| flaw.file == file && flaw.message == message;
            let flaw = known.iter().find(same).cloned().unwrap_or_else(|| Flaw {
                file,
                message,
                found: now,
                confirmed: None,
                unknown: Unknown::new(),
            });
            self.flaws.push(flaw);
        }
    }

    /// Records the problems that a scrub finds before it has looked at everything: known ones stay.
    pub fn add_flaws(&mut self, found: Vec<(FileName, String)>, now: Timestamp) {
        let known = self.flaws.clone();
        self.set_flaws(found, now);
        for flaw in known {
            let is_same = |new: &Flaw| new.file == flaw.file && new.message == flaw.message;
            if !self.flaws.iter().any(is_same) && self.flaws.len() < MAX_FLAWS {
                self.flaws.push(flaw);
            }
        }
    }

    /// The flaws that nobody has confirmed.
    pub fn open_flaws(&self) -> impl Iterator<Item = &Flaw> {
        self.flaws.iter().filter(|flaw| flaw.confirmed.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::revision::RevisionId;
    use crate::base::units::BlockSize;
    use crate::format::manifest::{Manifest, Statistics};

    /// A flaw is open until it is confirmed or no longer found, and keeps its dates as long as it stays the same.
    #[test]
    fn a_flaw_is_open_until_it_is_confirmed_or_gone() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (digest, id) = (Digest::of(b""), RevisionId::new(at(1)));
        let revision = Revision::newest(id, at(1), at(1), 0, digest, Statistics::default());
        let mut manifest = Manifest::new(BlockSize::DEFAULT);
        manifest.push_newest(revision);
        let text = |manifest: &Manifest| String::from_utf8(manifest.encode().unwrap()).unwrap();
        assert!(!text(&manifest).contains("flaws"), "left out when there are none");
        let found = |message: &str| vec![(FileName::IMAGE, message.to_owned())];
        manifest.revisions[0].set_flaws(found("a"), at(2));
        manifest.revisions[0].set_flaws(found("a"), at(3));
        assert_eq!(
            manifest.revisions[0].open_flaws().map(|f| f.found).collect::<Vec<_>>(),
            [at(2)]
        );
        manifest.confirm(&[], at(4));
        manifest.confirm(&[], at(5));
        assert_eq!(manifest.revisions[0].flaws[0].confirmed, Some(at(4)));
        let read = Manifest::parse(&manifest.encode().unwrap()).unwrap();
        assert_eq!(read.revisions, manifest.revisions);
        manifest.revisions[0].set_flaws([found("a"), found("b")].concat(), at(6));
        let open: Vec<_> = manifest.revisions[0].open_flaws().map(|f| f.message.clone()).collect();
        assert_eq!(open, ["b"]);
        manifest.revisions[0].add_flaws(found("c"), at(7));
        let all: Vec<_> = manifest.revisions[0].flaws.iter().map(|f| f.message.clone()).collect();
        assert_eq!(all, ["c", "a", "b"], "what was known stays");
        manifest.revisions[0].set_flaws(Vec::new(), at(7));
        assert!(manifest.revisions[0].flaws.is_empty());
        let many = (0..99).map(|n| (FileName::IMAGE, format!("{n}{}", "ü".repeat(999))));
        manifest.revisions[0].set_flaws(many.collect(), at(8));
        assert!(text(&manifest).len() < 10_000);
    }
}
