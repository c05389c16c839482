//! The Prometheus text format, as node_exporter's textfile collector reads it.
//!
//! Source: "Exposition formats", text-based format 0.0.4, and "Metric and label naming": base units, one HELP
//! and TYPE for each name. The help texts are constant, so that the files of several archives can be
//! combined.

use std::fmt::Write;

use jiff::Timestamp;

use crate::base::escape::is_unsafe;
use crate::policy::health::{Level, OriginStatus, ProblemKind};
use crate::verdict::check::Checked;
use crate::verdict::status::StatusReport;

/// A value with its labels, in addition to the archive's.
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

type Samples = Vec<Sample>;

/// A metric: its name, its meaning, and where its values come from.
struct Metric {
    name: &'static str,
    help: &'static str,
    of: fn(&Checked) -> Samples,
}

/// Metrics of verdicts, in output order.
const METRICS: &[Metric] = &[
    Metric {
        name: "backy_status",
        help: "The verdict: 0 ok, 1 warning, 2 critical, 3 unknown.",
        of: |checked| one(checked.health.level.exit_status()),
    },
    Metric {
        name: "backy_problem",
        help: "Problems by kind: 0 none, 1 warning, 2 critical, 3 unknown.",
        of: problems,
    },
    Metric {
        name: "backy_check_timestamp_seconds",
        help: "When the archive was checked.",
        of: |checked| known(checked, |status| at(status.checked)),
    },
    Metric {
        name: "backy_revisions",
        help: "Revisions in the archive.",
        of: |checked| known(checked, |status| one(status.revision_count as f64)),
    },
    Metric {
        name: "backy_damaged_revisions",
        help: "Revisions that cannot be read in full or have damaged files.",
        of: |checked| known(checked, |status| one(status.damaged_count as f64)),
    },
    Metric {
        name: "backy_last_backup_timestamp_seconds",
        help: "When the newest revision began.",
        of: |checked| newest(checked, |newest| seconds(newest.started)),
    },
    Metric {
        name: "backy_last_backup_duration_seconds",
        help: "Time that the newest revision took.",
        of: |checked| newest(checked, |newest| newest.seconds),
    },
    Metric {
        name: "backy_last_backup_read_bytes",
        help: "Bytes that the newest revision read from the source.",
        of: |checked| newest(checked, |newest| newest.read_bytes as f64),
    },
    Metric {
        name: "backy_last_backup_changed_bytes",
        help: "Bytes in blocks that differed from the previous revision.",
        of: |checked| newest(checked, |newest| newest.changed_bytes as f64),
    },
    Metric {
        name: "backy_last_backup_stored_bytes",
        help: "Bytes on disk that the newest revision added.",
        of: |checked| newest(checked, |newest| newest.stored_bytes as f64),
    },
    Metric {
        name: "backy_image_size_bytes",
        help: "Size of the newest revision.",
        of: |checked| newest(checked, |newest| newest.size_bytes as f64),
    },
    Metric {
        name: "backy_tag_last_timestamp_seconds",
        help: "When the last revision with the tag began.",
        of: |checked| by_tag(checked, |tag| tag.last.map(seconds)),
    },
    Metric {
        name: "backy_tag_interval_seconds",
        help: "How often the tag is due.",
        of: |checked| by_tag(checked, |tag| Some(tag.interval_seconds as f64)),
    },
    Metric {
        name: "backy_last_pull_timestamp_seconds",
        help: "When the last successful pull of a copy began.",
        of: |checked| origin(checked, |origin| origin.last_pull.map(seconds)),
    },
    Metric {
        name: "backy_pull_interval_seconds",
        help: "How often a copy is due to pull.",
        of: |checked| origin(checked, |origin| Some(origin.interval_seconds as f64)),
    },
    Metric {
        name: "backy_run_timestamp_seconds",
        help: "When the last run of the command ended.",
        of: |checked| by_run(checked, |run| seconds(run.finished)),
    },
    Metric {
        name: "backy_run_success",
        help: "Whether the last run of the command succeeded: 1 yes, 0 no.",
        of: |checked| by_run(checked, |run| flag(run.result == "ok")),
    },
    Metric {
        name: "backy_checked_ratio",
        help: "Share of the stored data that scrubs have verified, from 0 to 1.",
        of: |checked| known(checked, |status| one(status.coverage.verified_share)),
    },
    Metric {
        name: "backy_last_scrub_timestamp_seconds",
        help: "When a scrub last read anything.",
        of: |checked| known(checked, |status| maybe(status.last_scrub.map(seconds))),
    },
    Metric {
        name: "backy_unchecked_since_timestamp_seconds",
        help: "Since when some stored data has not been verified.",
        of: |checked| known(checked, |status| maybe(status.unchecked_since.map(seconds))),
    },
    Metric {
        name: "backy_last_drill_timestamp_seconds",
        help: "When the last test restore began.",
        of: |checked| drill(checked, |drill| seconds(drill.started)),
    },
    Metric {
        name: "backy_drill_success",
        help: "Whether the last test restore passed: 1 yes, 0 no.",
        of: |checked| drill(checked, |drill| flag(drill.passed)),
    },
    Metric {
        name: "backy_chain_length",
        help: "Deltas in the longest chain.",
        of: |checked| known(checked, |status| one(status.chain_length)),
    },
    Metric {
        name: "backy_changed_ratio",
        help: "Share of the newest revision that changed, from 0 to 1.",
        of: |checked| change(checked, |change| change.share),
    },
    Metric {
        name: "backy_usual_changed_ratio",
        help: "The median of that share in earlier revisions.",
        of: |checked| change(checked, |change| change.usual_share),
    },
    Metric {
        name: "backy_expiry_frozen",
        help: "Whether nothing expires until somebody confirms: 1 yes, 0 no.",
        of: |checked| known(checked, |status| one(flag(!status.frozen.is_empty()))),
    },
    Metric {
        name: "backy_locked",
        help: "Whether a command is changing the archive: 1 yes, 0 no.",
        of: |checked| known(checked, |status| one(flag(status.lock_holder.is_some()))),
    },
    Metric {
        name: "backy_archive_bytes",
        help: "Bytes that the archive takes on disk.",
        of: |checked| space(checked, |space| Some(space.used_bytes as f64)),
    },
    Metric {
        name: "backy_filesystem_free_bytes",
        help: "Free bytes on the archive's file system.",
        of: |checked| space(checked, |space| Some(space.free_bytes as f64)),
    },
    Metric {
        name: "backy_filesystem_size_bytes",
        help: "Size of the archive's file system.",
        of: |checked| space(checked, |space| Some(space.size_bytes as f64)),
    },
    Metric {
        name: "backy_growth_bytes_per_second",
        help: "How fast the archive grows.",
        of: |checked| space(checked, |s| s.growth_bytes_per_day.map(|day| day as f64 / 86400.0)),
    },
    Metric {
        name: "backy_full_timestamp_seconds",
        help: "When the file system will be full at the present growth.",
        of: |checked| space(checked, |space| space.full_at.map(seconds)),
    },
];

/// The names of all metrics, in output order.
pub fn prometheus_names() -> impl Iterator<Item = &'static str> {
    METRICS.iter().map(|metric| metric.name)
}

/// The figures of archives: every name with all its values, all of them gauges.
pub fn prometheus<'a>(archives: impl IntoIterator<Item = &'a Checked>) -> String {
    let archives: Vec<&Checked> = archives.into_iter().collect();
    let mut text = String::new();
    for Metric { name, help, of } in METRICS {
        // Writing to a string does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for &checked in &archives {
            for Sample { labels, value } in of(checked) {
                let _ = write!(text, "{name}{{archive=\"{}\"", escaped(&checked.archive));
                for (label, is) in labels {
                    let _ = write!(text, ",{label}=\"{}\"", escaped(&is));
                }
                let _ = writeln!(text, "}} {value}");
            }
        }
    }
    text
}

/// As the value of a label. The format can only escape line ends; other unsafe characters are written as plain text.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if is_unsafe(c) => {
                out.push('\\');
                out.extend(c.escape_default());
            }
            c => out.push(c),
        }
    }
    out
}

fn one(value: impl Into<f64>) -> Samples {
    vec![Sample { labels: Vec::new(), value: value.into() }]
}

fn maybe(value: Option<f64>) -> Samples {
    value.map_or_else(Vec::new, one)
}

fn labelled(label: &'static str, is: impl ToString, value: f64) -> Sample {
    Sample { labels: vec![(label, is.to_string())], value }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn at(time: Timestamp) -> Samples {
    one(seconds(time))
}

fn known(checked: &Checked, of: impl Fn(&StatusReport) -> Samples) -> Samples {
    checked.status.as_ref().map_or_else(Vec::new, of)
}

fn newest(
    checked: &Checked,
    of: impl Fn(&crate::verdict::status::RevisionStatus) -> f64,
) -> Samples {
    known(checked, |status| maybe(status.newest.as_ref().map(&of)))
}

fn drill(checked: &Checked, of: impl Fn(&crate::format::manifest::DrillReport) -> f64) -> Samples {
    known(checked, |status| maybe(status.drill.as_ref().map(&of)))
}

fn change(checked: &Checked, of: impl Fn(&crate::policy::health::Change) -> f64) -> Samples {
    known(checked, |status| maybe(status.change.as_ref().map(&of)))
}

fn space(checked: &Checked, of: impl Fn(&crate::policy::health::Space) -> Option<f64>) -> Samples {
    known(checked, |status| maybe(status.space.as_ref().and_then(&of)))
}

fn origin(checked: &Checked, of: impl Fn(&OriginStatus) -> Option<f64>) -> Samples {
    known(checked, |status| maybe(status.origin.as_ref().and_then(&of)))
}

fn by_tag(
    checked: &Checked,
    of: impl Fn(&crate::policy::health::TagStatus) -> Option<f64>,
) -> Samples {
    known(checked, |status| {
        let tags = status.schedule.iter();
        tags.filter_map(|tag| Some(labelled("tag", &tag.tag, of(tag)?))).collect()
    })
}

fn by_run(checked: &Checked, of: impl Fn(&crate::policy::health::Run) -> f64) -> Samples {
    known(checked, |status| {
        let runs = status.last_runs.iter();
        runs.map(|run| labelled("operation", &run.operation, of(run))).collect()
    })
}

/// Every kind has a value, so that a series does not end with its problem.
fn problems(checked: &Checked) -> Samples {
    let worst = |kind: ProblemKind| {
        let own = checked.health.problems.iter().filter(|problem| problem.kind == kind);
        own.map(|problem| problem.level).max().unwrap_or(Level::Ok)
    };
    let sample =
        |kind: ProblemKind| labelled("kind", kind.as_str(), f64::from(worst(kind).exit_status()));
    ProblemKind::ALL.into_iter().map(sample).collect()
}
