//! Root in an archive of another user: commands that only change the archive run with that user's rights.
//!
//! Root may not act on what another user could change, and a `sudo backy tag` in a user's archive must leave it
//! usable for its owner. With the owner's rights, both hold: the command can do nothing that he could not do himself,
//! and everything that it makes is his. Commands that read the source, run hooks or restore do not do that; they are
//! refused (`doc/decisions/18-trust.md`).

use std::ffi::CString;
use std::path::Path;

use backy_lib::storage::other_owner;
use nix::unistd::{Gid, Uid, User, initgroups, setgroups, setresgid, setresuid};
use rustix::process::geteuid;

use crate::errors::Failure;

/// Replaces root's rights by those of the owner of the archive in `folder`, for the rest of this process. Returns
/// that owner. Does nothing when the caller is not root, or the archive is root's, or others than its owner can
/// change it.
pub(crate) fn take_on(folder: &Path) -> Result<Option<String>, Failure> {
    let Some(user) = other_owner(folder).filter(|_| geteuid().is_root()) else { return Ok(None) };
    let known = User::from_uid(Uid::from_raw(user)).ok().flatten();
    let name = known.as_ref().map(|user| user.name.clone());
    give_up(user, known.as_ref()).map_err(|errno| {
        let message = format!("{}: cannot work as its owner, user {user}", folder.display());
        Failure::message(format!("{message}: {}; run it as that user", errno.desc()))
    })?;
    let who = name.map_or_else(|| format!("user {user}"), |name| format!("{name} (user {user})"));
    // A folder of root's above it keeps its owner out.
    folder.metadata().map_err(|error| {
        let message = format!("{}: its owner {who} has no access to it: {error}", folder.display());
        Failure::message(format!("{message}; use --trust to work as root"))
    })?;
    Ok(Some(who))
}

/// First the groups, which only root can change. The groups of a user without an account are unknown: it gets one
/// with his number, which Debian and others give everybody.
fn give_up(user: u32, known: Option<&User>) -> nix::Result<()> {
    let group = known.map_or(Gid::from_raw(user), |known| known.gid);
    match known.and_then(|known| CString::new(known.name.as_bytes()).ok()) {
        Some(name) => initgroups(&name, group)?,
        None => setgroups(&[group])?,
    }
    setresgid(group, group, group)?;
    let user = Uid::from_raw(user);
    setresuid(user, user, user)
}
