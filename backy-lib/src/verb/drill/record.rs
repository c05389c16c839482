//! Which revision a drill takes, and that `status` learns of its result.

use super::pick;
use crate::archive::Archive;
use crate::base::error::Result;
use crate::base::progress::Event;
use crate::base::revision::RevisionId;
use crate::format::manifest::DrillReport;
use crate::policy::select::RevisionSpec;
use crate::verb::caller::Caller;

/// The revision that a drill takes: the one that is named, else one by the random number `seed`.
///
/// # Errors
/// [`Error::NoSuchRevision`](crate::Error::NoSuchRevision).
pub fn choose(archive: &Archive, revision: Option<&RevisionSpec>, seed: u64) -> Result<RevisionId> {
    let revisions = archive.revisions();
    match (revision, pick(revisions.len(), seed)) {
        (Some(revision), _) => revision.resolve(revisions),
        (None, Some(number)) => archive.id(number),
        // Without revisions the newest gives the right error.
        (None, None) => RevisionSpec::Latest.resolve(revisions),
    }
}

/// Records a drill for `status`. When that fails, the drill does not: the observer gets a finding.
pub fn record(archive: Archive, report: &DrillReport, caller: &Caller<'_>) {
    let recorded = caller
        .writer(archive, "drill")
        .and_then(|mut writer| writer.record_drill(report.clone(), caller.clock, caller.observer));
    if let Err(error) = recorded {
        let text = format!("cannot record this drill for 'status': {error}");
        caller.observer.event(&Event::Finding(text));
    }
}
