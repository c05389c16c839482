//! How long some blocks have not been compared with a source that reports what has changed.

use super::{Cause, Facts, Problem, display_age};
use crate::policy::config::{Tracking, TrackingMode};
use crate::policy::rotation;

/// A block went longer than promised without being compared.
pub(super) fn uncompared(facts: &Facts<'_>) -> Option<Problem> {
    let default = Tracking::default();
    let tracking = facts.config.map_or(&default, |config| &config.tracking);
    let newest = facts.manifest.revisions.first()?;
    let oldest = rotation::oldest(newest, facts.manifest.block_size)
        .filter(|_| tracking.mode != TrackingMode::Off)?;
    let age = facts.now.duration_since(oldest);
    if age <= tracking.verify_within {
        return None;
    }
    let wanted = display_age(tracking.verify_within.as_secs());
    let message = match oldest == jiff::Timestamp::MIN {
        true => format!(
            "it is not known when some blocks were last compared with the source; backy.toml asks for it every {wanted}"
        ),
        false => format!(
            "some blocks have not been compared with the source for {}; backy.toml asks for it every {wanted}",
            display_age(age.as_secs())
        ),
    };
    let advice = "the next backup compares them, or one with --read-all";
    Some(Cause::Tracking.problem(message, advice))
}
