//! `include` and `without`: files of settings on top of each other.
//!
//! What a file includes lies under it, a later include on an earlier one. Tables are merged key by key, down to those
//! of a tag; any other value replaces the one under it as a whole. `without` removes from what a file includes, never
//! from what the file itself sets.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::Files;
use super::keys::{KEYS, SCHEDULE, TABLES};
use super::{Config, Flaw, RawConfig, check, flaw};
use crate::base::error::Result;
use crate::base::revision::Tag;

/// Tables that are merged lie at most this deep in each other: `[schedule.daily]`.
const MERGED_LEVELS: u32 = 2;

/// A file that another one includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Include {
    /// Where it is, as far as the file says: relative to the folder of that file's own path.
    pub(crate) path: PathBuf,
    /// The offset of its path in [`Files`].
    pub(crate) at: usize,
}

impl Config {
    /// The config of several files: what all of them say together.
    ///
    /// # Errors
    /// [`crate::Error::Config`], which names the file.
    pub(crate) fn of_files(files: &Files) -> Result<Self> {
        let table = merged(files, 0).map_err(|flaw| files.error(flaw.offset, flaw.message))?;
        let raw: RawConfig = files.read(table)?;
        let config = check(raw).map_err(|flaw| files.error(flaw.offset, flaw.message))?;
        Ok(Config { includes: files.paths().skip(1).map(Path::to_owned).collect(), ..config })
    }
}

/// The config of the first of several files, and the settings in them. The files are paths with their texts; one that
/// is not among them is not included. For tests: it reads like an archive, but no files.
///
/// # Errors
/// [`crate::Error::Config`].
#[cfg(feature = "testing")]
pub fn of_texts(texts: &[(&Path, &str)]) -> Result<(Config, Vec<super::setting::Setting>)> {
    let mut files = Files::default();
    if let Some((path, text)) = texts.first() {
        let own = files.add_text(path, text, None)?;
        add_included(&mut files, texts, own, 0)?;
    }
    Ok((Config::of_files(&files)?, super::setting::settings(&files, false)))
}

#[cfg(feature = "testing")]
fn add_included(
    files: &mut Files,
    texts: &[(&Path, &str)],
    number: usize,
    depth: u32,
) -> Result<()> {
    const MAX_DEPTH: u32 = 4;
    const MAX_FILES: usize = 16;
    for include in includes(files, number)? {
        let found = texts.iter().find(|(path, _)| **path == include.path);
        if let Some((path, text)) = found.filter(|_| depth < MAX_DEPTH)
            && files.paths().count() < MAX_FILES
        {
            let number = files.add_text(path, text, Some(include.at))?;
            add_included(files, texts, number, depth + 1)?;
        }
    }
    Ok(())
}

/// The files that a file includes, in order.
///
/// # Errors
/// [`crate::Error::Config`], if `include` is not a path or a list of paths.
pub(crate) fn includes(files: &Files, number: usize) -> Result<Vec<Include>> {
    let folder = files.path(number).parent().unwrap_or(Path::new(""));
    let table = files.table(number);
    let texts = texts(&table, "include", "a path, or a list of paths");
    let texts = texts.and_then(|texts| texts.into_iter().map(checked_path).collect());
    let texts: Vec<Spanned<&str>> = texts.map_err(|flaw| files.error(flaw.offset, flaw.message))?;
    let include =
        |text: &Spanned<&str>| Include { path: folder.join(text.get_ref()), at: text.span().start };
    Ok(texts.iter().map(include).collect())
}

/// What a file and all that it includes say together, without `include` and `without` themselves.
pub(super) fn merged(files: &Files, number: usize) -> std::result::Result<DeTable<'_>, Flaw> {
    let mut own = files.table(number);
    let without = without(&own)?;
    own.remove("include");
    own.remove("without");
    let mut all = DeTable::new();
    for included in files.included_by(number) {
        put_over(&mut all, merged(files, included)?, MERGED_LEVELS);
    }
    for path in &without {
        remove(&mut all, path);
    }
    put_over(&mut all, own, MERGED_LEVELS);
    Ok(all)
}

/// Puts a table over another one. What is in both has the place of the upper one.
fn put_over<'a>(under: &mut DeTable<'a>, over: DeTable<'a>, levels: u32) {
    for (key, value) in over {
        let span = value.span();
        let below = under.remove(&**key.get_ref()).map(Spanned::into_inner);
        let value = match (below, value.into_inner()) {
            (Some(DeValue::Table(mut below)), DeValue::Table(above)) if levels > 0 => {
                put_over(&mut below, above, levels - 1);
                DeValue::Table(below)
            }
            (_, value) => value,
        };
        under.insert(key, Spanned::new(span, value));
    }
}

/// Removes a key or table; also a table that has nothing left then, so that no tag without keys remains.
fn remove(table: &mut DeTable<'_>, path: &[String]) {
    let [name, rest @ ..] = path else { return };
    let is_empty = match table.get_mut(name.as_str()).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) if !rest.is_empty() && !inner.is_empty() => {
            remove(inner, rest);
            inner.is_empty()
        }
        _ => rest.is_empty(),
    };
    if is_empty {
        table.remove(name.as_str());
    }
}

/// The keys and tables that a file does not take over.
fn without(table: &DeTable<'_>) -> std::result::Result<Vec<Vec<String>>, Flaw> {
    let texts = texts(table, "without", "a list of keys and tables")?;
    let path = |text: Spanned<&str>| {
        names(text.get_ref()).filter(|names| is_known(names)).ok_or_else(|| {
            let found = text.get_ref();
            let message = format!(
                "without: found {found:?}, expected a key or a table of backy.toml, such as \"max_chain\" or \
                 \"schedule.monthly\""
            );
            flaw(&text, message)
        })
    };
    texts.into_iter().map(path).collect()
}

/// The value of a key that is a text or a list of texts; nothing if there is no such key.
fn texts<'t>(
    table: &'t DeTable<'_>,
    key: &str,
    expected: &str,
) -> std::result::Result<Vec<Spanned<&'t str>>, Flaw> {
    let Some(value) = table.get(key) else { return Ok(Vec::new()) };
    let text = |value: &'t Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::String(text) => Ok(Spanned::new(value.span(), &**text)),
        other => {
            let kind = super::words::kind(other);
            Err(flaw(value, format!("{key}: found {kind}, expected {expected}")))
        }
    };
    match value.get_ref() {
        DeValue::Array(list) => list.iter().map(text).collect(),
        _ => Ok(vec![text(value)?]),
    }
}

fn checked_path(text: Spanned<&str>) -> std::result::Result<Spanned<&str>, Flaw> {
    match *text.get_ref() {
        "" => Err(flaw(&text, "include: found no path, expected one".to_owned())),
        path if path.contains('\0') => Err(flaw(
            &text,
            "include: found a NUL character, which paths cannot contain".to_owned(),
        )),
        _ => Ok(text),
    }
}

/// Splits the name of a key or table as TOML writes it: `schedule.daily` or `schedule."a.b"`. `None` if it is none.
fn names(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if name.is_empty() {
            return None;
        }
        names.push(name.to_owned());
        if after.is_empty() {
            return Some(names);
        }
        rest = after.strip_prefix('.')?;
    }
}

/// Whether a config may have such a key or table.
fn is_known(names: &[String]) -> bool {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let is_key =
        |table: &str, name: &str| KEYS.iter().any(|key| key.table == table && key.name == name);
    match *names.as_slice() {
        ["include" | "without"] => false,
        ["schedule"] => true,
        [name] => is_key("", name) || TABLES.iter().any(|table| table.name == name),
        ["schedule", tag] => tag.parse::<Tag>().is_ok(),
        ["schedule", tag, name] => tag.parse::<Tag>().is_ok() && is_key(SCHEDULE, name),
        [table, name] => is_key(table, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
