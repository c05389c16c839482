//! `--wait`, which every command has that changes an archive.

use std::time::Duration;

use backy_lib::config::parse_wait;

/// How long another command is waited for.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Waiting {
    /// Wait this long (30s, 10m, 2h) while another command changes the archive
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait: Option<Duration>,
}

impl Waiting {
    /// None unless it was asked for.
    pub(crate) fn duration(self) -> Duration {
        self.wait.unwrap_or_default()
    }
}
