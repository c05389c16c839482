//! Marks at a disk of a domain that runs: checkpoints, one for each.

use std::sync::Arc;

use super::LibvirtMachine;
use super::domain::{Disk, Domain};
use super::point::{self, LibvirtPoint, Wanted};
use super::virsh::{Answer, Virsh};
use crate::base::error::Result;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::running::Running;
use crate::source::tracking::{Marked, Tracker, check_id, check_identity};

/// Its name in bookmarks.
pub(super) const TRACKER: &str = "libvirt";

/// What one bit stands for: the default of QEMU for images with clusters of 64 KiB, which libvirt leaves as it is.
const GRANULARITY: u64 = 64 << 10;

/// libvirt makes no checkpoints in others.
pub(super) const FORMAT: &str = "qcow2";

pub(super) struct CheckpointTracker {
    pub disk: Arc<Running<LibvirtMachine>>,
}

/// What distinguishes a disk with what is below it from any other.
pub(super) fn identity(domain: &Domain, disk: &Disk, chain: &str) -> String {
    format!("domain {}, disk {}, {chain}", domain.uuid, disk.target)
}

/// Checks that an earlier checkpoint tells what has changed.
///
/// # Errors
/// A sentence: why it does not.
pub(super) fn earlier(
    virsh: &Virsh,
    disk: &Disk,
    found: Answer<String>,
    (name, bookmark): (MarkName, &Bookmark),
) -> Answer<()> {
    check_identity("disk", &found?, bookmark)?;
    if !virsh.checkpoints(name.archive)?.contains(&name) {
        return Err(format!("the checkpoint {name} is missing"));
    }
    check_id(("checkpoint", name), &virsh.checkpoint_id(name, &disk.target)?, bookmark)
}

/// Why libvirt makes no checkpoint of a disk; `None` if it may.
fn obstacle(disk: &Disk) -> Option<String> {
    (disk.format != FORMAT).then(|| {
        format!(
            "libvirt makes checkpoints only of disks in {FORMAT}, and this is {}",
            disk.format.escape_debug()
        )
    })
}

impl CheckpointTracker {
    fn ask<T>(&self, ask: impl FnOnce(&Domain, &Disk) -> Answer<T>) -> Result<T> {
        self.disk.machine.ask(ask).map_err(|why| self.disk.error(&why))
    }

    fn virsh(&self) -> &Virsh {
        &self.disk.machine.virsh
    }

    /// Begins a point for a mark, and serves the disk as it is then.
    fn begin(&self, domain: &Domain, disk: &Disk, wanted: Wanted) -> Answer<()> {
        let point = LibvirtPoint::begin(&self.disk.machine, (domain, disk), wanted)?;
        self.disk.served.replace(Some(point), wanted.since.is_some());
        Ok(())
    }

    /// The same; returns why libvirt refuses it, if it may not refuse another one.
    fn refused(&self, domain: &Domain, disk: &Disk, wanted: Wanted) -> Answer<Option<String>> {
        match self.begin(domain, disk, wanted) {
            Err(why) if Virsh::is_of_guest(&why) => Err(why),
            begun => Ok(begun.err()),
        }
    }
}

impl Tracker for CheckpointTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        self.disk.served.replace(None, false);
        let quiesce = self.disk.machine.quiesce;
        self.ask(|domain, disk| {
            let chain = disk.chain().map(|chain| identity(domain, disk, &chain));
            let plain = Wanted { name, with_checkpoint: false, since: None, quiesce };
            let identity = match obstacle(disk).map_or_else(|| chain.clone(), Err) {
                Ok(identity) => identity,
                Err(why) => {
                    self.begin(domain, disk, plain)?;
                    return Ok(Marked::none(why));
                }
            };
            let mut doubt = match since {
                None => Some("there is no earlier mark".to_owned()),
                Some(known) => earlier(self.virsh(), disk, chain, known).err(),
            };
            let marked = Wanted { with_checkpoint: true, ..plain };
            if let (Some((since, _)), None) = (since, &doubt) {
                doubt = self.refused(domain, disk, Wanted { since: Some(since), ..marked })?;
            }
            if doubt.is_some()
                && let Some(why) = self.refused(domain, disk, marked)?
            {
                self.begin(domain, disk, plain)?;
                return Ok(Marked::none(format!("a checkpoint cannot be made: {why}")));
            }
            let bookmark = self
                .virsh()
                .checkpoint_id(name, &disk.target)
                .map(|id| Bookmark::new(TRACKER, id, identity, GRANULARITY));
            Ok(match bookmark {
                Ok(bookmark) => Marked { bookmark: Some(bookmark), doubt },
                Err(why) => Marked::none(why),
            })
        })
    }

    fn hold(&mut self, name: MarkName) -> Result<()> {
        self.disk.served.replace(None, false);
        let quiesce = self.disk.machine.quiesce;
        let plain = Wanted { name, with_checkpoint: false, since: None, quiesce };
        self.ask(|domain, disk| self.begin(domain, disk, plain))
    }

    fn obstacle(&self) -> Option<String> {
        self.ask(|_, disk| Ok(obstacle(disk).or_else(|| disk.chain().err()))).ok().flatten()
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        self.ask(|domain, disk| {
            let found = disk.chain().map(|chain| identity(domain, disk, &chain));
            Ok(earlier(self.virsh(), disk, found, (name, bookmark)).err())
        })
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        self.virsh().checkpoints(archive).map_err(|why| self.disk.error(&why))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.disk.served.replace(None, false);
        self.ask(|domain, _| {
            // What a killed backup has left; a domain that has stopped meanwhile has no job any more.
            point::end_all(&self.disk.machine, archive)?;
            for name in self.virsh().checkpoints(archive)? {
                if Some(name) != keep {
                    self.virsh().delete(name, domain.is_active)?;
                }
            }
            Ok(())
        })
    }
}
