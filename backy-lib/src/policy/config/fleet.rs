//! `fleet.toml`: which archives `backy run` works on, which are expected, and how many jobs run at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::files::Files;
use super::origin::check_url;
use super::{
    Flaw, Group, SourceAddress, at_least_one, check_absolute, check_source, flaw, parse_time,
};
use crate::base::error::{Error, Result};

/// Where `fleet.toml` is, unless somebody names another file.
pub const FLEET_PATH: &str = "/etc/backy/fleet.toml";

/// A job that has made no progress for this long is stuck, unless `stall` is set.
pub(crate) const DEFAULT_STALL: Duration = Duration::from_secs(30 * 60);

/// What `fleet.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetSettings {
    /// Archives, folders that hold archives, and patterns.
    pub archives: Vec<PathBuf>,
    /// How many jobs run at a time; `None` for one for each core, at most four.
    pub jobs: Option<NonZeroUsize>,
    /// How many jobs of each group run at a time.
    pub groups: BTreeMap<Group, NonZeroUsize>,
    /// A job that has made no progress for this long is stuck.
    pub stall: Option<Duration>,
    /// The file for Prometheus that each run writes.
    pub textfile: Option<PathBuf>,
    /// The program that prints further archives, with its arguments.
    pub archives_from: Vec<String>,
    /// The archives that are expected.
    pub declared: Vec<Declared>,
}

/// An archive that is expected, and made if it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its folder.
    pub path: PathBuf,
    /// What it backs up, as it is written in `backy.toml`; `None` for whatever its own `backy.toml` says.
    pub source: Option<PathBuf>,
    /// The path or URL of the archive that it is a copy of; never set together with a source.
    pub origin: Option<String>,
    /// The settings that it includes when it is made.
    pub include: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "settings and sections")]
struct RawFleet {
    #[serde(default)]
    archives: Vec<Spanned<String>>,
    jobs: Option<Spanned<i64>>,
    stall: Option<Spanned<String>>,
    textfile: Option<Spanned<String>>,
    #[serde(default)]
    archives_from: Vec<Spanned<String>>,
    #[serde(default)]
    groups: BTreeMap<Spanned<String>, Spanned<i64>>,
    #[serde(default)]
    archive: Vec<RawDeclared>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an archive with path, source or origin, and include")]
struct RawDeclared {
    path: Spanned<String>,
    source: Option<Spanned<String>>,
    origin: Option<Spanned<String>>,
    include: Option<Spanned<String>>,
}

impl FleetSettings {
    /// Parses the file as it is on disk. `path` is only for messages.
    ///
    /// # Errors
    /// [`Error::Config`] with line and column.
    pub fn parse_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut files = Files::default();
        let number = files.add(path, bytes, None)?;
        let raw: RawFleet = files.read(files.table(number))?;
        check(raw).map_err(|flaw| files.error(flaw.offset, flaw.message))
    }

    /// How long a job may make no progress before it is stuck.
    pub fn stall(&self) -> Duration {
        self.stall.unwrap_or(DEFAULT_STALL)
    }
}

impl Declared {
    /// Parses what a program prints: an object in JSON on each line, with `path`, and `source` or `origin` and
    /// `include` if they are set. `program` is only for messages.
    ///
    /// # Errors
    /// [`Error::Specification`], with the number of the line.
    pub fn parse_lines(text: &str, program: &str) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line {
            path: PathBuf,
            source: Option<String>,
            origin: Option<String>,
            include: Option<PathBuf>,
        }
        let parse = |(number, line): (usize, &str)| {
            let wrong = |why: &dyn std::fmt::Display| Error::Specification {
                message: format!("{program}: line {number} of its output: {why}"),
            };
            let line: Line = serde_json::from_str(line).map_err(|error| wrong(&error))?;
            for (key, path) in [("path", Some(&line.path)), ("include", line.include.as_ref())] {
                if let Some(path) = path.filter(|path| !path.is_absolute()) {
                    return Err(wrong(&format_args!(
                        "{key}: found {:?}, expected an absolute path",
                        path.display().to_string()
                    )));
                }
            }
            let Line { path, source, origin, include } = line;
            check_filling(source.is_some(), origin.as_deref()).map_err(|why| wrong(&why))?;
            let source = source.map(|text| SourceAddress::parse(&text)).transpose();
            let source = source.map_err(|why| wrong(&format_args!("source: {why}")))?;
            let source = source.map(|source| source.written());
            Ok(Declared { path, source, origin, include })
        };
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        lines.map(parse).collect()
    }
}

fn check(raw: RawFleet) -> std::result::Result<FleetSettings, Flaw> {
    let count = |key: &str, count: &Spanned<i64>| {
        let count = at_least_one(key, count)?;
        Ok(NonZeroUsize::new(count as usize).unwrap_or(NonZeroUsize::MIN))
    };
    let path = |key: &str, text: Option<Spanned<String>>| {
        text.map(|text| check_absolute(key, text)).transpose()
    };
    let mut groups = BTreeMap::new();
    for (name, limit) in &raw.groups {
        let group: Group = name.get_ref().parse().map_err(|message| flaw(name, message))?;
        groups.insert(group, count(name.get_ref(), limit)?);
    }
    let mut declared: Vec<Declared> = Vec::new();
    for raw in raw.archive {
        let at = raw.path.span();
        if let Some(origin) = &raw.origin {
            check_filling(raw.source.is_some(), Some(origin.get_ref()))
                .map_err(|message| flaw(origin, message))?;
        }
        let archive = Declared {
            path: check_absolute("path", raw.path)?,
            source: raw.source.map(check_source).transpose()?.map(|source| source.written()),
            origin: raw.origin.map(Spanned::into_inner),
            include: path("include", raw.include)?,
        };
        if declared.iter().any(|other| other.path == archive.path) {
            let message = format!("path: {} is declared twice", archive.path.display());
            return Err(Flaw { offset: at.start, message });
        }
        declared.push(archive);
    }
    let archives = raw.archives.into_iter().map(|text| check_absolute("archives", text));
    let stall = raw.stall.map(|text| {
        let parsed = parse_time("stall", text.get_ref()).map_err(|message| flaw(&text, message));
        parsed.map(jiff::SignedDuration::unsigned_abs)
    });
    Ok(FleetSettings {
        archives: archives.collect::<std::result::Result<_, _>>()?,
        jobs: raw.jobs.map(|jobs| count("jobs", &jobs)).transpose()?,
        groups,
        stall: stall.transpose()?,
        textfile: raw.textfile.map(super::monitoring::check_textfile).transpose()?,
        archives_from: program(raw.archives_from)?,
        declared,
    })
}

/// An archive has a source or an origin.
fn check_filling(has_source: bool, origin: Option<&str>) -> std::result::Result<(), String> {
    let Some(origin) = origin else { return Ok(()) };
    if has_source {
        return Err("origin: the archive also has a source; expected one of them".to_owned());
    }
    check_url("origin", origin)
}

/// A program, by its absolute path: cron's search path is not yours.
fn program(words: Vec<Spanned<String>>) -> std::result::Result<Vec<String>, Flaw> {
    if let Some(first) = words.first()
        && !Path::new(first.get_ref()).is_absolute()
    {
        let message = format!(
            "archives_from: found {:?}, expected the absolute path of a program",
            first.get_ref()
        );
        return Err(flaw(first, message));
    }
    Ok(words.into_iter().map(Spanned::into_inner).collect())
}
