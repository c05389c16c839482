//! Why a delta of an old archive has no place: its parents lead to nothing, or in a circle.

use std::collections::BTreeMap;

use crate::base::revision::RevisionId;
use crate::format::legacy::OldRevision;

/// Where the parents of a revision outside of all chains lead.
#[derive(Clone, Copy)]
enum End {
    /// To a delta without a parent.
    Delta(RevisionId),
    /// To a revision that does not exist.
    Nothing(RevisionId),
    /// To a revision that they lead back to.
    Circle(RevisionId),
}

/// Why each of these revisions is not in a chain that ends with a full one. Visits each of them once.
pub(super) fn why_not_placed(
    left: &BTreeMap<RevisionId, OldRevision>,
) -> Vec<(RevisionId, String)> {
    let mut ends: BTreeMap<RevisionId, End> = BTreeMap::new();
    let mut place_on_path: BTreeMap<RevisionId, usize> = BTreeMap::new();
    for &uuid in left.keys() {
        let mut path = Vec::new();
        let mut next = uuid;
        let end = loop {
            if let Some(end) = ends.get(&next) {
                break *end;
            }
            if let Some(&at) = place_on_path.get(&next) {
                let circle = path.get(at..).unwrap_or_default();
                ends.extend(circle.iter().map(|&uuid| (uuid, End::Circle(uuid))));
                break End::Circle(next);
            }
            match left.get(&next).map(|revision| revision.parent) {
                None => break End::Nothing(next),
                Some(None) => break End::Delta(next),
                Some(Some(parent)) => {
                    place_on_path.insert(next, path.len());
                    path.push(next);
                    next = parent;
                }
            }
        };
        place_on_path.clear();
        for uuid in path {
            ends.entry(uuid).or_insert(end);
        }
        ends.entry(uuid).or_insert(end);
    }
    let why = |(uuid, revision): (&RevisionId, &OldRevision)| {
        let why = match (revision.parent, ends.get(uuid)?) {
            (None, _) => "it is a delta without a parent".to_owned(),
            (_, End::Delta(end)) => format!("it reads through to {end}, a delta without a parent"),
            (_, End::Circle(end)) => {
                format!("its parents lead in a circle: {end} is its own parent's parent")
            }
            (Some(parent), End::Nothing(end)) if parent == *end => {
                format!("its parent {parent} has neither a .rev nor a data file")
            }
            (_, End::Nothing(end)) => {
                format!("it reads through to {end}, which has neither a .rev nor a data file")
            }
        };
        Some((*uuid, why))
    };
    left.iter().filter_map(why).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::format::legacy::OldKind;

    fn id(number: u128) -> RevisionId {
        RevisionId::from(Uuid::from_u128(number))
    }

    /// Deltas, each with its parent.
    fn deltas(
        pairs: impl IntoIterator<Item = (u128, Option<u128>)>,
    ) -> BTreeMap<RevisionId, OldRevision> {
        let delta = |(number, parent): (u128, Option<u128>)| {
            let revision = OldRevision {
                uuid: id(number),
                time: Timestamp::UNIX_EPOCH,
                checksum: None,
                parent: parent.map(id),
                blocks: 0,
                kind: OldKind::Delta,
                sums: Vec::new(),
                marks: Vec::new(),
            };
            (id(number), revision)
        };
        pairs.into_iter().map(delta).collect()
    }

    /// Each message says where the chain of parents ends: at a delta without one, at a missing one, or in a circle.
    #[test]
    fn each_is_told_where_its_parents_lead() {
        let left = deltas([
            (1, None),
            (2, Some(1)),
            (3, Some(99)),
            (4, Some(3)),
            (5, Some(6)),
            (6, Some(7)),
            (7, Some(6)),
            (8, Some(8)),
        ]);
        let why = why_not_placed(&left);
        assert_eq!(why.len(), left.len());
        for (number, words) in [
            (1, "without a parent".to_owned()),
            (2, format!("through to {}, a delta without", id(1))),
            (3, format!("its parent {} has neither", id(99))),
            (4, format!("through to {}, which has neither", id(99))),
            (5, format!("circle: {}", id(6))),
            (6, format!("circle: {}", id(6))),
            (7, format!("circle: {}", id(7))),
            (8, format!("circle: {}", id(8))),
        ] {
            let (_, found) = why.iter().find(|(uuid, _)| *uuid == id(number)).unwrap();
            assert!(found.contains(&words), "{number}: {found}");
        }
    }

    /// A very long chain that leads to nothing takes seconds.
    #[test]
    fn a_long_chain_to_nothing_takes_linear_time() {
        let began = Instant::now();
        let why = why_not_placed(&deltas((0..300_000).map(|n| (n, Some(n + 1)))));
        assert!(why.iter().all(|(_, why)| why.contains(&id(300_000).to_string())));
        // A separate walk for each would take hours.
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }
}
