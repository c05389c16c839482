//! Marks at the disk of a virtual machine: dirty bitmaps, one for each.

use std::sync::Arc;

use serde_json::json;

use super::QmpMachine;
use super::disk::{self, Node};
use super::monitor::Monitor;
use super::point::{self, QmpPoint};
use crate::base::error::Result;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::running::Running;
use crate::source::tracking::{Marked, Tracker};

/// Its name in bookmarks.
const TRACKER: &str = "qmp";

/// What one bit stands for: the default of QEMU.
pub(super) const GRANULARITY: u64 = 64 << 10;

pub(super) struct DirtyBitmapTracker {
    pub disk: Arc<Running<QmpMachine>>,
}

/// What a bitmap is, besides its name, which has two UUIDs.
fn id(is_kept: bool) -> &'static str {
    if is_kept { "persistent bitmap" } else { "bitmap in memory" }
}

/// Why an earlier bitmap would not tell what has changed.
fn earlier(node: &Node, name: MarkName, bookmark: &Bookmark) -> Option<String> {
    if let Some(why) = node.doubt(name, bookmark.granularity) {
        return Some(why);
    }
    let kind = node.is_kept(name).map(id).unwrap_or_default();
    if bookmark.id != kind {
        let found = bookmark.id.escape_debug();
        return Some(format!("the mark is of another kind: found {found}, expected {kind}"));
    }
    match node.chain() {
        Err(why) => Some(why),
        Ok(chain) if chain == bookmark.identity => None,
        Ok(chain) => Some(format!(
            "what is below the disk has changed: found {chain}, expected {}",
            bookmark.identity.escape_debug()
        )),
    }
}

/// Adds a bitmap; returns whether QEMU keeps it when it ends.
fn add(monitor: &mut Monitor, node: &Node, name: MarkName) -> std::result::Result<bool, String> {
    let mut add = |is_kept: bool| {
        let bitmap = json!({"node": node.name, "name": name.to_string(), "granularity": GRANULARITY,
                            "persistent": is_kept});
        monitor.run("block-dirty-bitmap-add", bitmap).map(|_| is_kept)
    };
    // An image of version 2 keeps none.
    let kept = if node.keeps_bitmaps() { add(true).ok() } else { None };
    kept.map_or_else(|| add(false), Ok)
}

impl DirtyBitmapTracker {
    /// Asks QEMU something.
    fn ask<T>(
        &self,
        ask: impl FnOnce(&mut Monitor) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let monitor = Monitor::open(&self.disk.machine.place.monitor);
        let asked = monitor.and_then(|mut monitor| ask(&mut monitor));
        asked.map_err(|why| self.disk.error(&why))
    }

    fn node(&self) -> Result<Node> {
        self.ask(|monitor| disk::find(monitor, self.disk.machine.address.disk()))
    }
}

impl Tracker for DirtyBitmapTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        let QmpMachine { address, place, .. } = &self.disk.machine;
        self.disk.served.replace(None, false);
        self.ask(|monitor| {
            let node = disk::find(monitor, address.disk())?;
            let chain = match node.chain() {
                Ok(chain) => chain,
                Err(why) => return Ok(Marked::none(why)),
            };
            let is_kept = match add(monitor, &node, name) {
                Ok(is_kept) => is_kept,
                Err(why) => return Ok(Marked::none(format!("a bitmap cannot be made: {why}"))),
            };
            let doubt = match since {
                Some((since, bookmark)) => earlier(&node, since, bookmark),
                None => Some("there is no earlier mark".to_owned()),
            };
            let used = since.map(|(since, _)| since).filter(|_| doubt.is_none());
            let begun = QmpPoint::begin(place, monitor, &node, (name, used))?;
            self.disk.served.replace(Some(begun), used.is_some());
            let bookmark = Bookmark::new(TRACKER, id(is_kept).to_owned(), chain, GRANULARITY);
            Ok(Marked { bookmark: Some(bookmark), doubt })
        })
    }

    fn hold(&mut self, name: MarkName) -> Result<()> {
        let QmpMachine { address, place, .. } = &self.disk.machine;
        self.disk.served.replace(None, false);
        self.ask(|monitor| {
            let node = disk::find(monitor, address.disk())?;
            let begun = QmpPoint::begin(place, monitor, &node, (name, None))?;
            self.disk.served.replace(Some(begun), false);
            Ok(())
        })
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        Ok(earlier(&self.node()?, name, bookmark))
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        Ok(self.node()?.marks(archive))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        let QmpMachine { place, .. } = &self.disk.machine;
        self.disk.served.replace(None, false);
        self.ask(|monitor| {
            point::end_all(place, monitor, archive)?;
            for node in disk::nodes(monitor)? {
                let marks = node.marks(archive).into_iter();
                for name in marks.filter(|name| Some(*name) != keep) {
                    point::remove_bitmap(monitor, &node, &name.to_string())?;
                }
            }
            Ok(())
        })
    }
}
