//! A scrub from beginning to end, with the lock or without it.

use jiff::Timestamp;

use super::{ScrubOptions, ScrubReport, scrub};
use crate::archive::operation::{Context, Request};
use crate::archive::recover::LostImage;
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::progress::Observer;
use crate::policy::config::Config;

impl Archive {
    /// Checks what is stored and changes nothing.
    pub fn check(
        &self,
        options: &ScrubOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ScrubReport> {
        let options = ScrubOptions { check_only: true, ..options.clone() };
        let (storage, config) = (self.shared_storage(), &Config::default());
        let context = Context { storage, config, clock, observer, threads: options.threads };
        scrub(&context, &mut self.manifest().clone(), &options)
    }
}

impl ArchiveWriter {
    /// Verifies what is stored, repairs what can be repaired, and records what was found.
    pub fn scrub(
        &mut self,
        options: &ScrubOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ScrubReport> {
        self.operation(Scrubbing { options }, clock, observer)
    }
}

struct Scrubbing<'a> {
    options: &'a ScrubOptions,
}

impl Request for Scrubbing<'_> {
    const NAME: &'static str = "scrub";
    type Plan = ();
    type Report = ScrubReport;

    fn threads(&self) -> Option<usize> {
        self.options.threads
    }

    fn recover(
        &self,
        writer: &mut ArchiveWriter,
        _: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        writer.recover_by_all_means(
            match self.options.check_only {
                true => LostImage::Refuse,
                false => LostImage::MakeAnew,
            },
            observer,
        )
    }

    /// A config that cannot be read is one of the findings.
    fn config(_: &Archive) -> Result<Config> {
        Ok(Config::default())
    }

    fn plan(&self, _: &mut ArchiveWriter, _: &Context<'_>) -> Result<()> {
        Ok(())
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        (): (),
        _: Timestamp,
    ) -> Result<ScrubReport> {
        scrub(context, writer.manifest_mut(), self.options)
    }
}
