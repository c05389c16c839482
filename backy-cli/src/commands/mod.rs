//! The commands, one file each: arguments, then what they do.

pub(crate) mod backup;
pub(crate) mod completions;
pub(crate) mod find;
pub(crate) mod init;
pub(crate) mod man;
pub(crate) mod restore;
pub(crate) mod status;
