//! `backy completions`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Session;
use crate::cli::Cli;
use crate::errors::Failure;

/// Print a script that completes arguments in a shell
///
/// For bash: backy completions bash > /etc/bash_completion.d/backy
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    // By way of memory: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "backy", &mut script);
    session.output.result(&script)
}
