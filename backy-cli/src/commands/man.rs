//! `backy man`: the manual pages. The page of the command is generated from the arguments and the texts below.

use std::io;

use clap::CommandFactory;
use clap_mangen::Man;

use super::man_config;
use crate::Session;
use crate::cli::Cli;
use crate::errors::Failure;

/// Print a manual page
///
/// 'backy man | man -l -' shows it, 'backy man > /usr/local/share/man/man1/backy.1' installs it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which page: the command, backy.toml or fleet.toml
    #[arg(value_enum, default_value_t)]
    page: Page,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Page {
    #[default]
    #[value(name = "backy")]
    Command,
    #[value(name = "backy.toml")]
    Config,
    #[value(name = "fleet.toml")]
    Fleet,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match args.page {
        Page::Command => session.output.result(&page().map_err(Failure::Output)?),
        Page::Config => session.output.result(man_config::page().as_bytes()),
        Page::Fleet => session.output.result(man_config::fleet_page().as_bytes()),
    }
}

/// The whole page, with every command.
fn page() -> io::Result<Vec<u8>> {
    let mut root = Cli::command();
    root.build();
    let mut page = Vec::new();
    let man = Man::new(root.clone()).manual("backy");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        // The options that all commands have are described once.
        let command = command.clone().mut_args(|arg| {
            let hidden = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(hidden)
        });
        page.extend_from_slice(section(command)?.as_bytes());
    }
    page.extend_from_slice(include_bytes!("man_sections.roff"));
    Ok(page)
}

/// One command: usage, description, arguments.
fn section(command: clap::Command) -> io::Result<String> {
    let name = command.get_name().to_owned();
    let described = command.get_arguments().any(|arg| !arg.is_hide_set());
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if described {
        man.render_options_section(&mut text)?;
    }
    let text = String::from_utf8_lossy(&text);
    // Its sections become paragraphs of a subsection.
    let mut out = format!(".SS backy {name}\n");
    for line in text.lines() {
        match line {
            ".SH SYNOPSIS" => {}
            line if line.starts_with(".SH") => out.push_str(".PP\n"),
            line => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    Ok(out)
}
