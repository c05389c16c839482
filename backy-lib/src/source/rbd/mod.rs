//! An image of Ceph RBD, also while it is in use. Each backup reads a snapshot of its own through `qemu-nbd`; the mark
//! is that snapshot.
//!
//! What has changed between two snapshots, and where a snapshot has data, is asked of each object by `rbd diff`. The
//! object map would spare that, but it can be wrong without knowing: it is used only where the config says so. What no
//! `rbd diff` lists is a hole, and zero, whatever was reported about changes.
//!
//! Ceph deletes the content of a snapshot soon after the snapshot, and what is gone reads as zeros. So it is looked up
//! once more after it was read, or compared. It is known by its number: one that was made again under its name has
//! another one.
//!
//! Without a snapshot nothing is read: what a running machine writes meanwhile would give a revision that the image
//! never was.

mod answers;
mod image;
mod tracker;

use std::sync::{Arc, OnceLock};

use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;
use crate::source::identity::add_content;
use crate::source::qemu_nbd::Export;
use crate::source::reported::Reported;
use crate::source::served::Server;
use crate::source::slot::Slot;
use crate::source::{Opened, Source, check_not_empty};
use answers::Snapshot;
use image::Image;
use tracker::SnapshotTracker;

pub use crate::format::rbd_address::RbdAddress;

/// What `source` is called in a manifest.
pub(crate) const KIND: &str = "RBD image";

/// Opens an image. With `fast_diff` its object map is believed.
///
/// # Errors
/// [`Error::Source`] if there is no such image, it cannot be reached, or it is empty.
pub(crate) fn open(address: RbdAddress, fast_diff: bool) -> Result<Opened<'static>> {
    let image = Image { address, fast_diff };
    let live_bytes = image.info().map_err(|why| image.error(&why))?.size_bytes;
    let shared = Arc::new(Shared { image, live_bytes, held: Slot::empty() });
    let source = Box::new(RbdSource { shared: Arc::clone(&shared) });
    check_not_empty(&*source)?;
    Ok(Opened { source, tracker: Some(Box::new(SnapshotTracker { shared })) })
}

/// Size of an image in bytes.
///
/// # Errors
/// [`Error::Source`] if there is no such image, or it cannot be reached.
pub(crate) fn size_bytes(address: &RbdAddress) -> Result<u64> {
    let image = Image { address: address.clone(), fast_diff: false };
    let info = image.info().map_err(|why| image.error(&why))?;
    Ok(info.size_bytes)
}

/// For tests that print anything; `None` for another command.
#[cfg(feature = "testing")]
pub(super) fn read_answer(
    command: &str,
    printed: &[u8],
) -> Option<std::result::Result<(), String>> {
    Some(match command {
        "info" => answers::Info::parse(printed).map(drop),
        "snap ls" => answers::snapshots(printed).map(drop),
        "fsid" => answers::cluster(printed).map(drop),
        "osd lspools" => answers::pool(printed, "vms").map(drop),
        _ => return None,
    })
}

/// The same, for `rbd diff`.
#[cfg(feature = "testing")]
pub(super) fn read_difference(
    printed: &[u8],
    size_bytes: u64,
) -> std::result::Result<[Vec<Extent>; 2], String> {
    let found = answers::difference(printed, size_bytes).map_err(|error| error.to_string())?;
    Ok([found.listed, found.data])
}

/// What the source and its tracker share.
struct Shared {
    image: Image,
    /// Size of the image when it was opened.
    live_bytes: u64,
    /// What is read; `None` until there is a snapshot.
    held: Slot<Held>,
}

/// A snapshot that is served.
struct Held {
    snapshot: Snapshot,
    export: Export,
    reported: Reported,
    /// What the content says.
    identity: OnceLock<SourceIdentity>,
}

impl Held {
    fn new(snapshot: Snapshot, export: Export, reported: Reported) -> Self {
        Held { snapshot, export, reported, identity: OnceLock::new() }
    }
}

impl Shared {
    /// The address of our own server says nothing to anybody.
    fn of_server(&self, error: Error) -> Error {
        match error {
            Error::Source { message, .. } => self.image.error(&format!("'qemu-nbd': {message}")),
            other => other,
        }
    }
}

struct RbdSource {
    shared: Arc<Shared>,
}

impl RbdSource {
    fn reported<T>(&self, look: impl FnOnce(&Reported) -> T) -> T {
        match &*self.shared.held.get() {
            Some(held) => look(&held.reported),
            None => look(&Reported::default()),
        }
    }
}

impl Source for RbdSource {
    /// Before there is a snapshot, without what the content says.
    fn identity(&self) -> SourceIdentity {
        let mut identity = self.place();
        match self.shared.held.get().as_ref().map(|held| held.identity.get().cloned()) {
            None => return identity,
            Some(Some(known)) => return known,
            Some(None) => add_content(&mut identity, self),
        }
        if let Some(held) = &*self.shared.held.get() {
            let _ = held.identity.set(identity.clone());
        }
        identity
    }

    fn place(&self) -> SourceIdentity {
        SourceIdentity::new(self.shared.image.address.to_string(), KIND)
    }

    fn size_bytes(&self) -> u64 {
        self.shared
            .held
            .get()
            .as_ref()
            .map_or(self.shared.live_bytes, |held| held.snapshot.size_bytes)
    }

    fn current_size_bytes(&self) -> Result<u64> {
        let image = &self.shared.image;
        let Some(snapshot) = self.shared.held.get().as_ref().map(|held| held.snapshot.clone())
        else {
            return Ok(image.info().map_err(|why| image.error(&why))?.size_bytes);
        };
        let listed = image.snapshots().map_err(|why| image.error(&why))?;
        match listed.contains(&snapshot) {
            true => Ok(snapshot.size_bytes),
            false => {
                let name = &snapshot.name;
                Err(image.error(&format!("its snapshot {name} was removed while it was read")))
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let held = self.shared.held.get();
        let held = held.as_ref();
        let nbd = held.and_then(|held| Some((held.snapshot.size_bytes, held.export.nbd()?)));
        let Some((size_bytes, nbd)) = nbd else {
            return Err(self.shared.image.error("it is read only while there is a snapshot of it"));
        };
        // QEMU rounds its size up to a sector.
        let most = size_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        nbd.read_at(buffer, offset).map_err(|error| self.shared.of_server(error))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let size_bytes = self.size_bytes();
        Ok(self.reported(|reported| reported.next_data(offset, size_bytes)))
    }

    fn knows_holes(&self) -> bool {
        self.reported(|reported| reported.data.is_some())
    }

    fn gives_hints(&self) -> bool {
        self.reported(|reported| reported.changed.is_some())
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let size_bytes = self.size_bytes();
        Ok(self.reported(|reported| reported.next_changed(offset, size_bytes)))
    }
}
