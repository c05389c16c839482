//! A revision as it appeared in an archive: with its number there and its unreadable data, which its manifest does
//! not have.

use std::collections::HashMap;

use backy_lib::extent::Extent;
use backy_lib::report_path::is_exact;
use backy_lib::{Archive, Result, RevisionId, status};
use pyo3::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::operations::Folder;
use crate::report::ToPython;

/// How often an archive that somebody changes is looked at again.
const ATTEMPTS: u32 = 8;

/// A revision, with what the archive knows about it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) revision: backy_lib::Revision,
    /// `None` of one that was read from JSON.
    pub(crate) number: Option<usize>,
    /// `None` when that is not known.
    pub(crate) damaged: Option<Vec<Extent>>,
}

impl Seen {
    fn alone(revision: &backy_lib::Revision) -> Self {
        Seen { revision: revision.clone(), number: None, damaged: None }
    }

    /// The newest, at the moment when it is that.
    pub(crate) fn newest(revision: &backy_lib::Revision) -> Self {
        let is_whole = revision.findings.bad_blocks.is_empty() && revision.flaws.is_empty();
        let damaged = is_whole.then(Vec::new);
        Seen { number: Some(0), damaged, ..Seen::alone(revision) }
    }
}

/// The revisions that `choose` names, in that order. An archive whose damage cannot be looked up can
/// be listed all the same.
pub(crate) fn see(
    folder: &Folder,
    choose: impl Fn(&Archive) -> Result<Vec<RevisionId>>,
) -> Result<Vec<Seen>> {
    let mut archive = folder.open()?;
    let mut damage = status::damage(&archive).unwrap_or_default();
    for _ in 1..ATTEMPTS {
        if damage.is_some() {
            break;
        }
        archive = folder.open()?;
        damage = status::damage(&archive).unwrap_or_default();
    }
    let numbered = archive.revisions().iter().enumerate();
    let numbered: HashMap<RevisionId, _> = numbered.map(|found| (found.1.uuid, found)).collect();
    let seen = |id: RevisionId| {
        let &(number, revision) = numbered.get(&id)?;
        let damaged = damage.as_ref().and_then(|all| all.get(number).cloned());
        Some(Seen { number: Some(number), damaged, ..Seen::alone(revision) })
    };
    Ok(choose(&archive)?.into_iter().filter_map(seen).collect())
}

impl ToPython for backy_lib::Revision {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Seen::alone(self).to_python(py)
    }
}

/// As a pickle has it; JSON has what the manifest has.
#[derive(Serialize, Deserialize)]
struct Whole<R> {
    revision: R,
    number: Option<usize>,
    damaged: Option<Vec<Extent>>,
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if !is_exact() {
            return Serialize::serialize(&self.revision, serializer);
        }
        let Seen { revision, number, damaged } = self;
        Whole { revision, number: *number, damaged: damaged.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        if !is_exact() {
            let revision = <backy_lib::Revision as Deserialize>::deserialize(from)?;
            return Ok(Seen::alone(&revision));
        }
        let Whole { revision, number, damaged } = Whole::deserialize(from)?;
        Ok(Seen { revision, number, damaged })
    }
}
