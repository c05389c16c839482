//! The file for Prometheus that a run writes: its own figures, and those of all archives.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::plan::FleetRequest;
use super::report::{FleetReport, JobResult};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::Silent;
use crate::verdict::monitoring::{prometheus, replace_figures};

/// How such a file begins.
const BEGIN: &str = "# HELP backy_fleet_";

/// A metric of a run: its name, its meaning, and its values with their labels.
type Metric = (&'static str, &'static str, fn(&FleetReport) -> Vec<(String, f64)>);

/// Metrics of runs, in output order.
const METRICS: &[Metric] = &[
    ("backy_fleet_run_timestamp_seconds", "When the last run ended.", |report| {
        one(report.finished.as_millisecond() as f64 / 1000.0)
    }),
    ("backy_fleet_run_duration_seconds", "How long the last run took.", |report| {
        one(report.finished.duration_since(report.started).as_secs_f64())
    }),
    ("backy_fleet_run_success", "Whether all went well in the last run: 1 yes, 0 no.", |report| {
        one(f64::from(u8::from(report.is_ok())))
    }),
    ("backy_fleet_archives", "Archives that the last run looked at.", |report| {
        one(report.archives as f64)
    }),
    ("backy_fleet_problems", "What the last run could not work on.", |report| {
        one(report.problems.len() as f64)
    }),
    ("backy_fleet_jobs", "Jobs of the last run by their results.", |report| {
        let labelled = |result: JobResult| {
            (format!("{{result=\"{}\"}}", result.as_str()), report.count(result) as f64)
        };
        JobResult::ALL.map(labelled).to_vec()
    }),
];

fn one(value: f64) -> Vec<(String, f64)> {
    vec![(String::new(), value)]
}

/// The names of all metrics of runs, in output order.
pub fn fleet_metrics() -> impl Iterator<Item = &'static str> {
    METRICS.iter().map(|(name, ..)| *name)
}

impl FleetRequest {
    /// Writes the file that the settings name, if they name one.
    ///
    /// # Errors
    /// Errors of writing; also if something else than a run has written what is there.
    pub fn write_textfile(&self, report: &FleetReport, clock: &dyn Clock) -> Result<()> {
        let Some(path) = &self.settings.textfile else { return Ok(()) };
        check_ours(path)?;
        let host = self.check(false, clock, &Silent)?;
        let text = figures(report) + &prometheus(&host.archives);
        replace_figures(path, text.as_bytes())
    }
}

fn figures(report: &FleetReport) -> String {
    let mut text = String::new();
    for (name, help, of) in METRICS {
        // Writing to a string does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in of(report) {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    }
    text
}

/// Refuses a file that no run has written.
fn check_ours(path: &Path) -> Result<()> {
    let mut begin = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(BEGIN.len() as u64).read_to_end(&mut begin));
    let is_ours = match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(Error::io(path, "read the figures there")(error)),
        // A power cut may have left an empty file.
        Ok(_) => begin.is_empty() || begin == BEGIN.as_bytes(),
    };
    let why =
        "something that 'backy run' did not write is there; name another file, or delete this one";
    match is_ours {
        true => Ok(()),
        false => Err(Error::io(path, "write the figures")(io::Error::other(why))),
    }
}
