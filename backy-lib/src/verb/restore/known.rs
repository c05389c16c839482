//! Whether a target is the source that was backed up, which a restore may overwrite without being told to: by identity, kind and size.

use std::path::Path;

use crate::base::error::{Error, Result};
use crate::base::units::display_size;
use crate::format::manifest::{Manifest, Sameness, SourceIdentity};
use crate::policy::config::Config;
use crate::source::{DeviceSource, Source};

/// Whether a path leads to the source of a config.
pub(crate) fn is_source(target: &Path, config: &Config) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let source = config.source.as_deref().and_then(real);
    source.is_some() && real(target) == source
}

/// That a target which is the configured source is still the one that was backed up. Any other target is another matter.
///
/// # Errors
/// [`Error::Target`], which `force` overrules, says how it differs.
pub(crate) fn check(manifest: &Manifest, config: &Config, target: &Path) -> Result<()> {
    let refuse = |how: String| {
        let message = format!("it is not the source that was backed up: {how}");
        Err(Error::Target { path: target.to_owned(), message, forcible: true })
    };
    let (Some(configured), true) = (&config.source, is_source(target, config)) else {
        return Ok(());
    };
    let Some(known) = &manifest.source else { return Ok(()) };
    // What cannot be opened is refused with the reason by whoever is going to write.
    let Ok(now) = DeviceSource::open(configured) else { return Ok(()) };
    let size_bytes = now.size_bytes();
    let now = if config.hooks.before.is_some() { now.made_anew() } else { now };
    let identity = now.identity();
    match known.compare(&identity) {
        Sameness::Other(how) => return refuse(how),
        // Nothing is lost with an empty file.
        _ if size_bytes == 0 => return Ok(()),
        Sameness::Doubtful(how) => return refuse(how),
        Sameness::Same => {}
    }
    // Of an object of a Python program it is known what it called itself.
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

/// Sizes that look the same in a rounded form are given in bytes as well.
fn different_size(found: u64, expected: u64) -> String {
    let [shown, wanted] = [found, expected].map(display_size);
    match shown == wanted {
        true => format!("found {found} bytes, expected {expected}"),
        false => format!("found {shown} ({found} bytes), expected {wanted}"),
    }
}

/// Whether it is what `restore --undo` has made: of its target, which has the size of another revision since, only name and kind are known.
fn is_undo(manifest: &Manifest) -> bool {
    let named = |known: &SourceIdentity| {
        *known == SourceIdentity::new(known.path.as_str(), known.kind.as_str())
    };
    let [only] = manifest.revisions.as_slice() else { return false };
    only.pinned_tags.iter().any(|tag| tag.as_str() == super::undo::TAG)
        && manifest.source.as_ref().is_some_and(named)
}
