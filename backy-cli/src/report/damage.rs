//! The words for damage, which are the same, and red, wherever it is shown.

use std::collections::BTreeSet;

use backy_lib::Level;
use backy_lib::health::{Problem, ProblemKind};
use backy_lib::status::StatusReport;

use crate::words;

/// What an archive has lost.
pub(super) struct Damage {
    /// Extents that cannot be read. What several revisions read from one place counts once.
    places: usize,
    /// Revisions that cannot be read in full.
    revisions: usize,
}

impl Damage {
    /// `None` when nothing is known to be damaged.
    pub(super) fn of(status: &StatusReport) -> Option<Self> {
        let damaged = status.revisions.iter().flat_map(|revision| &revision.damaged);
        let places: BTreeSet<_> = damaged.map(|extent| (extent.offset, extent.len)).collect();
        let (places, revisions) = (places.len(), status.damaged_count);
        let is_damaged = revisions > 0 || status.health.problems.iter().any(is_damage);
        is_damaged.then_some(Damage { places, revisions })
    }

    /// `checked, 2 places damaged`
    pub(super) fn short(&self) -> String {
        match self.places {
            0 => "checked, files damaged".to_owned(),
            places => format!("checked, {} damaged", words::count(places, "place")),
        }
    }

    /// `checked, 2 places damaged in 3 revisions`
    pub(super) fn long(&self) -> String {
        match self.revisions {
            0 => self.short(),
            count => format!("{} in {}", self.short(), words::count(count, "revision")),
        }
    }
}

/// Missing or broken files are damage without a named block.
fn is_damage(problem: &Problem) -> bool {
    let of_files = matches!(problem.kind, ProblemKind::Damage | ProblemKind::MissingFile);
    of_files && problem.level == Level::Critical
}
