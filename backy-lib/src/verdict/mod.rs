//! Reports on the state of an archive and of a host, also in the formats of monitoring systems.

pub mod check;
pub mod monitoring;
pub mod settings;
pub mod source;
pub mod status;
