//! Files of an archive that no revision needs: which there are, and which of them are removed.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::storage::{FileName, Storage};

/// Removes the files that the manifest does not name. Other people's files are not touched.
pub(crate) fn sweep(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    for name in unnamed_files(storage, manifest)? {
        storage.remove(name)?;
    }
    Ok(())
}

pub(crate) fn unnamed_files(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<FileName>> {
    let named = named_files(manifest);
    Ok(storage.list()?.into_iter().filter(|name| !named.contains(name)).collect())
}

/// The files that may be in an archive with this manifest.
pub(crate) fn named_files(manifest: &Manifest) -> BTreeSet<FileName> {
    let mut named = BTreeSet::from([
        FileName::README,
        FileName::CONFIG,
        FileName::MANIFEST,
        FileName::Lock,
        FileName::Reserve,
        FileName::History,
        FileName::OldHistory,
    ]);
    named.extend(&manifest.set_aside);
    for revision in &manifest.revisions {
        named.extend([revision.file(), revision.digests_file()]);
    }
    named
}
