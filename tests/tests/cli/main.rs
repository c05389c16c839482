//! The command from end to end: arguments, output, exit status, and that a refusal changes nothing. Also what is read
//! or run without the library: the documents, the units and scripts in `dist`, the rescue program.
//!
//! A binary of its own because none of it needs the small limits of `engine`, nor root, loop devices or FUSE as
//! `real` does: whoever changes the command or a document runs this one.

#![expect(
    clippy::disallowed_methods,
    reason = "prepares and damages files behind the program's back"
)]

mod backup;
mod bad_archive;
mod bad_input;
mod bombs;
mod border;
mod browser;
mod check;
mod copies;
mod dates;
mod devices;
mod dist;
mod documents;
mod drill;
mod figures;
mod fleet;
mod freeze;
mod generated;
mod harness;
mod import;
mod include;
mod index;
mod init;
mod interrupt;
mod logging;
mod maintenance;
mod messages;
mod monitors;
mod overwriting;
mod owner;
mod plain;
mod pull;
mod rbd_diff;
mod report;
mod rescue;
mod restore;
mod revisions;
mod rm;
mod salvage;
mod schedule;
mod scrub;
mod source;
mod status;
mod style;
mod table;
mod tag;
mod terminal;
mod trust;
mod verdict;
mod without_permissions;
