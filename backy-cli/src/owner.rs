//! Root in an archive of another user: what only changes the archive is done with that user's rights.
//!
//! Root may not act on what another user could change, and a `sudo backy tag` in a user's archive must leave it such
//! that its owner can go on. As the owner, neither can go wrong: the command can do nothing that he could not do
//! himself, and all it makes is his. What reads the source, runs hooks or restores is not done that way; it is
//! refused (`doc/decisions/18-trust.md`).

use std::ffi::CString;
use std::path::Path;

use backy_lib::storage::other_owner;
use nix::unistd::{Gid, Uid, User, initgroups, setgroups, setresgid, setresuid};
use rustix::process::geteuid;

use crate::errors::Failure;

/// Gives up root's rights for those of the user whom the archive in `folder` belongs to, for the rest of this
/// process; who that is. Nothing happens when the caller is not root, or the archive is root's, or others than its
/// owner can change it.
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

/// First the groups, which only root can change. Of a user without an account nobody knows the groups: one with his
/// number, as Debian and others give everybody.
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
