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
use std::sync::{Arc, OnceLock};

use crate::base::error::{Error, Result};
use crate::base::escape;
use crate::base::extent::Extent;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::SourceIdentity;
pub use crate::format::qmp_address::QmpAddress;
use crate::source::identity::add_content;
use crate::source::nbd::NbdSource;
use crate::source::served::{Served, Server};
use crate::source::{Opened, Source, check_not_empty};
use monitor::Monitor;
use point::{Place, Point};
use tracker::DirtyBitmapTracker;

/// What it is called in the manifest.
pub(crate) const KIND: &str = "disk of QEMU";

/// Opens a disk. Scratch files go below the folder `scratch`, with the name of the archive, if it has one yet.
///
/// # Errors
/// [`Error::Source`] if no QEMU answers, or if it has no such disk.
pub(crate) fn open(
    address: QmpAddress,
    scratch: PathBuf,
    archive: Option<ArchiveId>,
) -> Result<Opened<'static>> {
    let place = Place { monitor: address.monitor().to_owned(), scratch };
    let node = Monitor::open(&place.monitor)
        .and_then(|mut monitor| disk::find(&mut monitor, address.disk()))
        .map_err(|why| error(&address, &why))?;
    let shared = Arc::new(Shared {
        address,
        place,
        unmarked: MarkName::passing(archive),
        size_bytes: node.size_bytes(),
        served: Served::not_yet(),
        identity: OnceLock::new(),
    });
    let source = Box::new(QmpSource { shared: Arc::clone(&shared) });
    check_not_empty(&*source)?;
    Ok(Opened { source, tracker: Some(Box::new(DirtyBitmapTracker { shared })) })
}

fn error(address: &QmpAddress, why: &str) -> Error {
    let message = escape::line(why).into_owned();
    Error::Source { path: address.to_string().into(), message }
}

/// What the source and its tracker share.
struct Shared {
    address: QmpAddress,
    place: Place,
    /// The name of a point that is no mark.
    unmarked: MarkName,
    /// When it was opened.
    size_bytes: u64,
    served: Served<Point>,
    identity: OnceLock<SourceIdentity>,
}

impl Shared {
    /// Lets something read the disk as it was at the point, which begins now at the latest.
    fn read<T>(&self, read: impl FnOnce(&NbdSource) -> Result<T>) -> Result<T> {
        let open = || {
            let begun = Monitor::open(&self.place.monitor).and_then(|mut monitor| {
                let node = disk::find(&mut monitor, self.address.disk())?;
                Point::begin(&self.place, &mut monitor, &node, (self.unmarked, None))
            });
            begun.map_err(|why| error(&self.address, &why))
        };
        self.served.read(open, |nbd| read(nbd).map_err(|error| self.of_server(error)))
    }

    /// The address of the export says nothing to anybody.
    fn of_server(&self, failure: Error) -> Error {
        match failure {
            Error::Source { message, .. } => error(&self.address, &format!("QEMU: {message}")),
            other => other,
        }
    }

    fn look(&self, look: impl FnOnce(&Point) -> std::result::Result<(), String>) -> Result<()> {
        let found = self.served.look(look).unwrap_or(Ok(()));
        found.map_err(|why| error(&self.address, &why))
    }
}

struct QmpSource {
    shared: Arc<Shared>,
}

impl Source for QmpSource {
    fn identity(&self) -> SourceIdentity {
        let read = || {
            let mut identity = self.place();
            add_content(&mut identity, self);
            identity
        };
        self.shared.identity.get_or_init(read).clone()
    }

    fn place(&self) -> SourceIdentity {
        SourceIdentity::new(self.shared.address.to_string(), KIND)
    }

    fn size_bytes(&self) -> u64 {
        let served = self.shared.served.look(|point| point.nbd().map(NbdSource::size_bytes));
        served.flatten().unwrap_or(self.shared.size_bytes)
    }

    /// Fails as well if what was read may not be the disk as it was at one moment.
    fn current_size_bytes(&self) -> Result<u64> {
        self.shared.look(Point::check_whole)?;
        self.shared.read(|nbd| nbd.current_size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.shared.look(Point::check_space)?;
        self.shared.read(|nbd| nbd.read_at(buffer, offset))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.read(|nbd| nbd.next_data(offset))
    }

    fn knows_holes(&self) -> bool {
        true
    }

    fn gives_hints(&self) -> bool {
        self.shared.served.is_tracked()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.read(|nbd| nbd.next_dirty(offset))
    }
}

impl Drop for QmpSource {
    /// The guest does not write twice any longer than the disk is read.
    fn drop(&mut self) {
        self.shared.served.replace(None, false);
    }
}
