//! `backy init`

use std::fmt::Write;
use std::path::PathBuf;

use backy_lib::escape;
use backy_lib::init::InitRequest;
use backy_lib::units::{display_size, parse_size};
use backy_lib::{Archive, BlockSize, Config, ErrorKind};
use clap::ValueHint;

use crate::Session;
use crate::cli::Verbosity;
use crate::errors::Failure;
use crate::output::interval;
use crate::words::shell_word;

/// Create an archive
///
/// Creates the folder with backy.toml and README. The archive gets a daily, weekly and monthly schedule, which you
/// can change in backy.toml, or the settings of the files of --include. backy refuses a folder that already holds an
/// archive.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Block device or file to back up [default: none; set it later in backy.toml]
    ///
    /// backy accepts a source that does not exist yet, with a warning. A symbolic link stays a link: every backup
    /// follows it, if it belongs to root or to you.
    #[arg(value_hint = ValueHint::FilePath)]
    source: Option<PathBuf>,

    /// Archive to copy, in place of a source: ssh://HOST/PATH, or an absolute path
    ///
    /// The new archive is a copy: 'backy pull' takes over revisions of the other one. Its own schedule decides how
    /// long they stay.
    #[arg(long, value_name = "URL", conflicts_with = "source")]
    origin: Option<String>,

    /// File with settings for several archives, which backy.toml includes; repeatable
    ///
    /// backy.toml then has only the source, and whatever you add: it overrides the settings of these files.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    include: Vec<PathBuf>,

    /// Unit of comparison and storage: a power of two from 4K to 2M; it cannot be changed later
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = block_size)]
    block_size: BlockSize,
}

pub(super) fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = parse_size(text)?;
    let expected = || format!("'{text}' is not a power of two from 4K to 2M");
    BlockSize::new(bytes).ok_or_else(expected)
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let request = InitRequest {
        folder: session.folder.clone(),
        source: args.source.clone(),
        origin: args.origin.clone(),
        include: args.include.clone(),
        block_size: args.block_size,
        trust: session.trust,
    };
    let created = request.run().map_err(|error| match error.kind() {
        ErrorKind::Source => Failure::advised(
            error,
            "name another device or file, or another folder with -b, or omit SOURCE and set it later",
        ),
        _ => error.into(),
    })?;
    if let Some(warning) = &created.warning {
        session.output.warning(warning);
    }
    if session.verbosity == Verbosity::Quiet {
        return Ok(());
    }
    let mut text = describe(&created.archive, created.source_bytes)?;
    if let Some(advice) = &created.advice {
        text.push_str(&format!("\nNote: {}.\n", escape::line(advice)));
    }
    session.output.result(text.as_bytes())
}

fn describe(archive: &Archive, source_bytes: Option<u64>) -> Result<String, Failure> {
    let folder = archive.folder();
    let folder = escape::line(&folder.to_string_lossy()).into_owned();
    let config = archive.config()?;
    let blocks = display_size(archive.manifest().block_size.bytes()).replace(".0 ", " ");
    let mut text = format!("Created an archive in {folder} with blocks of {blocks}.\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    match (&config.source, source_bytes) {
        (Some(source), Some(size_bytes)) => {
            let source = source.to_string();
            line(format!("Source: {}, {}.", escape::line(&source), display_size(size_bytes)));
        }
        (Some(source), None) => line(format!("Source: {}.", escape::line(&source.to_string()))),
        (None, _) => line(match &config.origin {
            Some(origin) => format!("A copy of {}.", escape::line(&origin.url)),
            None => format!("Source: not set; set it in {folder}/backy.toml."),
        }),
    }
    let place = match config.includes.as_slice() {
        [] => format!("in {folder}/backy.toml"),
        [file] => format!("see {}", escape::line(&file.to_string_lossy())),
        files => format!("see the {} files that {folder}/backy.toml includes", files.len()),
    };
    line(format!("Schedule: {} ({place}).", schedule(&config)));
    let quoted = shell_word(&folder);
    // In a line of cron a '%' ends the command, also in quotes.
    let for_cron = quoted.replace('%', r"\%");
    line(String::new());
    if config.origin.is_some() {
        line("Pull its revisions:".to_owned());
        line(format!("  backy -b {quoted} -v pull"));
        line("Then let cron start pulls, for instance in /etc/cron.d/backy:".to_owned());
        line(format!("  15 4 * * *    root  backy -b {for_cron} pull"));
    } else {
        line("Make the first backup:".to_owned());
        line(format!("  backy -b {quoted} -v backup"));
        line("Then let cron start backups, for instance in /etc/cron.d/backy:".to_owned());
        line(format!("  */15 * * * *  root  backy -b {for_cron} backup"));
    }
    line(format!("  20 6 * * *    root  backy -b {for_cron} maintenance --wait 4h"));
    line(format!("  40 6 * * 0    root  backy -b {for_cron} scrub --budget 2h --wait 4h"));
    Ok(text)
}

/// `daily every day (keep 9), …`
fn schedule(config: &Config) -> String {
    let mut tags: Vec<_> = config.schedule.iter().collect();
    tags.sort_by_key(|(_, interval)| interval.interval);
    let mut text = String::new();
    for (tag, each) in tags {
        let every = match interval(each.interval.as_secs()) {
            day if day == "1 day" => "day".to_owned(),
            other => other,
        };
        let separator = if text.is_empty() { "" } else { ", " };
        let at = each.at.map(|at| format!(" at {}", at.strftime("%H:%M"))).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{tag} every {every}{at} (keep {})", each.keep);
    }
    if text.is_empty() { "none: a backup is always due".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_given_with_units() {
        assert_eq!(block_size("64K"), Ok(BlockSize::DEFAULT));
        assert_eq!(block_size("2MiB"), Ok(BlockSize::MAX));
        for bad in ["65K", "2K", "4M", "x", ""] {
            assert!(block_size(bad).is_err(), "{bad}");
        }
    }
}
