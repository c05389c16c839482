//! The names of the tree: which ones each folder has, and what they lead to.
//!
//! A [`View`] is made from one manifest and never changes; a replaced manifest makes a new view. It does not
//! know the partitions of an image, because that requires reading the image.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::{Manifest, Revision};
use crate::format::partitions::Partition;

/// Suffix, after the revision's name, of the folder with its partitions.
const PARTITIONS: &str = ".partitions";

/// The facts about a revision that never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    pub(super) id: RevisionId,
    pub(super) size_bytes: u64,
    /// When its backup began.
    pub(super) time: Timestamp,
}

/// A folder of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Folder {
    Root,
    ByNumber,
    ByDate,
    ByTag,
    Tag(Tag),
    Partitions(Facts),
}

/// Anything with a name in the tree. It is complete in itself, so that it stays what it is after its name disappears.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Folder(Folder),
    Image(Facts),
    Partition(Facts, Partition),
    Link { folder: Folder, name: String, target: String, time: Timestamp },
}

/// The names according to one manifest.
pub(super) struct View {
    /// Of the manifest.
    pub(super) checksum: String,
    /// Newest first.
    facts: Vec<Facts>,
    /// By number of the revision.
    dates: Vec<String>,
    by_date: BTreeMap<String, usize>,
    by_tag: BTreeMap<Tag, Vec<usize>>,
}

impl View {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let revisions = &manifest.revisions;
        let facts: Vec<Facts> = revisions.iter().map(facts).collect();
        let dates = dates(&facts);
        let by_date = dates.iter().cloned().zip(0..).collect();
        let mut by_tag = BTreeMap::<Tag, Vec<usize>>::new();
        for (number, revision) in revisions.iter().enumerate() {
            for tag in &revision.tags {
                by_tag.entry(tag.clone()).or_default().push(number);
            }
        }
        View { checksum: manifest.checksum().to_owned(), facts, dates, by_date, by_tag }
    }

    /// The revision's number from the newest.
    pub(super) fn number(&self, id: RevisionId) -> Option<usize> {
        self.facts.iter().position(|facts| facts.id == id)
    }

    /// When the newest revision began; 1970 if there is none.
    pub(super) fn time(&self) -> Timestamp {
        self.facts.first().map_or(Timestamp::UNIX_EPOCH, |facts| facts.time)
    }

    /// How many folders a folder contains.
    pub(super) fn folders_in(&self, folder: &Folder) -> usize {
        match folder {
            Folder::Root => 3 + self.facts.len(),
            Folder::ByTag => self.by_tag.len(),
            _ => 0,
        }
    }

    /// The node with this name in a folder. Does not know the content of [`Folder::Partitions`].
    pub(super) fn child(&self, folder: &Folder, name: &str) -> Option<Node> {
        let (stem, suffix) = match name.strip_suffix(PARTITIONS) {
            Some(stem) => (stem, PARTITIONS),
            None => (name, ""),
        };
        let number = match folder {
            Folder::Root => match stem {
                "latest" => 0,
                _ => return self.child_of_root(stem, suffix),
            },
            // Only the spelling of the listing: not '+1', not '01'.
            Folder::ByNumber => stem.parse().ok().filter(|n: &usize| n.to_string() == stem)?,
            Folder::ByDate => *self.by_date.get(stem)?,
            Folder::ByTag => {
                let tag: Tag = name.parse().ok()?;
                return self.by_tag.contains_key(&tag).then_some(Node::Folder(Folder::Tag(tag)));
            }
            Folder::Tag(tag) => {
                let number = self.by_date.get(stem)?;
                *self.by_tag.get(tag)?.iter().find(|tagged| *tagged == number)?
            }
            Folder::Partitions(_) => return None,
        };
        self.link(folder, stem, suffix, number)
    }

    fn child_of_root(&self, stem: &str, suffix: &str) -> Option<Node> {
        match (stem, suffix) {
            ("by-number", "") => return Some(Node::Folder(Folder::ByNumber)),
            ("by-date", "") => return Some(Node::Folder(Folder::ByDate)),
            ("by-tag", "") => return Some(Node::Folder(Folder::ByTag)),
            _ => {}
        }
        let id: RevisionId = stem.parse().ok()?;
        let facts = *self.facts.iter().find(|facts| facts.id == id)?;
        Some(match suffix {
            "" => Node::Image(facts),
            _ => Node::Folder(Folder::Partitions(facts)),
        })
    }

    /// Everything in a folder, in a fixed order. Does not know the content of [`Folder::Partitions`] either.
    pub(super) fn children(&self, folder: &Folder) -> Vec<(String, Node)> {
        let links = |stems: Vec<(&str, usize)>| {
            let both = stems.into_iter().flat_map(|(stem, number)| {
                ["", PARTITIONS].map(|suffix| {
                    self.link(folder, stem, suffix, number)
                        .map(|node| (format!("{stem}{suffix}"), node))
                })
            });
            both.flatten().collect::<Vec<_>>()
        };
        match folder {
            Folder::Root => {
                let folders = [
                    ("by-number", Folder::ByNumber),
                    ("by-date", Folder::ByDate),
                    ("by-tag", Folder::ByTag),
                ];
                let folders = folders.map(|(name, folder)| (name.to_owned(), Node::Folder(folder)));
                let revisions = self.facts.iter().flat_map(|&facts| {
                    let partitions = Node::Folder(Folder::Partitions(facts));
                    [
                        (facts.id.to_string(), Node::Image(facts)),
                        (format!("{}{PARTITIONS}", facts.id), partitions),
                    ]
                });
                links(vec![("latest", 0)]).into_iter().chain(folders).chain(revisions).collect()
            }
            Folder::ByNumber => {
                let names: Vec<String> = (0..self.facts.len()).map(|n| n.to_string()).collect();
                links(names.iter().map(String::as_str).zip(0..).collect())
            }
            Folder::ByDate => links(self.by_date.iter().map(|(d, &n)| (d.as_str(), n)).collect()),
            Folder::ByTag => {
                let folder = |tag: &Tag| Node::Folder(Folder::Tag(tag.clone()));
                self.by_tag.keys().map(|tag| (tag.to_string(), folder(tag))).collect()
            }
            Folder::Tag(tag) => {
                let numbers = self.by_tag.get(tag).into_iter().flatten();
                links(numbers.filter_map(|&n| Some((self.dates.get(n)?.as_str(), n))).collect())
            }
            Folder::Partitions(_) => Vec::new(),
        }
    }

    fn link(&self, folder: &Folder, stem: &str, suffix: &str, number: usize) -> Option<Node> {
        let facts = self.facts.get(number)?;
        let up = match folder {
            Folder::Root => "",
            Folder::Tag(_) => "../../",
            _ => "../",
        };
        Some(Node::Link {
            folder: folder.clone(),
            name: format!("{stem}{suffix}"),
            target: format!("{up}{}{suffix}", facts.id),
            time: facts.time,
        })
    }
}

/// The facts about a revision that never change.
pub(super) fn facts(revision: &Revision) -> Facts {
    Facts { id: revision.uuid, size_bytes: revision.size_bytes, time: revision.started }
}

/// Names by time, in whole seconds of UTC. If several revisions share a second, the oldest has the plain
/// name, and newer ones get `.1`, `.2` and so on, so that a new revision changes no name.
fn dates(facts: &[Facts]) -> Vec<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut names: Vec<String> = facts
        .iter()
        .rev()
        .map(|facts| {
            let date = facts.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let count = seen.entry(date.clone()).or_default();
            *count += 1;
            if *count == 1 { date } else { format!("{date}.{}", *count - 1) }
        })
        .collect();
    names.reverse();
    names
}
