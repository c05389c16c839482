//! Whether a copy is up to date, by `[origin]` of its config and by its history.

use jiff::Timestamp;

use crate::archive::Archive;
use crate::archive::history::{self, Filled};
use crate::base::clock::{Clock, latest};
use crate::base::error::Result;
use crate::policy::config::Config;
use crate::policy::health::OriginStatus;

impl Archive {
    /// Where the copy comes from, and when its next pull is due; `None` if it is no copy.
    pub(crate) fn origin_status(
        &self,
        config: &Config,
        clock: &dyn Clock,
    ) -> Result<Option<OriginStatus>> {
        let Some(origin) = &config.origin else { return Ok(None) };
        let now = clock.now();
        let latest = latest(now);
        let recent = history::recent(self.storage(), Filled::ByPulls, Timestamp::MAX, latest)?;
        Ok(Some(OriginStatus::of(origin, recent.last_pull.as_ref(), self.revisions(), now)))
    }

    /// Whether the copy should pull now.
    pub(super) fn is_pull_due(&self, clock: &dyn Clock) -> Result<bool> {
        let status = self.origin_status(&self.config()?, clock)?;
        Ok(status.is_some_and(|status| status.is_due(clock.now())))
    }
}
