//! A disk of a domain that does not run. Its image is read as one that no virtual machine has open: as long as backy
//! reads it, QEMU refuses to start the domain.
//!
//! The bitmap of a checkpoint is one like any other. So the marks are those of the image, and backy registers them with
//! libvirt as checkpoints. It does that first: then libvirt knows every bitmap.

use super::domain::{Disk, Domain, Place};
use super::tracker::{FORMAT, TRACKER, earlier, identity};
use super::virsh::{Answer, Virsh};
use super::{KIND, LibvirtAddress, LibvirtOptions, point};
use crate::base::error::{Error, Result};
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::{Bookmark, SourceIdentity};
use crate::source::qcow2::{self, ImageFile};
use crate::source::tracking::{Marked, Tracker};
use crate::source::{Meeting, Opened, running};

/// Opens the image of a disk.
///
/// # Errors
/// [`Error::Source`].
pub(super) fn open(
    address: &LibvirtAddress,
    virsh: Virsh,
    (domain, disk): (&Domain, &Disk),
    options: LibvirtOptions,
) -> Result<Opened<'static>> {
    let failed = |why: &str| running::error(address.to_string(), why);
    let path = match &disk.place {
        Some(Place::Path(path)) => path.clone(),
        Some(Place::Other(kind)) => {
            let advice = if kind == "rbd" { "; or use a source \"rbd:POOL/IMAGE\"" } else { "" };
            return Err(failed(&format!(
                "the domain does not run, and its disk is no file or block device here, but {kind}; start the \
                 domain{advice}"
            )));
        }
        None => return Err(failed("the disk has no medium")),
    };
    let place = SourceIdentity::new(address.to_string(), KIND);
    let image = ImageFile::new(path, options.secret);
    let image = image.of_format(&disk.format).map_err(|why| failed(&why))?;
    let Opened { source, tracker } = image.open_as(place)?;
    let (domain, disk, address) = (domain.clone(), disk.clone(), address.clone());
    let tracker = tracker.map(|image| {
        let meeting = options.meeting;
        let tracker = StoppedTracker { address, virsh, domain, disk, image, meeting };
        Box::new(tracker) as Box<dyn Tracker>
    });
    Ok(Opened { source, tracker })
}

struct StoppedTracker {
    address: LibvirtAddress,
    virsh: Virsh,
    domain: Domain,
    disk: Disk,
    /// Keeps the bitmaps in the image.
    image: Box<dyn Tracker>,
    meeting: Option<Meeting>,
}

impl StoppedTracker {
    fn error(&self, why: &str) -> Error {
        running::error(self.address.to_string(), why)
    }

    /// Nothing changes meanwhile, so that no point is needed for the disks to be as they were at one moment.
    fn wait_for_turn(&self) -> Result<()> {
        let arrived = self.meeting.as_ref().map_or(Ok(()), Meeting::arrive_apart);
        arrived.map_err(|why| self.error(&why))
    }

    /// A bookmark of ours, for a bitmap.
    fn bookmark(&self, id: String, of_image: &Bookmark) -> Bookmark {
        let identity = identity(&self.domain, &self.disk, &of_image.identity);
        Bookmark::new(TRACKER, id, identity, of_image.granularity)
    }

    /// What the image's tracker would have written, where this has been.
    fn of_image(&self, bookmark: &Bookmark) -> Answer<Bookmark> {
        let before = identity(&self.domain, &self.disk, "");
        let Some(chain) = bookmark.identity.strip_prefix(&before) else {
            let expected = bookmark.identity.escape_debug();
            return Err(format!("it is another disk: found {before}…, expected {expected}"));
        };
        Ok(qcow2::bookmark(chain.to_owned(), bookmark.granularity))
    }

    /// Checks the checkpoint of an earlier mark; what is below the image is the image's own matter.
    fn earlier(&self, name: MarkName, bookmark: &Bookmark) -> Answer<Bookmark> {
        let of_image = self.of_image(bookmark)?;
        let identity = Ok(bookmark.identity.clone());
        earlier(&self.virsh, &self.disk, identity, (name, bookmark)).map(|()| of_image)
    }
}

impl Tracker for StoppedTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        self.wait_for_turn()?;
        let made = match self.disk.format == FORMAT {
            true => point::redefine(&self.virsh, &self.disk, name),
            // The image says why.
            false => Ok(()),
        };
        if let Err(why) = made {
            return Ok(Marked::none(format!("a checkpoint cannot be made: {why}")));
        }
        let known = since.map(|(since, bookmark)| {
            self.earlier(since, bookmark).map(|of_image| (since, of_image))
        });
        let (usable, unusable) = match known {
            None => (None, None),
            Some(Ok(usable)) => (Some(usable), None),
            Some(Err(why)) => (None, Some(why)),
        };
        let since = usable.as_ref().map(|(since, of_image)| (*since, of_image));
        let Marked { bookmark, doubt } = self.image.mark(name, since)?;
        let doubt = unusable.or(doubt);
        let Some(of_image) = bookmark else { return Ok(Marked { bookmark: None, doubt }) };
        Ok(match self.virsh.checkpoint_id(name, &self.disk.target) {
            Ok(id) => Marked { bookmark: Some(self.bookmark(id, &of_image)), doubt },
            Err(why) => Marked::none(why),
        })
    }

    fn hold(&mut self, name: MarkName) -> Result<()> {
        self.wait_for_turn()?;
        self.image.hold(name)
    }

    fn obstacle(&self) -> Option<String> {
        self.image.obstacle()
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        match self.earlier(name, bookmark) {
            Ok(of_image) => self.image.doubt(name, &of_image),
            Err(why) => Ok(Some(why)),
        }
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        self.virsh.checkpoints(archive).map_err(|why| self.error(&why))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.image.settle(archive, keep)?;
        for name in self.marks(archive)?.into_iter().filter(|name| Some(*name) != keep) {
            self.virsh.delete(name, false).map_err(|why| self.error(&why))?;
        }
        Ok(())
    }
}
