//! A pull from the origin in the config of the copy, and one that is only made if it is due.

use std::path::PathBuf;

use super::request::VERB;
use super::{PullOptions, PullReport, PullRequest};
use crate::archive::Archive;
use crate::base::error::Result;
use crate::origin::SshOptions;
use crate::storage::Trust;
use crate::verb::caller::Caller;

impl PullRequest {
    /// A pull from the origin in the `backy.toml` of the copy. `options` override what that says.
    ///
    /// # Errors
    /// As those of [`Archive::trusted_origin`].
    pub fn configured(
        folder: PathBuf,
        trust: Trust,
        ssh: SshOptions,
        options: PullOptions,
    ) -> Result<Self> {
        let config = Archive::open_with(&folder, trust)?.trusted_origin()?;
        let limit_rate = options.limit_rate.or(config.limit_rate);
        let options = PullOptions { limit_rate, ..options };
        let program = ssh.program.or(config.ssh);
        let ssh = SshOptions { program, ..ssh };
        let origin = config.url.parse()?;
        Ok(PullRequest { origin, ssh, folder, remember: false, trust, options })
    }

    /// Pulls if that is due by the `interval` of `[origin]`. `None` if another process has just done so.
    ///
    /// # Errors
    /// As those of [`PullRequest::run`].
    pub fn run_if_due(&self, caller: &Caller<'_>) -> Result<Option<PullReport>> {
        let archive = Archive::open_with(&self.folder, self.trust)?;
        if !archive.is_pull_due(caller.clock)? {
            return Ok(None);
        }
        let stopped = || caller.observer.cancelled();
        let mut origin = self.reach(&stopped, caller)?;
        let mut writer = caller.writer(archive, VERB)?;
        // Whoever held the lock until now may have pulled.
        if !writer.archive().is_pull_due(caller.clock)? {
            return Ok(None);
        }
        self.pull(&mut writer, &mut *origin, caller).map(Some)
    }
}
