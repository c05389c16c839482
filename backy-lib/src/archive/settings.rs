//! Reads `backy.toml` and the files that it includes.
//!
//! What can be read is read, whatever the problems with the rest: [`Settings::config`] is the config or the first
//! problem, and `backy config` shows all.

use std::path::{Path, PathBuf};

use crate::base::error::{Error, ErrorKind, Result};
use crate::policy::config::files::Files;
use crate::policy::config::include::{self, Include};
use crate::policy::config::{CONFIG_LIMIT_BYTES, Config};
use crate::storage::{Behalf, Included, Storage, StorageFile, staged};

/// More files are not read, however they include each other.
const MAX_FILES: usize = 32;

/// How deep files may include each other.
const MAX_DEPTH: usize = 8;

/// How an included file is opened.
pub(crate) type OpenIncluded<'a> = dyn Fn(&Path, Behalf) -> Result<Included> + 'a;

/// The files of a config as they were read.
pub(crate) struct Settings {
    /// What was read.
    pub(crate) files: Files,
    /// Why something could not be read.
    pub(crate) problems: Vec<Error>,
}

impl Settings {
    /// Reads an open `backy.toml` and what it includes.
    ///
    /// # Errors
    /// Errors of `backy.toml` itself, before anything is included.
    pub(crate) fn read(
        storage: &dyn Storage,
        file: &dyn StorageFile,
        behalf: impl FnOnce() -> Result<Behalf>,
    ) -> Result<Self> {
        let content = staged::read_file(file, CONFIG_LIMIT_BYTES)?;
        let open = |path: &Path, behalf| storage.open_included(path, behalf);
        Self::of_content(&open, &file.path(), &content, behalf)
    }

    /// The same for a `backy.toml` with this content, of an archive that need not exist yet.
    pub(crate) fn of_content(
        open: &OpenIncluded<'_>,
        path: &Path,
        content: &[u8],
        behalf: impl FnOnce() -> Result<Behalf>,
    ) -> Result<Self> {
        let mut files = Files::default();
        let own = files.add(path, content, None)?;
        let includes = include::includes(&files, own);
        let mut reader = Reader { open, files, problems: Vec::new(), on_the_way: Vec::new() };
        match includes {
            Ok(includes) if includes.is_empty() => {}
            includes => reader.follow(includes, behalf()?),
        }
        Ok(Settings { files: reader.files, problems: reader.problems })
    }

    /// What all files say together.
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Untrusted`] for an included file that others can change.
    pub(crate) fn config(mut self) -> Result<Config> {
        match self.problems.is_empty() {
            true => Config::of_files(&self.files),
            false => Err(self.problems.swap_remove(0)),
        }
    }
}

struct Reader<'a> {
    open: &'a OpenIncluded<'a>,
    files: Files,
    problems: Vec<Error>,
    /// The included files that led to the present one, without symbolic links in their paths.
    on_the_way: Vec<PathBuf>,
}

impl Reader<'_> {
    /// Reads what a file includes.
    fn follow(&mut self, includes: Result<Vec<Include>>, behalf: Behalf) {
        match includes {
            Ok(includes) => includes.iter().for_each(|include| self.take(include, behalf)),
            Err(error) => self.problems.push(error),
        }
    }

    fn take(&mut self, include: &Include, behalf: Behalf) {
        let added = self.opened(include, behalf).and_then(|included| {
            let content = self.content(include, &included)?;
            let number = self.files.add(&include.path, &content, Some(include.at))?;
            Ok((number, included))
        });
        match added {
            Ok((number, included)) => {
                self.on_the_way.push(included.real);
                self.follow(include::includes(&self.files, number), included.behalf);
                self.on_the_way.pop();
            }
            Err(error) => self.problems.push(error),
        }
    }

    fn opened(&self, include: &Include, behalf: Behalf) -> Result<Included> {
        let refuse = |message: String| Err(self.files.error(include.at, message));
        let shown = include.path.display();
        if self.files.paths().count() == MAX_FILES {
            return refuse(format!("include: found more than {MAX_FILES} files"));
        }
        let included = (self.open)(&include.path, behalf);
        let included = included.map_err(|error| self.about(include, error))?;
        if self.on_the_way.contains(&included.real) {
            return refuse(format!(
                "include: {shown} includes itself; remove one of these includes"
            ));
        }
        if self.on_the_way.len() == MAX_DEPTH {
            return refuse(format!("include: found more than {MAX_DEPTH} files within each other"));
        }
        Ok(included)
    }

    /// The content, if all files together are not too long.
    fn content(&self, include: &Include, included: &Included) -> Result<Vec<u8>> {
        let file = &*included.file;
        let len = file.len().map_err(|error| self.about(include, error))?;
        let left = CONFIG_LIMIT_BYTES.saturating_sub(self.files.total_bytes() as u64);
        if len > left {
            let message = format!(
                "include: {} has {len} bytes, expected at most {CONFIG_LIMIT_BYTES} with all that is included",
                include.path.display()
            );
            return Err(self.files.error(include.at, message));
        }
        staged::read_file(file, left).map_err(|error| self.about(include, error))
    }

    /// An error about an included file, with the place that includes it.
    fn about(&self, include: &Include, error: Error) -> Error {
        if error.kind() == ErrorKind::Untrusted || error.is_of_process() {
            let chain = self.files.chain(Some(include.at));
            let also = chain.trim_start_matches("; ").to_owned();
            return Error::Besides { first: error.into(), also };
        }
        self.files.error(include.at, format!("include: {error}"))
    }
}
