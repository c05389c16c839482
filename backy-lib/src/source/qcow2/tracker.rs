//! Marks in an image: persistent bitmaps, one for each.

use std::ffi::OsString;
use std::sync::Arc;

use rustix::fs::{Access, access};

use super::info::Image;
use super::{Shared, WITHIN};
use crate::base::error::{Result, describe_io};
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::program::QEMU_IMG;
use crate::source::qemu_nbd::Export;
use crate::source::tracking::{Marked, Tracker};

/// Its name in bookmarks.
const TRACKER: &str = "qcow2";

/// What one bit stands for: the default of QEMU for images with clusters of 64 KiB.
const GRANULARITY: u64 = 64 << 10;

/// Only its name, which has two UUIDs, distinguishes a bitmap.
const ID: &str = "persistent bitmap";

/// The bookmark of a bitmap in an image with these backing files.
pub(in crate::source) fn bookmark(chain: String, granularity: u64) -> Bookmark {
    Bookmark::new(TRACKER, ID.to_owned(), chain, granularity)
}

pub(super) struct BitmapTracker {
    pub shared: Arc<Shared>,
}

impl BitmapTracker {
    /// Adds or removes a bitmap.
    fn change(&self, action: &str, name: MarkName) -> std::result::Result<(), String> {
        let mut words: Vec<OsString> = vec!["bitmap".into(), action.into()];
        if action == "--add" {
            words.push(format!("--granularity={GRANULARITY}").into());
        }
        // `qemu-img bitmap` does not open what is below.
        words.extend(self.shared.own.iter().cloned());
        words.push(name.to_string().into());
        QEMU_IMG.run(&words, WITHIN).map(drop)
    }

    /// Why an earlier bitmap would not tell what has changed.
    fn earlier(image: &Image, name: MarkName, bookmark: &Bookmark) -> Option<String> {
        let chain = match &image.chain {
            Ok(chain) => chain,
            Err(why) => return Some(why.clone()),
        };
        if bookmark.id != ID {
            let found = bookmark.id.escape_debug();
            return Some(format!("the mark is of another kind: found {found}, expected {ID}"));
        }
        if bookmark.identity != *chain {
            let expected = bookmark.identity.escape_debug();
            return Some(format!(
                "what is below the image has changed: found {chain}, expected {expected}"
            ));
        }
        image.doubt(name, bookmark.granularity)
    }

    /// Why no bitmap can be made in this image.
    fn unwritable(&self, image: &Image) -> Option<String> {
        image.obstacle.clone().or_else(|| {
            let path = &self.shared.file.path;
            let error = access(path, Access::WRITE_OK).err()?;
            Some(format!("a bitmap cannot be made in it: {}", describe_io(&error.into())))
        })
    }
}

impl Tracker for BitmapTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        let shared = &self.shared;
        shared.served.replace(None, false);
        let before = shared.file.look()?;
        if let Some(why) = self.unwritable(&before) {
            return Ok(Marked::none(why));
        }
        if let Err(why) = self.change("--add", name) {
            return Ok(Marked::none(format!("a bitmap cannot be made in it: {why}")));
        }
        let mut doubt = match since {
            Some((since, bookmark)) => Self::earlier(&before, since, bookmark),
            None => Some("there is no earlier mark".to_owned()),
        };
        let mut export = None;
        if let (Some((since, _)), None) = (since, &doubt) {
            match Export::open(shared.options.clone(), Some(&since.to_string())) {
                Ok(with_bitmap) => export = Some(with_bitmap),
                Err(why) => doubt = Some(format!("the bitmap {since} is not served: {why}")),
            }
        }
        let is_tracked = export.is_some();
        let export = match export {
            Some(export) => export,
            None => {
                let export = Export::open(shared.options.clone(), None);
                export.map_err(|why| shared.file.error(&why))?
            }
        };
        shared.served.replace(Some(export), is_tracked);
        // Nobody has written to it since then: it is served.
        let now = shared.file.look()?;
        let (Ok(chain), None) = (&now.chain, now.doubt(name, GRANULARITY)) else {
            return Ok(Marked::none(format!("the bitmap {name} is not as it was made")));
        };
        let bookmark = bookmark(chain.clone(), GRANULARITY);
        let changed = since
            .filter(|_| is_tracked)
            .and_then(|(since, known)| Self::earlier(&now, since, known));
        Ok(Marked { bookmark: Some(bookmark), doubt: doubt.or(changed) })
    }

    fn obstacle(&self) -> Option<String> {
        self.shared.file.look().ok().and_then(|image| self.unwritable(&image))
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        Ok(Self::earlier(&self.shared.file.look()?, name, bookmark))
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        Ok(self.shared.file.look()?.marks(archive))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        // Nothing can be written to it while it is served.
        self.shared.served.replace(None, false);
        for name in self.marks(archive)?.into_iter().filter(|name| Some(*name) != keep) {
            self.change("--remove", name).map_err(|why| self.shared.file.error(&why))?;
        }
        Ok(())
    }
}
