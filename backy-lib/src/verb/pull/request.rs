//! A pull as the command and Python ask for one: into an archive that may not exist yet.

use std::path::PathBuf;

use super::plan::{Sides, plan};
use super::{PullOptions, PullPlan, PullReport};
use crate::archive::{Archive, ArchiveWriter};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::escape;
use crate::format::manifest::Manifest;
use crate::origin::{Address, Listing, Origin, SshOptions, open_origin};
use crate::policy::config::Config;
use crate::storage::Trust;
use crate::verb::caller::{Caller, interrupted};
use crate::verb::init::InitRequest;

pub(super) const VERB: &str = "pull";

/// Revisions of another archive to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Where the other archive is.
    pub origin: Address,
    /// How to reach it if it is on another machine.
    pub ssh: SshOptions,
    /// The folder of the copy, which is created if there is none.
    pub folder: PathBuf,
    /// Whether the config of a new copy names the origin, so that later pulls need no arguments.
    pub remember: bool,
    /// Whether to act on a copy that others can change.
    pub trust: Trust,
    /// What to pull, and how.
    pub options: PullOptions,
}

impl PullRequest {
    /// What the pull would do now. Takes no lock and changes nothing.
    ///
    /// # Errors
    /// As those of [`ArchiveWriter::pull`](crate::ArchiveWriter::pull).
    pub fn plan(&self, caller: &Caller<'_>) -> Result<PullPlan> {
        let stopped = || caller.observer.cancelled();
        self.plan_from(&mut *open_origin(&self.origin, &self.ssh, &stopped)?, caller)
    }

    /// The same from an origin that is open.
    pub(crate) fn plan_from(
        &self,
        origin: &mut dyn Origin,
        caller: &Caller<'_>,
    ) -> Result<PullPlan> {
        let listing = origin.listing()?;
        let (manifest, config) = match self.open(origin)? {
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
        let stopped = || caller.observer.cancelled();
        self.run_from(&mut *self.reach(&stopped, caller)?, caller)
    }

    /// Opens the origin. If that fails, the history of the copy, if there is one, records it.
    pub(super) fn reach<'a>(
        &self,
        stopped: &'a (dyn Fn() -> bool + Sync),
        caller: &Caller<'_>,
    ) -> Result<Box<dyn Origin + 'a>> {
        open_origin(&self.origin, &self.ssh, stopped).inspect_err(|error| {
            if let Ok(copy) = Archive::open_with(&self.folder, self.trust) {
                copy.record_failure(VERB, &caller.holder(VERB), error, caller.clock);
            }
        })
    }

    /// The same from an origin that is open.
    pub(crate) fn run_from(
        &self,
        origin: &mut dyn Origin,
        caller: &Caller<'_>,
    ) -> Result<PullReport> {
        let archive = match self.open(origin)? {
            Some(archive) => archive,
            None => self.create(origin.listing()?)?,
        };
        self.pull(&mut caller.writer(archive, VERB)?, origin, caller)
    }

    pub(super) fn pull(
        &self,
        writer: &mut ArchiveWriter,
        origin: &mut dyn Origin,
        caller: &Caller<'_>,
    ) -> Result<PullReport> {
        writer
            .pull(origin, &self.options, caller.clock, caller.observer)
            .map_err(interrupted("the pulled revisions are complete"))
    }

    /// The copy, if there is one.
    fn open(&self, origin: &dyn Origin) -> Result<Option<Archive>> {
        let real = |path: &std::path::Path| path.canonicalize().ok();
        let folder = real(&self.folder);
        if folder.is_some() && folder == self.origin.folder().and_then(real) {
            let message = "it is the archive to pull into; expected another one".to_owned();
            return Err(Error::Source { path: origin.name().into(), message });
        }
        match Archive::open_with(&self.folder, self.trust) {
            Err(error) if error.kind() == ErrorKind::NoArchive => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn create(&self, Listing { block_size, .. }: Listing) -> Result<Archive> {
        let request = InitRequest {
            folder: self.folder.clone(),
            source: None,
            origin: self.remembered()?,
            include: Vec::new(),
            block_size,
            trust: self.trust,
        };
        Ok(request.run()?.archive)
    }

    /// The origin as the config of a new copy names it; `None` for a path that no config can name.
    fn remembered(&self) -> Result<Option<String>> {
        let named = match &self.origin {
            _ if !self.remember => return Ok(None),
            Address::Ssh(address) => Some(address.to_string()),
            Address::Folder(folder) => {
                let path = std::path::absolute(folder);
                let path = path.map_err(Error::io(folder, "find the folder of"))?;
                path.to_str().map(str::to_owned)
            }
        };
        Ok(named.filter(|named| !named.chars().any(escape::is_unsafe)))
    }
}
