//! Verdicts for monitoring systems: the line of a Nagios plugin, the Prometheus text format, and the file for
//! node_exporter. Both texts are made here, from the reports alone, so that the command and Python produce
//! the same.

mod nagios;
mod owner;
mod prometheus;
mod textfile;

#[cfg(test)]
mod tests;

pub use nagios::{nagios, nagios_host, nagios_unknown};
pub use prometheus::{prometheus, prometheus_names};
pub(crate) use textfile::replace as replace_figures;
pub use textfile::{Textfile, write_textfile};
