//! Verdicts as monitoring systems read them: the line of a Nagios plugin, the text format of Prometheus, and the file for
//! node_exporter. Both texts are made from the reports alone, here, so that the command and Python say the same.

mod nagios;
mod owner;
mod prometheus;
mod textfile;

#[cfg(test)]
mod tests;

pub use nagios::{nagios, nagios_host, nagios_unknown};
pub use prometheus::{prometheus, prometheus_names};
pub use textfile::{Textfile, write_textfile};
