//! What the folder of an archive without a manifest holds, as far as digest files and the headers of deltas show.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::digest;
use crate::base::error::{Error, Result};
use crate::base::revision::RevisionId;
use crate::base::units::BlockSize;
use crate::format::digests::{HEADER_BYTES, Identity};
use crate::format::qcow2::{Backing, Layout};
use crate::format::readme::block_size_of;
use crate::image::delta::Delta;
use crate::image::digests::DigestTable;
use crate::storage::{Access, DigestsKind, FileName, Storage, staged};

/// The files of an archive and what they say.
pub(super) struct Survey {
    pub(super) present: Vec<FileName>,
    /// The identities in the readable digest files of images.
    pub(super) images: Vec<Identity>,
    /// The deltas whose header and digest file are readable.
    pub(super) nodes: BTreeMap<RevisionId, Node>,
    /// Digest files that never got a header.
    pub(super) unfinished: BTreeSet<FileName>,
    /// Revisions with unreadable files, each with the problem.
    pub(super) flaws: Vec<(RevisionId, String)>,
}

/// A delta whose header and digest file are readable.
pub(super) struct Node {
    pub(super) identity: Identity,
    /// The backing file that its header names.
    pub(super) backing: Option<Backing>,
    /// Whether blocks were being appended to it.
    pub(super) dirty: bool,
}

impl Survey {
    /// Looks at every delta and every digest file.
    pub(super) fn take(storage: &dyn Storage) -> Result<Self> {
        let mut survey = Survey {
            present: storage.list()?,
            images: Vec::new(),
            nodes: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            flaws: Vec::new(),
        };
        for name in survey.present.clone() {
            match name {
                FileName::Delta(id) => survey.look_at_delta(storage, id)?,
                FileName::Digests(id, kind) => survey.look_at_digests(storage, name, id, kind)?,
                _ => {}
            }
        }
        Ok(survey)
    }

    fn look_at_delta(&mut self, storage: &dyn Storage, id: RevisionId) -> Result<()> {
        let node = open_digests(storage, id, DigestsKind::Delta).and_then(|identity| {
            let delta = Delta::open(storage, id, identity.block_size, identity.size_bytes)?;
            let (backing, dirty) = (delta.header().backing, delta.header().dirty);
            Ok(Node { identity, backing, dirty })
        });
        match node {
            Ok(node) => _ = self.nodes.insert(id, node),
            Err(error) if error.is_damage() => self.flaws.push((id, error.to_string())),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn look_at_digests(
        &mut self,
        storage: &dyn Storage,
        name: FileName,
        id: RevisionId,
        kind: DigestsKind,
    ) -> Result<()> {
        match open_digests(storage, id, kind) {
            Ok(identity) if kind == DigestsKind::Image => self.images.push(identity),
            Ok(_) if !self.present.contains(&FileName::Delta(id)) => {
                let missing = storage.path(FileName::Delta(id));
                self.flaws.push((id, format!("{}: missing", missing.display())));
            }
            Ok(_) => {}
            Err(error) if error.is_damage() => {
                if is_unfinished(storage, name)? {
                    self.unfinished.insert(name);
                } else if kind == DigestsKind::Image {
                    self.flaws.push((id, error.to_string()));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the only files of a revision are digests of an image and digests that were never finished.
    pub(super) fn is_image_only(&self, id: RevisionId) -> bool {
        let digests = FileName::Digests(id, DigestsKind::Delta);
        let has_digests = self.present.contains(&digests) && !self.unfinished.contains(&digests);
        !has_digests && !self.present.contains(&FileName::Delta(id))
    }

    pub(super) fn is_flawed(&self, id: RevisionId) -> bool {
        self.flaws.iter().any(|(flawed, _)| *flawed == id)
    }

    /// Whether the delta of a revision is complete.
    pub(super) fn is_finished(&self, id: RevisionId) -> bool {
        self.nodes.get(&id).is_some_and(|node| !node.dirty)
    }

    /// The block size of the archive, for when no digest file of an image has it.
    pub(super) fn block_size(
        &self,
        storage: &dyn Storage,
        unknown: &mut Vec<String>,
    ) -> Result<BlockSize> {
        let latest = self.nodes.values().max_by_key(|node| node.identity.started);
        if let Some(node) = latest {
            return Ok(node.identity.block_size);
        }
        let text = match staged::read_whole(storage, FileName::README, 1 << 20) {
            Ok(text) => text,
            Err(error) if error.is_damage() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(block_size_of(&text).unwrap_or_else(|| {
            unknown.push(format!(
                "the block size is unknown; assuming {} bytes",
                BlockSize::DEFAULT.bytes()
            ));
            BlockSize::DEFAULT
        }))
    }
}

fn open_digests(storage: &dyn Storage, id: RevisionId, kind: DigestsKind) -> Result<Identity> {
    let table = DigestTable::open(storage, id, kind)?;
    let identity = table.identity();
    let limit = Layout::max_image_bytes(identity.block_size);
    if identity.size_bytes > limit {
        let path = storage.path(FileName::Digests(id, kind));
        let expected = format!("at most {limit}");
        return Err(Error::damaged(path, "size_bytes", identity.size_bytes, expected));
    }
    Ok(identity.clone())
}

/// Whether a digest file never got its header, which is the last part that backy writes.
fn is_unfinished(storage: &dyn Storage, name: FileName) -> Result<bool> {
    let file = storage.open(name, Access::Read)?;
    let mut header = vec![0; HEADER_BYTES];
    file.read_padded_at(&mut header, 0)?;
    Ok(digest::is_zero(&header))
}
