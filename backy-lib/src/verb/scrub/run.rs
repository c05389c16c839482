//! A scrub from beginning to end, with the lock or without it.

use std::sync::Arc;

use super::{ScrubOptions, ScrubReport, scrub};
use crate::archive::recover::LostImage;
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::progress::Observer;

impl Archive {
    /// Checks what is stored and changes nothing.
    pub fn check(
        &self,
        options: &ScrubOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ScrubReport> {
        let options = ScrubOptions { check_only: true, ..options.clone() };
        scrub(self.shared_storage(), &mut self.manifest().clone(), &options, clock, observer)
    }
}

impl ArchiveWriter {
    /// Checks what is stored, mends what can be mended, and records what was found.
    pub fn scrub(
        &mut self,
        options: &ScrubOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ScrubReport> {
        let lost_image = if options.check_only { LostImage::Refuse } else { LostImage::MakeAnew };
        self.recover_by_all_means(lost_image, observer)?;
        let storage = Arc::clone(self.archive().shared_storage());
        let started = clock.now();
        let done = scrub(&storage, self.manifest_mut(), options, clock, observer);
        self.record("scrub", started, &done, clock, observer);
        done
    }
}
