//! The order of the older revisions: their headers suggest it, their digests prove it.
//!
//! Usually each delta names the next newer one. While revisions are merged away, and until their files are deleted,
//! several deltas name the same base. Then the right order is the one in which the digest of each comes out; there
//! may be several. A delta whose header contradicts a place only gets that place if its digest comes out there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::image_revision;
use super::survey::Node;
use crate::base::error::Result;
use crate::base::progress::{self, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::BlockSize;
use crate::format::digests::Identity;
use crate::format::manifest::{Manifest, Revision};
use crate::image::chain::Chain;
use crate::storage::{FileName, Storage};

/// Trials for each delta before the search takes the best so far.
const TRIALS: usize = 8;

/// The revisions in order.
pub(super) struct Ordered {
    /// Newest first.
    pub(super) revisions: Vec<Revision>,
    /// The revisions whose digest does not come out.
    pub(super) unproved: BTreeSet<RevisionId>,
}

/// Puts the deltas behind the newest revision, and leaves out those that have no place.
pub(super) fn order(
    storage: &Arc<dyn Storage>,
    newest: Revision,
    block_size: BlockSize,
    nodes: &BTreeMap<RevisionId, Node>,
    observer: &dyn Observer,
) -> Result<Ordered> {
    let newest_id = newest.uuid;
    let of_this_archive = |(id, node): &(&RevisionId, &Node)| {
        **id != newest_id && node.identity.block_size == block_size
    };
    let mut links: Vec<Link> = nodes
        .iter()
        .filter(of_this_archive)
        .map(|(_, node)| Link {
            revision: image_revision(&node.identity),
            base: node.backing.map(|backing| match backing.file {
                FileName::Delta(id) => id,
                _ => newest_id,
            }),
        })
        .collect();
    links.sort_by_key(|link| Reverse((link.revision.started, link.revision.uuid)));
    let mut search = Search { storage, block_size, links, trials: 0, observer };
    let mut ordered = search.segment(Segment::new(newest))?;
    let standalone: Vec<Revision> = search
        .links
        .iter()
        .filter(|link| link.base.is_none())
        .map(|link| as_delta(&link.revision, None))
        .collect();
    for head in standalone {
        search.links.retain(|link| !ordered.contains(link.revision.uuid));
        let mut segment = Segment::new(head.clone());
        if !search.comes_out(&segment.revisions)? {
            segment.unproved.insert(head.uuid);
        }
        let segment = search.segment(segment)?;
        ordered.revisions.extend(segment.revisions);
        ordered.unproved.extend(segment.unproved);
    }
    Ok(Ordered { revisions: ordered.revisions, unproved: ordered.unproved })
}

/// Whether the digest of a delta comes out over the image of a revision.
pub(super) fn comes_out_behind(
    storage: &Arc<dyn Storage>,
    newest: &Identity,
    older: &Identity,
    observer: &dyn Observer,
) -> Result<bool> {
    let block_size = newest.block_size;
    let mut search = Search { storage, block_size, links: Vec::new(), trials: 0, observer };
    let both = Segment::new(image_revision(newest)).with(&image_revision(older));
    search.comes_out(&both.revisions)
}

/// A delta whose place must be found.
struct Link {
    revision: Revision,
    /// The base that its header names; none for a standalone one.
    base: Option<RevisionId>,
}

/// Revisions that each read through to the one before.
#[derive(Clone)]
struct Segment {
    revisions: Vec<Revision>,
    unproved: BTreeSet<RevisionId>,
}

impl Segment {
    fn new(head: Revision) -> Self {
        Segment { revisions: vec![head], unproved: BTreeSet::new() }
    }

    fn position(&self, id: RevisionId) -> Option<usize> {
        self.revisions.iter().position(|revision| revision.uuid == id)
    }

    fn contains(&self, id: RevisionId) -> bool {
        self.position(id).is_some()
    }

    fn last(&self) -> Option<RevisionId> {
        self.revisions.last().map(|revision| revision.uuid)
    }

    fn proved(&self) -> usize {
        self.revisions.len() - self.unproved.len()
    }

    /// The same segment with one more revision at the end.
    fn with(&self, revision: &Revision) -> Self {
        let mut longer = self.clone();
        longer.revisions.push(as_delta(revision, self.last()));
        longer
    }
}

fn as_delta(revision: &Revision, base: Option<RevisionId>) -> Revision {
    let mut revision = revision.clone();
    revision.image = FileName::Delta(revision.uuid).to_string();
    revision.base = base;
    revision
}

struct Search<'a> {
    storage: &'a Arc<dyn Storage>,
    block_size: BlockSize,
    /// The latest first.
    links: Vec<Link>,
    trials: usize,
    observer: &'a dyn Observer,
}

impl Search<'_> {
    /// Continues a segment as far as possible; if there are several ways, in the one that proves most.
    fn segment(&mut self, mut segment: Segment) -> Result<Segment> {
        loop {
            let candidates = self.candidates(&segment);
            let mut right = Vec::new();
            for &candidate in &candidates {
                let Some(link) = self.links.get(candidate) else { continue };
                let longer = segment.with(&link.revision);
                if self.comes_out(&longer.revisions)? {
                    right.push(longer);
                    if self.trials > TRIALS * self.links.len() {
                        break;
                    }
                }
            }
            if right.len() > 1 {
                return self.best(right);
            }
            let next = match right.pop() {
                Some(longer) => Some(longer),
                // Damaged, but its header names this place, where its good blocks are readable.
                None => self.damaged_one(&segment, &candidates),
            };
            match next {
                Some(longer) => segment = longer,
                None => return Ok(segment),
            }
        }
    }

    fn best(&mut self, ways: Vec<Segment>) -> Result<Segment> {
        let mut best: Option<Segment> = None;
        for way in ways {
            let whole = self.segment(way)?;
            let complete = whole.unproved.is_empty() && self.candidates(&whole).is_empty();
            if complete {
                return Ok(whole);
            }
            if best.as_ref().is_none_or(|best| whole.proved() > best.proved()) {
                best = Some(whole);
            }
        }
        Ok(best.unwrap_or(Segment { revisions: Vec::new(), unproved: BTreeSet::new() }))
    }

    /// The deltas that may come next: those that name a revision of the segment, the nearest first. If there are
    /// none, those that name a missing revision.
    fn candidates(&self, segment: &Segment) -> Vec<usize> {
        let open = |link: &&(usize, &Link)| !segment.contains(link.1.revision.uuid);
        let links: Vec<(usize, &Link)> = self.links.iter().enumerate().collect();
        let base_of = |link: &Link| link.base.and_then(|base| segment.position(base));
        let mut named: Vec<(Reverse<usize>, usize)> = links
            .iter()
            .filter(open)
            .filter_map(|(at, link)| Some((Reverse(base_of(link)?), *at)))
            .collect();
        named.sort_unstable();
        if !named.is_empty() {
            return named.into_iter().map(|(_, at)| at).collect();
        }
        let known = |id| self.links.iter().any(|link| link.revision.uuid == id);
        let lost = |link: &&(usize, &Link)| {
            link.1.base.is_some_and(|base| !known(base) && !segment.contains(base))
        };
        links.iter().filter(open).filter(lost).map(|(at, _)| *at).collect()
    }

    fn damaged_one(&self, segment: &Segment, candidates: &[usize]) -> Option<Segment> {
        let links = candidates.iter().filter_map(|at| self.links.get(*at));
        let link = links.into_iter().find(|link| link.base == segment.last())?;
        let mut longer = segment.with(&link.revision);
        longer.unproved.insert(link.revision.uuid);
        Some(longer)
    }

    /// Whether the digest of the last of these revisions comes out.
    fn comes_out(&mut self, revisions: &[Revision]) -> Result<bool> {
        progress::check(self.observer)?;
        self.trials += 1;
        let mut manifest = Manifest::new(self.block_size);
        manifest.revisions = revisions.to_vec();
        let last = revisions.len().saturating_sub(1);
        let chain = Chain::open(self.storage, &manifest, last);
        match chain.and_then(|chain| chain.verify_digests(self.observer)) {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
