//! The arguments. The doc comments here are the help texts and the manual page.

use std::path::{Path, PathBuf};

use backy_lib::{Clock, Error, Here, RevisionSpec, RevisionsSpec, SystemClock, Trust};
use clap::{Parser, Subcommand, ValueHint};
use jiff::tz::TimeZone;

use crate::commands::{
    backup, check, completions, config, drill, export, find, import, init, maintenance, man, mount,
    pull, push, receive, report, restore, rm, run, scrub, serve, source, status, tag,
};
use crate::errors::Failure;
use crate::log::LogFormat;
use crate::words::shell_word;

/// Backs up a block device or large file into a folder, the archive
///
/// You can restore without backy: an archive's README explains how.
#[derive(Parser)]
#[command(
    name = "backy",
    bin_name = "backy",
    version,
    max_term_width = 100,
    after_help = EXAMPLES,
    next_help_heading = "Global options"
)]
pub(crate) struct Cli {
    /// Folder of the archive
    #[arg(
        short,
        long,
        global = true,
        value_name = "DIR",
        default_value = ".",
        value_hint = ValueHint::DirPath,
        display_order = 100
    )]
    pub(crate) backupdir: PathBuf,

    /// Report what was done, even on success
    #[arg(short, long, global = true, conflicts_with = "quiet", display_order = 101)]
    verbose: bool,

    /// Print only results, warnings and errors
    #[arg(short, long, global = true, display_order = 102)]
    quiet: bool,

    /// Log format of standard error: text, json, journal
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        hide_possible_values = true,
        display_order = 103
    )]
    pub(crate) log_format: Option<LogFormat>,

    /// Trust an archive that others can change: backy(1)
    #[arg(long, global = true, display_order = 104)]
    trust: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples, in the folder above the archive 'mynode':
  backy -b mynode init /dev/vg0/mynode
  backy -b mynode backup                  what cron runs; silent on success
  backy -b mynode restore -r 1 disk.img   the previous revision, to a file

Exit status: 0 success, 1 error, 130 interrupted by Ctrl-C; check has its own.";

/// How a revision is named, for the options that take one.
pub(crate) const REVISION_HELP: &str = "\
Which revision: a number (0 is the newest, 1 the previous one), a UUID or its first 4 hex digits or more, latest, \
first, tag:NAME, or a time, such as yesterday or '2026-11-28 02:00', for the newest made until then. See REVISIONS \
in backy(1).";

/// How several revisions are named.
pub(crate) const REVISIONS_HELP: &str = "\
Which revisions: all, a number (0 is the newest), a UUID or its first 4 hex digits or more, latest, first, tag:NAME \
(all with that tag), a time, such as yesterday (all made then), A..B, or several of these with commas. See REVISIONS \
in backy(1).";

/// Where and when a revision is named.
pub(crate) fn here() -> Here {
    Here { now: SystemClock.now(), zone: TimeZone::system() }
}

/// One revision, for clap.
pub(crate) fn revision(text: &str) -> Result<RevisionSpec, Error> {
    RevisionSpec::parse(text, &here())
}

/// Several revisions, for clap.
pub(crate) fn revisions(text: &str) -> Result<RevisionsSpec, Error> {
    RevisionsSpec::parse(text, &here())
}

/// Refuses a file name that reads as a revision: somebody who forgets `-r` means the revision.
pub(crate) fn check_file_name(name: &Path) -> Result<(), Failure> {
    let Some(text) = name.to_str().filter(|text| revision(text).is_ok()) else { return Ok(()) };
    let word = shell_word(text);
    Err(Failure::message(format!(
        "'{text}' reads as a revision; for revision {text} use -r {word}; for a file use ./{word}"
    )))
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Backup(backup::Args),
    Run(run::Args),
    Status(status::Args),
    Check(check::Args),
    Report(report::Args),
    Restore(restore::Args),
    Drill(drill::Args),
    Export(export::Args),
    Mount(mount::Args),
    Find(find::Args),
    Config(config::Args),
    Source(source::Args),
    Import(import::Args),
    Pull(pull::Args),
    Push(push::Args),
    #[command(hide = true)]
    Serve(serve::Args),
    #[command(hide = true)]
    Receive(receive::Args),
    Maintenance(maintenance::Args),
    Scrub(scrub::Args),
    Tag(tag::Args),
    Rm(rm::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Its name in the arguments.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Init(_) => "init",
            Command::Backup(_) => "backup",
            Command::Status(_) => "status",
            Command::Check(_) => "check",
            Command::Report(_) => "report",
            Command::Restore(_) => "restore",
            Command::Drill(_) => "drill",
            Command::Export(_) => "export",
            Command::Mount(_) => "mount",
            Command::Find(_) => "find",
            Command::Config(_) => "config",
            Command::Import(_) => "import",
            Command::Pull(_) => "pull",
            Command::Push(_) => "push",
            Command::Serve(_) => "serve",
            Command::Source(_) => "source",
            Command::Receive(_) => "receive",
            Command::Maintenance(_) => "maintenance",
            Command::Scrub(_) => "scrub",
            Command::Tag(_) => "tag",
            Command::Rm(_) => "rm",
            Command::Run(_) => "run",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }

    /// Whether it changes the archive when it succeeds, so that the figures for monitoring must be written again.
    pub(crate) fn changes(&self) -> bool {
        match self {
            Command::Init(_) | Command::Import(_) | Command::Tag(_) | Command::Drill(_) => true,
            Command::Backup(args) => !args.is_dry_run(),
            Command::Pull(args) => !args.is_dry_run(),
            Command::Maintenance(args) => !args.is_dry_run(),
            Command::Rm(args) => !args.is_dry_run(),
            Command::Scrub(args) => !args.only_checks(),
            Command::Status(_)
            | Command::Check(_)
            | Command::Report(_)
            | Command::Restore(_)
            | Command::Export(_)
            | Command::Mount(_)
            | Command::Find(_)
            // What they change is not the archive of -b.
            | Command::Push(_)
            | Command::Serve(_)
            | Command::Receive(_)
            // Each of its jobs does so itself.
            | Command::Run(_)
            | Command::Config(_)
            | Command::Source(_)
            | Command::Completions(_)
            | Command::Man(_) => false,
        }
    }
}

impl Command {
    /// Whether it changes only the archive, and neither reads the source nor runs a program, so that root can do it
    /// with the rights of the archive's owner.
    pub(crate) fn only_changes_the_archive(&self) -> bool {
        match self {
            Command::Tag(_) => true,
            Command::Maintenance(args) => !args.is_dry_run(),
            Command::Rm(args) => !args.is_dry_run(),
            Command::Scrub(args) => !args.only_checks(),
            _ => false,
        }
    }
}

/// How much the command prints on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    Quiet,
    Normal,
    Verbose,
}

impl Cli {
    pub(crate) fn trust(&self) -> Trust {
        if self.trust { Trust::Given } else { Trust::Checked }
    }

    pub(crate) fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, false) => Verbosity::Normal,
            (false, true) => Verbosity::Verbose,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_option_has_a_help_text() {
        let mut root = Cli::command();
        root.build();
        for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }
}
