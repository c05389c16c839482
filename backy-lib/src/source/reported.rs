//! What a source has reported about its bytes: where it has data, and what has changed.

use crate::base::extent::{Extent, rest_after};

/// Extents that are kept: 16 MiB of memory. Beyond that, those that are close together become one.
pub(super) const MOST_EXTENTS: usize = 1 << 20;

/// What was reported, as [`crate::source::Source`] wants it.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// Where it may have data, ascending; `None` if that is not known.
    pub data: Option<Vec<Extent>>,
    /// What may have changed, ascending; `None` if that is not known.
    pub changed: Option<Vec<Extent>>,
}

impl Reported {
    pub(super) fn next_data(&self, offset: u64, size_bytes: u64) -> Option<Extent> {
        next(self.data.as_deref(), offset, size_bytes)
    }

    pub(super) fn next_changed(&self, offset: u64, size_bytes: u64) -> Option<Extent> {
        next(self.changed.as_deref(), offset, size_bytes)
    }
}

/// The first of these extents from `offset` on; everything, if they are not known.
fn next(extents: Option<&[Extent]>, offset: u64, size_bytes: u64) -> Option<Extent> {
    match extents {
        Some(extents) => rest_after(extents, offset),
        None => (offset < size_bytes).then(|| Extent::between(offset, size_bytes)),
    }
}

/// Extents in any order, at most so many. If there are more, gaps between them are filled, the smallest first.
pub(super) struct Extents {
    list: Vec<Extent>,
    most: usize,
    /// The longest gap that is filled.
    gap: u64,
}

impl Extents {
    pub(super) fn new() -> Self {
        Extents::at_most(MOST_EXTENTS)
    }

    fn at_most(most: usize) -> Self {
        Extents { list: Vec::new(), most, gap: 0 }
    }

    pub(super) fn push(&mut self, extent: Extent) {
        match self.list.last_mut() {
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => self.list.push(extent),
        }
        if self.list.len() <= self.most {
            return;
        }
        self.merge();
        // Half of it is free then, so that this does not happen for each extent.
        while self.list.len() > self.most / 2 {
            self.gap = (self.gap * 2).max(4096);
            self.merge();
        }
    }

    fn merge(&mut self) {
        let gap = self.gap;
        self.list.sort_unstable_by_key(|extent| extent.offset);
        self.list.dedup_by(|next, last| {
            let is_near = next.offset <= last.end().saturating_add(gap);
            if is_near {
                last.len = last.len.max(next.end() - last.offset);
            }
            is_near
        });
    }

    pub(super) fn finish(mut self) -> Vec<Extent> {
        self.merge();
        self.list
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However many extents there are, in whatever order: few are kept, they ascend with gaps in between, and each
        /// byte that was listed is in one of them.
        #[test]
        fn extents_are_kept_or_covered(
            pushed in proptest::collection::vec((0u64..1 << 30, 1u64..100_000), 0..200),
            most in 2usize..20,
        ) {
            let mut extents = Extents::at_most(most);
            for &(offset, len) in &pushed {
                extents.push(Extent { offset, len });
                prop_assert!(extents.list.len() <= most);
            }
            let kept = extents.finish();
            prop_assert!(kept.windows(2).all(|pair| pair[0].end() < pair[1].offset));
            for (offset, len) in pushed {
                let covers = |kept: &&Extent| kept.offset <= offset && offset + len <= kept.end();
                prop_assert!(kept.iter().find(covers).is_some());
            }
        }
    }
}
