//! What a person or a monitor sees: the state of an archive, of a host, and in the formats of monitoring systems.

pub mod check;
pub mod monitoring;
pub mod status;
