//! `backy source`

use backy_lib::SourceReport;
use backy_lib::clock::Clock;
use backy_lib::source_report::source;
use backy_lib::units::display_size;
use backy_lib::{SystemClock, escape};

use crate::Session;
use crate::errors::Failure;
use crate::output::interval;

/// Print what the source is and what the next backup will read
///
/// Shows the configured source, whether something tracks its changes, the marks that this archive has left there, and
/// whether the next backup will read everything, and why. It changes nothing. doc/sources.md describes the kinds of
/// sources.
///
/// If the source cannot be opened, the exit status is 1.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let report = source(&session.archive()?)?;
    match args.json {
        true => session.output.json(&report)?,
        false => session.output.result(describe(&report).as_bytes())?,
    }
    match &report.error {
        Some(error) => Err(Failure::message(error.clone())),
        None => Ok(()),
    }
}

fn describe(report: &SourceReport) -> String {
    let mut lines = Vec::new();
    let kind = report.kind.as_deref().zip(report.size_bytes);
    let kind = kind.map(|(kind, bytes)| format!(", {kind} of {}", display_size(bytes)));
    lines.push(match &report.source {
        Some(source) => {
            format!(
                "Source:       {}{}",
                escape::line(source),
                escape::line(&kind.unwrap_or_default())
            )
        }
        None => "Source:       none is configured".to_owned(),
    });
    if report.error.is_none() {
        let off = if report.mode == "off" { "; switched off in backy.toml" } else { "" };
        lines.push(match &report.tracker {
            Some(tracker) => format!("Tracker:      {}{off}", escape::line(tracker)),
            None => "Tracker:      none: it cannot report what has changed".to_owned(),
        });
        if let Some(marks) = report.marks.as_ref().filter(|_| report.tracker.is_some()) {
            lines.push(match marks.as_slice() {
                [] => "Marks:        none".to_owned(),
                [first, ..] => format!("Marks:        {first}"),
            });
            lines.extend(marks.iter().skip(1).map(|mark| format!("              {mark}")));
        }
        lines.push(match (&report.since, &report.reason) {
            (Some(since), _) => {
                format!("Next backup:  reads what has changed since revision {since}")
            }
            (None, reason) => format!(
                "Next backup:  reads everything: {}",
                escape::line(reason.as_deref().unwrap_or("no reason is known"))
            ),
        });
    }
    if let Some(since) = report.compared_since {
        let age = SystemClock.now().duration_since(since).as_secs().max(0);
        let within = interval(report.verify_within_seconds);
        lines.push(format!(
            "Compared:     every block within the last {}; backy.toml asks for {within}",
            interval(age.max(1))
        ));
    }
    lines.join("\n") + "\n"
}
