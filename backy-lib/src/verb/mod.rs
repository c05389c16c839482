//! What backy does: one module for each operation.

pub mod backup;
pub(crate) mod caller;
pub mod drill;
pub mod export;
pub mod import;
pub mod init;
pub mod maintenance;
pub(crate) mod merge;
pub mod pull;
pub mod push;
pub(crate) mod rebuild;
pub mod restore;
pub mod scrub;
pub mod tag;
