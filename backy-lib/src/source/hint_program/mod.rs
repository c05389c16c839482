//! A block device or a file on a storage system that backy does not know: a program of the config makes the marks, and
//! knows what has changed since one. `doc/hint-program.md` has what it is asked and what it answers.
//!
//! The program is believed no further than any other tracker. Whatever it does wrong costs time: everything is read.
//! Only a hole that is none is a wrong backup, until its turn to be compared comes.

mod answer;
mod request;
mod tracker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;
use crate::policy::config::HookCommand;
use crate::source::reported::Reported;
use crate::source::slot::Slot;
use crate::source::{DeviceSource, Opened, Source};
use request::HintProgram;
use tracker::ProgramTracker;

/// Opens a path as the source, as far as it may be one.
pub(crate) type Opener = Box<dyn Fn(&Path) -> Result<DeviceSource>>;

/// A source that is open, with the program that keeps its marks.
pub(crate) fn tracked(
    live: DeviceSource,
    source: PathBuf,
    command: HookCommand,
    open: Opener,
) -> Opened<'static> {
    let shared = Arc::new(Shared { live, held: Slot::empty() });
    let source_of = Box::new(HintedSource { shared: Arc::clone(&shared) });
    let program = HintProgram { command, source };
    Opened { source: source_of, tracker: Some(Box::new(ProgramTracker { shared, program, open })) }
}

/// What the source and its tracker share.
struct Shared {
    live: DeviceSource,
    /// What is read instead, and what the program has said; `None` until there is a mark.
    held: Slot<AtMark>,
}

/// The source at a mark.
struct AtMark {
    /// `None` to read the source itself.
    device: Option<DeviceSource>,
    reported: Reported,
}

struct HintedSource {
    shared: Arc<Shared>,
}

impl HintedSource {
    /// Asks what is read now.
    fn now<T>(&self, ask: impl FnOnce(&DeviceSource, &Reported) -> T) -> T {
        match &*self.shared.held.get() {
            Some(AtMark { device, reported }) => {
                ask(device.as_ref().unwrap_or(&self.shared.live), reported)
            }
            None => ask(&self.shared.live, &Reported::default()),
        }
    }
}

impl Source for HintedSource {
    /// That of the source, wherever it is read.
    fn identity(&self) -> SourceIdentity {
        self.shared.live.identity()
    }

    fn size_bytes(&self) -> u64 {
        self.now(|device, _| device.size_bytes())
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.now(|device, _| device.current_size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.now(|device, _| device.read_at(buffer, offset))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.now(|device, reported| match &reported.data {
            Some(_) => Ok(reported.next_data(offset, device.size_bytes())),
            None => device.next_data(offset),
        })
    }

    fn knows_holes(&self) -> bool {
        self.now(|device, reported| reported.data.is_some() || device.knows_holes())
    }

    fn gives_hints(&self) -> bool {
        self.now(|_, reported| reported.changed.is_some())
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        self.now(|device, reported| Ok(reported.next_changed(offset, device.size_bytes())))
    }
}

/// For tests that answer anything: the extents, or none; `None` for another request.
#[cfg(feature = "testing")]
pub(super) fn read_answer(
    request: &str,
    printed: &[u8],
    size_bytes: u64,
) -> Option<std::result::Result<[Vec<Extent>; 2], String>> {
    let none = |()| Ok(Vec::new());
    let read = match request {
        "identity" => answer::identity(printed).map(drop).map(none),
        "mark" => answer::made(printed).map(drop).map(none),
        "changed_extents" => answer::changed(printed, size_bytes),
        "holes" => answer::data(printed, size_bytes),
        "settle" => answer::nothing(printed).map(none),
        _ => return None,
    };
    Some(read.map_err(|misread| misread.why).and_then(|known| Ok([known?, Vec::new()])))
}
