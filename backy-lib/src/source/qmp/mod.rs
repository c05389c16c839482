//! A disk of a virtual machine that runs, asked for and read through QEMU's own monitor: as it was when the backup
//! began, while the guest writes on.
//!
//! A mark is a dirty bitmap, in which QEMU records what the guest writes from then on. It is made just before the
//! backup point: what is written in between is recorded in it as well as in the one before, so that it is read now and
//! once more by the next backup. The bitmap before still records until the backup is settled; the point has a frozen
//! copy of it. So a backup that fails, however it ends, leaves the mark of the newest revision as it was.
//!
//! QEMU keeps the bitmaps of a qcow2 image in the image when it ends, and forgets those of any other.

mod disk;
mod monitor;
mod point;
mod tracker;

use std::path::PathBuf;

use crate::base::error::Result;
use crate::base::mark::{ArchiveId, MarkName};
pub use crate::format::qmp_address::QmpAddress;
use crate::source::Opened;
use crate::source::running::{self, Machine, Running};
use monitor::Monitor;
use point::{Place, QmpPoint};
use tracker::DirtyBitmapTracker;

/// What it is called in the manifest.
pub(crate) const KIND: &str = "disk of QEMU";

/// Opens a disk. Scratch files go below the folder `scratch`, with the name of the archive, if it has one yet.
///
/// # Errors
/// [`Error::Source`](crate::Error::Source) if no QEMU answers, or if it has no such disk.
pub(crate) fn open(
    address: QmpAddress,
    scratch: PathBuf,
    archive: Option<ArchiveId>,
) -> Result<Opened<'static>> {
    let place = Place { monitor: address.monitor().to_owned(), scratch };
    let node = Monitor::open(&place.monitor)
        .and_then(|mut monitor| disk::find(&mut monitor, address.disk()))
        .map_err(|why| running::error(address.to_string(), &why))?;
    let machine = QmpMachine { address, place, unmarked: MarkName::passing(archive) };
    let disk = Running::open(machine, node.size_bytes())?;
    Ok(Opened { source: disk.source(), tracker: Some(Box::new(DirtyBitmapTracker { disk })) })
}

/// For tests that answer anything.
#[cfg(feature = "testing")]
pub(super) fn read_answer(printed: &[u8]) -> std::result::Result<(), String> {
    disk::read_answer(printed)
}

struct QmpMachine {
    address: QmpAddress,
    place: Place,
    /// The name of a point that is no mark.
    unmarked: MarkName,
}

impl Machine for QmpMachine {
    const KIND: &'static str = KIND;

    type Point = QmpPoint;

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn begin(&self) -> std::result::Result<QmpPoint, String> {
        let mut monitor = Monitor::open(&self.place.monitor)?;
        let node = disk::find(&mut monitor, self.address.disk())?;
        QmpPoint::begin(&self.place, &mut monitor, &node, (self.unmarked, None))
    }
}
