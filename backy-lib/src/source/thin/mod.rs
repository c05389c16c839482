//! A thin volume of LVM, also while it is in use. Each backup reads a snapshot of its own; the mark is that snapshot.
//!
//! What has changed between two snapshots, and where a snapshot has data, is in the metadata of their pool, which
//! `thin_delta` compares. Two devices that map the same block have the same content there: a pool never overwrites a
//! block that two devices share. What a snapshot does not map is a hole, and zero, unless the volume has an external
//! origin; such a volume is read whole each time.
//!
//! The metadata of a pool can be read only while a copy of them is reserved (`reservation.rs`).
//!
//! Without a snapshot nothing is read: what is written meanwhile would give a revision that the volume never was.

#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for tests"))]
mod delta;
mod lvm;
mod reservation;
mod tracker;
mod volumes;

use std::sync::{Arc, OnceLock};

use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;
use crate::source::identity::add_content;
use crate::source::reported::Reported;
use crate::source::slot::Slot;
use crate::source::{DeviceSource, Opened, Source, check_not_empty};
use lvm::Lvm;
use tracker::SnapshotTracker;
use volumes::Thin;

pub use crate::format::thin_address::ThinAddress;
#[cfg(feature = "testing")]
pub use delta::{Difference, Misprint, Question, difference};

/// What `source` is called in a manifest.
pub(crate) const KIND: &str = "LVM thin volume";

/// Opens a volume.
///
/// # Errors
/// [`Error::Source`] if there is no such volume, or it is no thin one.
pub(crate) fn open(address: ThinAddress) -> Result<Opened<'static>> {
    let live_bytes = size_bytes(&address)?;
    let shared = Arc::new(Shared { lvm: Lvm { address }, live_bytes, held: Slot::empty() });
    let source = Box::new(ThinSource { shared: Arc::clone(&shared) });
    check_not_empty(&*source)?;
    Ok(Opened { source, tracker: Some(Box::new(SnapshotTracker { shared })) })
}

/// Size of a volume in bytes.
///
/// # Errors
/// [`Error::Source`] if there is no such volume, or it is no thin one.
pub(crate) fn size_bytes(address: &ThinAddress) -> Result<u64> {
    let lvm = Lvm { address: address.clone() };
    let volume = lvm.list().and_then(|listed| lvm.volume(&listed));
    Ok(volume.map_err(|why| lvm.error(&why))?.size_bytes)
}

/// What the source and its tracker share.
struct Shared {
    lvm: Lvm,
    /// Size of the volume when it was opened.
    live_bytes: u64,
    /// What is read; `None` until there is a snapshot.
    held: Slot<Held>,
}

/// A snapshot that is open.
struct Held {
    snapshot: Thin,
    device: DeviceSource,
    reported: Reported,
    /// What the kernel calls the volume.
    dm_uuid: Option<String>,
    /// What the content says.
    identity: OnceLock<SourceIdentity>,
}

impl Held {
    fn new(
        snapshot: Thin,
        device: DeviceSource,
        reported: Reported,
        dm_uuid: Option<String>,
    ) -> Self {
        Held { snapshot, device, reported, dm_uuid, identity: OnceLock::new() }
    }
}

impl Shared {
    fn place(&self) -> SourceIdentity {
        SourceIdentity::new(self.lvm.address.to_string(), KIND)
    }
}

struct ThinSource {
    shared: Arc<Shared>,
}

impl ThinSource {
    fn reported<T>(&self, look: impl FnOnce(&Reported) -> T) -> T {
        match &*self.shared.held.get() {
            Some(held) => look(&held.reported),
            None => look(&Reported::default()),
        }
    }
}

impl Source for ThinSource {
    /// Before there is a snapshot, without what the content says.
    fn identity(&self) -> SourceIdentity {
        let held = self.shared.held.get();
        let Some(held) = &*held else { return self.shared.place() };
        let look = || {
            let mut identity = self.shared.place();
            identity.dm_uuid.clone_from(&held.dm_uuid);
            add_content(&mut identity, &held.device);
            identity
        };
        held.identity.get_or_init(look).clone()
    }

    fn place(&self) -> SourceIdentity {
        self.shared.place()
    }

    fn size_bytes(&self) -> u64 {
        self.shared
            .held
            .get()
            .as_ref()
            .map_or(self.shared.live_bytes, |held| held.snapshot.size_bytes)
    }

    fn current_size_bytes(&self) -> Result<u64> {
        match &*self.shared.held.get() {
            Some(held) => held.device.current_size_bytes(),
            None => size_bytes(&self.shared.lvm.address),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match &*self.shared.held.get() {
            Some(held) => held.device.read_at(buffer, offset),
            None => {
                let why = "it is read only while there is a snapshot of it";
                Err(self.shared.lvm.error(why))
            }
        }
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

/// For tests that print anything: what `thin_delta` says of the devices 1 and 2.
#[cfg(feature = "testing")]
pub(super) fn read_difference(
    printed: &[u8],
    size_bytes: u64,
) -> std::result::Result<[Vec<Extent>; 2], String> {
    let asked = delta::Question { left: 1, right: 2, block_bytes: 64 << 10, size_bytes };
    let found = delta::difference(printed, asked).map_err(|misprint| misprint.why)?;
    Ok([found.changed, found.data])
}

/// The same, for a list of volumes, and for a table or a state of one that `dmsetup` prints.
#[cfg(feature = "testing")]
pub(super) fn read_answer(printed: &[u8]) -> std::result::Result<(), String> {
    let _ = volumes::reserved(printed);
    let listed = volumes::Listed::parse(printed)?;
    let volume = listed.thin("mynode")?;
    let _ = volumes::check_table(printed, &volume);
    for name in listed.thins() {
        let _ = (listed.thin(name), listed.dm_uuid(name));
    }
    listed.pool(&volume.pool).map(drop)
}
