//! How another machine is reached, for the commands that take an address.

use std::io::IsTerminal;
use std::sync::Arc;

use backy_lib::origin::SshOptions;
use backy_lib::origin::address::split_words;

use crate::Session;
use crate::cli::Verbosity;
use crate::errors::Failure;

/// What this program calls itself on the line.
pub(super) fn name() -> String {
    format!("backy {}", clap::crate_version!())
}

#[derive(clap::Args)]
pub(super) struct Far {
    /// Command to use instead of ssh, such as 'ssh -i KEY'
    #[arg(long, value_name = "COMMAND", default_value = "ssh", hide_default_value = true)]
    ssh: String,
}

impl Far {
    /// Without a terminal nobody can answer a question of ssh.
    pub(super) fn options(&self, session: &Session) -> Result<SshOptions, Failure> {
        let output = session.output.clone();
        let lines = move |line: &str| output.note(line);
        Ok(SshOptions {
            program: split_words(&self.ssh)?,
            batch: !std::io::stdin().is_terminal(),
            name: name(),
            lines: (session.verbosity > Verbosity::Quiet).then(|| Arc::new(lines) as _),
            ..SshOptions::default()
        })
    }
}
