//! The help of one command on two screens: its whole text, and the full description of each option in one column.
//!
//! clap writes either a short text in two columns (`-h`) or a long one with each option on lines of its own (`--help`,
//! `help COMMAND`), which takes up to four screens. So the long one is replaced here by the short form of a command
//! whose short texts are the long ones.

use clap::builder::StyledStr;
use clap::{Command, CommandFactory};

use crate::cli::Cli;

/// What to print instead of clap's long help, of a command or of all. `None` for any other text.
pub(crate) fn compact(shown: &clap::Error) -> Option<clap::Error> {
    let text = shown.render().to_string();
    let mut root = Cli::command();
    root.build();
    if root.render_long_help().to_string() == text {
        return in_two_columns(Cli::command()).try_get_matches_from(["backy", "-h"]).err();
    }
    let is_shown = |command: &&Command| {
        command.get_long_about().is_some()
            && (*command).clone().render_long_help().to_string() == text
    };
    let name = root.get_subcommands().find(is_shown)?.get_name().to_owned();
    let changed = Cli::command().mut_subcommand(&name, in_two_columns);
    changed.try_get_matches_from(["backy", &name, "-h"]).err()
}

fn in_two_columns(command: Command) -> Command {
    let about = command.get_long_about().cloned();
    let command = command.mut_args(|arg| match arg.get_long_help() {
        Some(long) => {
            let short = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let mut whole = in_one_paragraph(long);
            // Where the long text is the same for several commands, only the short one has the default.
            if let Some((_, default)) =
                short.split_once("[default: ").filter(|_| !whole.contains("[default: "))
            {
                whole = format!("{whole} [default: {default}");
            }
            arg.help(whole)
        }
        None => arg,
    });
    match about {
        Some(about) => command.about(about),
        None => command,
    }
}

/// The first line of a long text is a title without a full stop.
fn in_one_paragraph(long: &StyledStr) -> String {
    long.to_string().replace("\n\n", ". ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn long_help(args: &[&str]) -> clap::Error {
        match Cli::try_parse_from(args) {
            Ok(_) => panic!("{args:?} is no help"),
            Err(error) => error,
        }
    }

    /// Both ways to ask for a long help get the compact one; `-h` stays as clap writes it.
    #[test]
    fn only_long_help_is_replaced() {
        for args in [["backy", "help", "restore"], ["backy", "restore", "--help"]] {
            let text = compact(&long_help(&args)).expect("the long help").to_string();
            assert!(
                text.contains("Restore a revision") && text.contains("'backy -b DIR restore'"),
                "{text}"
            );
        }
        for args in [["backy", "help"], ["backy", "--help"]] {
            let text = compact(&long_help(&args)).expect("the long help").to_string();
            assert!(text.contains("README") && text.contains("Examples"), "{text}");
        }
        for args in [&["backy", "restore", "-h"][..], &["backy", "-h"]] {
            assert!(compact(&long_help(args)).is_none(), "{args:?}");
        }
    }

    /// The options of all commands have a line each, and nothing else stands under their heading.
    #[test]
    fn global_options_have_a_heading_and_no_long_text() {
        let mut root = Cli::command();
        root.build();
        for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
            for arg in command.get_arguments() {
                let (is_there, is_global) =
                    (arg.get_help_heading() == Some("Global options"), arg.is_global_set());
                assert_eq!(is_there, is_global, "{} {}", command.get_name(), arg.get_id());
                assert!(!is_global || arg.get_long_help().is_none(), "{}", arg.get_id());
            }
        }
    }
}
