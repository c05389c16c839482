//! The verdict on a fleet: on all its archives, and on what is expected of them.

use std::time::Duration;

use super::declared::Expected;
use super::plan::FleetRequest;
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::progress::Observer;
use crate::policy::health::{Cause, Problem, ProblemKind, stuck};
use crate::verdict::check::{self, Checked, HostReport};

impl FleetRequest {
    /// The verdict on each archive, and on the archives that are expected: one that is missing, has another source
    /// than declared, or was never backed up is critical. With `revisions`, with every revision of each archive.
    ///
    /// # Errors
    /// Only errors of the process; [`crate::Error::Interrupted`] if the observer asks to stop.
    pub fn check(
        &self,
        revisions: bool,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<HostReport> {
        let mut unlisted = Vec::new();
        let expected = Expected::of(self, &mut unlisted)?;
        let archives = check::look_at_all(&expected.given(), revisions, clock, observer)?;
        let stall = self.settings.stall();
        let is_explained = |checked: &Checked| {
            checked.status.is_none() && expected.explains(checked.archive.as_path())
        };
        let archives = archives.into_iter().filter(|checked| !is_explained(checked));
        let mut archives: Vec<Checked> =
            archives.map(|checked| judge(checked, &expected, stall)).collect();
        archives.extend(expected.missing_ones().map(|(label, _)| {
            let message = "fleet.toml declares this archive, and it does not exist";
            let advice = "mount its disk, or make it with 'backy run'";
            Checked::missing(label.clone(), Cause::Expected.problem(message, advice))
        }));
        let unlisted = unlisted.into_iter().map(|problem| {
            let advice = "correct archives_from in fleet.toml, or that program";
            Cause::Unreadable.problem(problem.message, advice)
        });
        Ok(check::judge(archives, unlisted.collect(), clock.now()))
    }
}

/// Adds what is expected of one archive, and judges its progress by the time of the settings.
fn judge(checked: Checked, expected: &Expected, stall: Duration) -> Checked {
    let Some(status) = &checked.status else { return checked };
    let mut more: Vec<Problem> = Vec::new();
    if let Some(difference) = expected.other_source(
        &checked.archive,
        status.source.as_ref(),
        status.origin.as_ref().map(|origin| origin.url.as_str()),
    ) {
        more.push(Cause::Expected.problem(difference, "see fleet.toml(5)"));
    }
    if status.revision_count == 0 && expected.contains(&checked.archive) {
        let message = "fleet.toml declares this archive, and it was never backed up";
        more.push(Cause::Expected.problem(message, "run 'backy run', and see why it fails"));
    }
    more.extend(stuck(status.lock_holder.as_deref(), status.progress_at, status.checked, stall));
    checked.judged(|problems| {
        problems.retain(|problem| problem.kind != ProblemKind::Stuck);
        problems.extend(more);
    })
}
