//! A pull as the command and Python ask for one: into an archive that may not exist yet.

use std::path::PathBuf;

use super::plan::{Sides, plan};
use super::{PullOptions, PullPlan, PullReport};
use crate::archive::Archive;
use crate::base::error::{Error, ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::origin::{Listing, open_origin};
use crate::policy::config::Config;
use crate::storage::Trust;
use crate::verb::caller::{Caller, interrupted};
use crate::verb::init::InitRequest;

const VERB: &str = "pull";

/// Revisions of another archive to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Where the other archive is.
    pub origin: String,
    /// The folder of the copy, which is created if there is none.
    pub folder: PathBuf,
    /// Whether to act on a copy that others can change.
    pub trust: Trust,
    /// What to pull, and how.
    pub options: PullOptions,
}

impl PullRequest {
    /// A pull from the origin in the `backy.toml` of the copy. `options` say what that leaves open.
    ///
    /// # Errors
    /// As those of [`Archive::trusted_origin`].
    pub fn configured(folder: PathBuf, trust: Trust, options: PullOptions) -> Result<Self> {
        let origin = Archive::open_with(&folder, trust)?.trusted_origin()?;
        let limit_rate = options.limit_rate.or(origin.limit_rate);
        Ok(PullRequest {
            origin: origin.url,
            folder,
            trust,
            options: PullOptions { limit_rate, ..options },
        })
    }

    /// Pulls if that is due by the `interval` of `[origin]`. `None` if another process has just done so.
    ///
    /// # Errors
    /// As those of [`PullRequest::run`].
    pub fn run_if_due(&self, caller: &Caller<'_>) -> Result<Option<PullReport>> {
        self.perform(caller, |archive| archive.is_pull_due(caller.clock))
    }

    /// What the pull would do now. Takes no lock and changes nothing.
    ///
    /// # Errors
    /// As those of [`ArchiveWriter::pull`](crate::ArchiveWriter::pull).
    pub fn plan(&self, caller: &Caller<'_>) -> Result<PullPlan> {
        let mut origin = open_origin(&self.origin)?;
        let listing = origin.listing()?;
        let (manifest, config) = match self.open()? {
            Some(archive) => (archive.manifest().clone(), archive.config()?),
            None => (Manifest::new(listing.block_size), Config::default()),
        };
        let sides = Sides {
            origin: &origin.name(),
            listing: &listing,
            manifest: &manifest,
            schedule: &config.schedule,
            now: caller.clock.now(),
        };
        plan(&sides, &self.options)
    }

    /// Pulls what is missing here, oldest first.
    ///
    /// # Errors
    /// As those of [`ArchiveWriter::pull`](crate::ArchiveWriter::pull), and of creating an archive.
    pub fn run(&self, caller: &Caller<'_>) -> Result<PullReport> {
        let pulled = self.perform(caller, |_| Ok(true))?;
        pulled.ok_or_else(|| Error::Panic { message: "the pull was left out".to_owned() })
    }

    /// Pulls if `is_wanted`, which is asked before the lock is taken and after it.
    fn perform(
        &self,
        caller: &Caller<'_>,
        is_wanted: impl Fn(&Archive) -> Result<bool>,
    ) -> Result<Option<PullReport>> {
        let copy = self.open()?;
        if let Some(copy) = &copy
            && !is_wanted(copy)?
        {
            return Ok(None);
        }
        let opened = open_origin(&self.origin).inspect_err(|error| {
            if let Some(copy) = &copy {
                copy.record_failure(VERB, &caller.holder(VERB), error, caller.clock);
            }
        });
        let mut origin = opened?;
        let archive = match copy {
            Some(copy) => copy,
            None => self.create(origin.listing()?)?,
        };
        let mut writer = caller.writer(archive, VERB)?;
        // Whoever held the lock until now may have pulled.
        if !is_wanted(writer.archive())? {
            return Ok(None);
        }
        let pulled = writer.pull(&mut *origin, &self.options, caller.clock, caller.observer);
        pulled.map(Some).map_err(interrupted("the pulled revisions are complete"))
    }

    /// The copy, if there is one.
    fn open(&self) -> Result<Option<Archive>> {
        let real = |path: &std::path::Path| path.canonicalize().ok();
        let folder = real(&self.folder);
        if folder.is_some() && folder == real(self.origin.as_ref()) {
            let message = "it is the archive to pull into; expected another one".to_owned();
            return Err(Error::Source { path: self.origin.as_str().into(), message });
        }
        match Archive::open_with(&self.folder, self.trust) {
            Err(error) if error.kind() == ErrorKind::NoArchive => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Makes the copy, whose config names the origin: later pulls need no arguments.
    fn create(&self, Listing { block_size, .. }: Listing) -> Result<Archive> {
        let (folder, origin, trust) = (self.folder.clone(), self.origin.clone(), self.trust);
        let request = InitRequest {
            folder,
            source: None,
            origin: Some(origin),
            include: Vec::new(),
            block_size,
            trust,
        };
        Ok(request.run()?.archive)
    }
}
