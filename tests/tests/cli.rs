//! The command from end to end: arguments, output, exit status, and that whatever is refused changes nothing.
//!
//! One binary for all of it, since linking takes longer than running.

#![expect(
    clippy::disallowed_methods,
    reason = "prepares and damages files behind the program's back"
)]

mod cli {
    mod backup;
    mod bad_archive;
    mod bad_input;
    mod bombs;
    mod border;
    mod browser;
    mod check;
    mod dates;
    mod devices;
    mod drill;
    mod figures;
    mod freeze;
    mod generated;
    mod harness;
    mod import;
    mod init;
    mod interrupt;
    mod logging;
    mod maintenance;
    mod messages;
    mod monitors;
    mod overwriting;
    mod owner;
    mod plain;
    mod report;
    mod restore;
    mod revisions;
    mod rm;
    mod salvage;
    mod schedule;
    mod scrub;
    mod source;
    mod status;
    mod table;
    mod tag;
    mod terminal;
    mod trust;
    mod verdict;
    mod without_permissions;
}
