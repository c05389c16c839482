//! The archives that `fleet.toml` expects: those that are missing, and those that differ from what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::job::Operation;
use super::listing;
use super::look::{self, Looked, Looking};
use super::plan::{FleetPlan, FleetRequest, Obstacle};
use crate::archive::folders;
use crate::base::error::Result;
use crate::base::report_path::ReportPath;
use crate::policy::config::Declared;
use crate::storage::mounts;

/// How long making an archive takes.
const INIT_SECONDS: f64 = 1.0;

/// The archives that a request names, and those that it expects.
pub(super) struct Expected {
    /// As somebody wrote them.
    given: Vec<PathBuf>,
    declared: BTreeMap<ReportPath, Declared>,
}

impl Expected {
    /// Reads the list of a program, if there is one. If that fails, it is a problem, and the rest goes on.
    pub(super) fn of(request: &FleetRequest, problems: &mut Vec<Obstacle>) -> Result<Self> {
        let settings = &request.settings;
        let mut declared = settings.declared.clone();
        if let Some(program) = settings.archives_from.first() {
            match listing::read(&settings.archives_from) {
                Ok(listed) => declared.extend(listed),
                Err(error) if error.is_of_process() => return Err(error),
                Err(error) => {
                    problems.push(Obstacle::new(program.clone().into(), error.to_string()));
                }
            }
        }
        let given = match request.folders.is_empty() {
            true => settings.archives.clone(),
            false => request.folders.clone(),
        };
        let declared = declared.into_iter().map(|one| (folders::label(&one.path), one));
        let is_meant = |label: &ReportPath| {
            request.folders.is_empty()
                || request.folders.iter().any(|folder| names(folder, label.as_path()))
        };
        let declared = declared.filter(|(label, _)| is_meant(label)).collect();
        Ok(Expected { given, declared })
    }

    /// All that there may be.
    pub(super) fn given(&self) -> Vec<PathBuf> {
        let declared = self.declared.values().map(|declared| declared.path.clone());
        self.given.iter().cloned().chain(declared).collect()
    }

    /// Whether nothing is found at a path because a declared archive has not been made yet.
    pub(super) fn explains(&self, path: &Path) -> bool {
        let missing = self.declared.values().filter(|declared| is_missing(&declared.path));
        let mut missing = missing.map(|declared| declared.path.as_path());
        missing.any(|declared| names(path, declared))
    }

    /// How an archive that is there differs from what is declared.
    pub(super) fn difference(&self, label: &ReportPath, looked: &Looked) -> Option<Obstacle> {
        self.other_source(label, looked.source.as_ref(), looked.origin.as_deref())
            .map(|message| Obstacle::new(label.clone(), message))
    }

    /// The same as a sentence, for an archive with this source or origin.
    pub(super) fn other_source(
        &self,
        label: &ReportPath,
        source: Option<&ReportPath>,
        origin: Option<&str>,
    ) -> Option<String> {
        let declared = self.declared.get(label)?;
        if let Some(wanted) = declared.origin.as_deref() {
            return match origin {
                Some(found) if found == wanted => None,
                Some(found) => Some(format!(
                    "is a copy of {found}; fleet.toml declares the origin {wanted}; correct one of them"
                )),
                None => Some(format!(
                    "has no origin in backy.toml; fleet.toml declares {wanted}; set it there"
                )),
            };
        }
        let wanted = declared.source.as_ref()?;
        match source {
            Some(found) if found.as_path() == wanted => None,
            Some(found) => Some(format!(
                "backs up {found}; fleet.toml declares the source {}; correct one of them",
                wanted.display()
            )),
            None => Some(format!(
                "has no source in backy.toml; fleet.toml declares {}; set it there",
                wanted.display()
            )),
        }
    }

    /// Whether an archive is expected.
    pub(super) fn contains(&self, label: &ReportPath) -> bool {
        self.declared.contains_key(label)
    }

    /// The declared archives that do not exist.
    pub(super) fn missing_ones(&self) -> impl Iterator<Item = (&ReportPath, &Declared)> {
        self.declared.iter().filter(|(_, declared)| is_missing(&declared.path))
    }

    /// Adds jobs that make the archives that do not exist.
    pub(super) fn missing(
        &self,
        there: &BTreeSet<ReportPath>,
        looking: &Looking,
        plan: &mut FleetPlan,
    ) {
        for (label, declared) in self.missing_ones().filter(|(label, _)| !there.contains(*label)) {
            if let Some(message) = obstacle(&declared.path) {
                plan.problems.push(Obstacle::new(label.clone(), message));
                continue;
            }
            let why = "fleet.toml declares it, and it does not exist".to_owned();
            let mut job = look::job(Operation::Init, why, None, None);
            job.archive = label.clone();
            job.expected_seconds = Some(INIT_SECONDS);
            job.command = looking.command(&job);
            if let Some(include) = &declared.include {
                job.command.extend(["--include".to_owned().into(), include.as_path().into()]);
            }
            if let Some(origin) = &declared.origin {
                job.command.extend(["--origin".to_owned().into(), origin.clone().into()]);
            }
            job.command.extend(declared.source.as_ref().map(|source| source.as_path().into()));
            plan.jobs.push(job);
        }
    }
}

/// Whether nothing has this name. An empty folder counts as something: its disk may not be mounted.
fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether somebody who writes `given` means this archive: by its path, by its folder, or by a pattern.
fn names(given: &Path, archive: &Path) -> bool {
    let label = folders::label(given);
    let is_path = label.as_path() == archive || archive.parent() == Some(label.as_path());
    let pattern = given.to_str().and_then(|text| Pattern::new(text).ok());
    let fits = |path: &Path| pattern.as_ref().is_some_and(|pattern| pattern.matches_path(path));
    is_path || fits(archive) || archive.parent().is_some_and(fits)
}

/// Why the archive cannot be made, in one line.
fn obstacle(path: &Path) -> Option<String> {
    let parent = path.parent()?;
    if !parent.is_dir() {
        return Some(format!(
            "cannot make the archive: there is no folder {}; create it, or mount its disk",
            parent.display()
        ));
    }
    let mountpoint = mounts::unmounted(path)?;
    Some(format!(
        "cannot make the archive: {} is in /etc/fstab and not mounted; mount it",
        mountpoint.display()
    ))
}
