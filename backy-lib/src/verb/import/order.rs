//! The order in which old revisions are imported.
//!
//! The parent of a delta is newer, whatever the times say: a clock may have been wrong. Times only decide
//! where parents prove nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use jiff::Timestamp;

use super::Candidate;
use super::old::OldArchive;

/// Sorts the oldest first.
pub(super) fn sort(candidates: &mut [Candidate], old: &OldArchive) {
    let files = old.files.iter().map(|data| {
        // Only its children show when a file without a revision was made.
        let time = data.revision.as_ref().map_or(Timestamp::MAX, |revision| revision.time);
        (time, data.parent)
    });
    let newest_first = newest_first(&files.collect::<Vec<_>>());
    let places: BTreeMap<usize, usize> = newest_first.into_iter().zip(0..).collect();
    candidates.sort_by_key(|candidate| Reverse(places.get(&candidate.file).copied()));
}

/// The numbers of files, given their times and parents, each after its parent. Among candidates for the next
/// place, the latest time wins, then the first in order.
fn newest_first(files: &[(Timestamp, Option<usize>)]) -> Vec<usize> {
    let mut children: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (file, (_, parent)) in files.iter().enumerate() {
        children.entry(*parent).or_default().push(file);
    }
    let mut order = Vec::with_capacity(files.len());
    let mut ready = BinaryHeap::new();
    let mut placed = None;
    loop {
        for file in children.remove(&placed).unwrap_or_default() {
            let time = files.get(file).map(|(time, _)| *time);
            ready.push((time, Reverse(file)));
        }
        let Some((_, Reverse(file))) = ready.pop() else { return order };
        order.push(file);
        placed = Some(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(files: &[(i64, Option<usize>)]) -> Vec<usize> {
        let time = |second: &i64| Timestamp::from_second(*second).unwrap();
        newest_first(
            &files.iter().map(|(second, parent)| (time(second), *parent)).collect::<Vec<_>>(),
        )
    }

    /// If times agree with the parents, they decide the order, also between several chains.
    #[test]
    fn times_decide_where_parents_prove_nothing() {
        assert!(order(&[]).is_empty());
        assert_eq!(order(&[(9, None), (7, Some(0)), (5, Some(1))]), [0, 1, 2]);
        assert_eq!(order(&[(9, None), (8, None), (7, Some(0)), (6, Some(1))]), [0, 1, 2, 3]);
        assert_eq!(order(&[(8, None), (9, None), (7, Some(0)), (6, Some(1))]), [1, 0, 2, 3]);
        assert_eq!(order(&[(5, None), (5, Some(0)), (5, Some(1))]), [0, 1, 2]);
    }

    /// A wrong clock does not put a delta before its parent.
    #[test]
    fn parents_are_newer_whatever_the_times_say() {
        assert_eq!(order(&[(1, None), (9, Some(0)), (5, Some(1))]), [0, 1, 2]);
        assert_eq!(order(&[(9, None), (1, Some(0)), (7, Some(1)), (8, Some(0))]), [0, 3, 1, 2]);
        // Below a revision with a wrong time, nothing is known to be newer than another chain.
        assert_eq!(order(&[(1, None), (9, Some(0)), (5, None), (4, Some(2))]), [2, 3, 0, 1]);
    }
}
