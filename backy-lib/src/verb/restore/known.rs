//! Whether a target is the source that was backed up, which a restore may overwrite without `force`: by
//! identity, kind and size.

use std::path::Path;

use crate::base::error::{Error, Result};
use crate::base::units::display_size;
use crate::format::manifest::{Manifest, Sameness, SourceIdentity};
use crate::policy::config::Config;
use crate::source::{DeviceSource, Source};

/// Whether a path leads to the source of a config.
pub(crate) fn is_source(target: &Path, config: &Config) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let source = config.source.as_ref().and_then(|source| real(source.path()?));
    source.is_some() && real(target) == source
}

/// Checks that a target that is the configured source is still the one that was backed up. Other targets are
/// not checked here.
///
/// # Errors
/// [`Error::Target`], which `force` overrides, with the difference.
pub(crate) fn check(manifest: &Manifest, config: &Config, target: &Path) -> Result<()> {
    let refuse = |how: String| {
        let message = format!("it is not the source that was backed up: {how}");
        Err(Error::Target { path: target.to_owned(), message, forcible: true })
    };
    let (Some(configured), true) = (&config.source, is_source(target, config)) else {
        return Ok(());
    };
    let Some(known) = &manifest.source else { return Ok(()) };
    // If it cannot be opened, opening it for writing reports the reason.
    let Some(Ok(now)) = configured.path().map(DeviceSource::open) else { return Ok(()) };
    let size_bytes = now.size_bytes();
    let now = if config.hooks.before.is_some() { now.made_anew() } else { now };
    let identity = now.identity();
    match known.compare(&identity) {
        Sameness::Other(how) => return refuse(how),
        // An empty file has nothing to lose.
        _ if size_bytes == 0 => return Ok(()),
        Sameness::Doubtful(how) => return refuse(how),
        Sameness::Same => {}
    }
    // For an object of a Python program, only its own description is known.
    let is_plain = ["file", "block device"].contains(&known.kind.as_str());
    if is_plain && known.kind != identity.kind {
        return refuse(format!("found a {}, expected a {}", identity.kind, known.kind));
    }
    if let Some(how) = manifest.open_alarms().find_map(|alarm| alarm.other_source.as_ref()) {
        return refuse(how.escape_debug().to_string());
    }
    let mut sizes = manifest.revisions.iter().map(|revision| revision.size_bytes);
    match sizes.next() {
        Some(newest)
            if newest != size_bytes
                && !is_undo(manifest)
                && !sizes.any(|size| size == size_bytes) =>
        {
            refuse(different_size(size_bytes, newest))
        }
        _ => Ok(()),
    }
}

/// Gives sizes that look the same when rounded in bytes as well.
fn different_size(found: u64, expected: u64) -> String {
    let [shown, wanted] = [found, expected].map(display_size);
    match shown == wanted {
        true => format!("found {found} bytes, expected {expected}"),
        false => format!("found {shown} ({found} bytes), expected {wanted}"),
    }
}

/// Whether `restore --undo` made the archive: its target has the size of another revision by now, so only
/// name and kind are known.
fn is_undo(manifest: &Manifest) -> bool {
    let named = |known: &SourceIdentity| {
        *known == SourceIdentity::new(known.path.as_str(), known.kind.as_str())
    };
    let [only] = manifest.revisions.as_slice() else { return false };
    only.pinned_tags.iter().any(|tag| tag.as_str() == super::undo::TAG)
        && manifest.source.as_ref().is_some_and(named)
}
