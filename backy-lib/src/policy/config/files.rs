//! TOML files with settings: where a value stands in them, and errors that name that place.
//!
//! All files share one count of offsets: each file begins where the one before ended. So a value keeps its place when
//! tables of several files are merged, and whoever finds a problem with it needs only its offset. This module reads no
//! files; it gets their texts.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::encoding::decode;
use super::words::{plain, without_value};
use crate::base::error::{Error, Result};

/// The files that settings come from. The first is the one that includes the others, if there are any.
#[derive(Debug, Default)]
pub(crate) struct Files(Vec<File>);

#[derive(Debug)]
struct File {
    path: PathBuf,
    text: String,
    /// The offset at which it begins.
    start: usize,
    /// Where its lines begin, counted from its own beginning.
    lines: Vec<usize>,
    /// The offset, in an earlier file, of the path by which it was included.
    included_at: Option<usize>,
}

/// A position in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// The file.
    pub(crate) path: &'a Path,
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// Column in characters, counted from 1.
    pub(crate) column: usize,
}

impl Files {
    /// Adds a file as it is on disk. Returns its number.
    ///
    /// # Errors
    /// [`Error::Config`], if it is not UTF-8 or not TOML.
    pub(crate) fn add(
        &mut self,
        path: &Path,
        bytes: &[u8],
        included_at: Option<usize>,
    ) -> Result<usize> {
        match decode(bytes) {
            Ok(text) => self.add_text(path, text, included_at),
            Err((line, column, message)) => {
                let message = message + &self.chain(included_at);
                Err(Error::Config { path: path.to_owned(), line, column, message })
            }
        }
    }

    /// The same for a text.
    pub(crate) fn add_text(
        &mut self,
        path: &Path,
        text: &str,
        included_at: Option<usize>,
    ) -> Result<usize> {
        let start = self.0.last().map_or(0, |last| last.start + last.text.len() + 1);
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let (path, text) = (path.to_owned(), text.to_owned());
        let file = File { path, text, start, lines, included_at };
        let parsed = DeTable::parse(&file.text).map(drop);
        self.0.push(file);
        match parsed {
            Ok(()) => Ok(self.0.len() - 1),
            Err(error) => {
                let error = self.toml_error(&error, start);
                self.0.pop();
                Err(error)
            }
        }
    }

    /// What a file says; nothing if there is no such file.
    pub(crate) fn table(&self, number: usize) -> DeTable<'_> {
        let Some(file) = self.0.get(number) else { return DeTable::new() };
        let table = DeTable::parse(&file.text).map_or_else(|_| DeTable::new(), Spanned::into_inner);
        moved_table(table, file.start)
    }

    /// The files that a file includes, in order.
    pub(crate) fn included_by(&self, number: usize) -> impl Iterator<Item = usize> {
        let range =
            self.0.get(number).map_or(0..0, |file| file.start..file.start + file.text.len());
        let is_within = move |file: &File| file.included_at.is_some_and(|at| range.contains(&at));
        self.0.iter().enumerate().filter(move |(_, file)| is_within(file)).map(|(number, _)| number)
    }

    /// A value of any type from a table whose offsets are those of these files.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self, table: DeTable<'a>) -> Result<T> {
        let deserializer = Deserializer::from(Spanned::new(0..0, table));
        T::deserialize(deserializer).map_err(|error| self.toml_error(&error, 0))
    }

    /// Where an offset is.
    pub(crate) fn place(&self, offset: usize) -> Place<'_> {
        let Some(file) = self.0.iter().rev().find(|file| file.start <= offset) else {
            return Place { path: Path::new(""), line: 1, column: 1 };
        };
        let offset = (offset - file.start).min(file.text.len());
        let line = file.lines.partition_point(|begin| *begin <= offset).max(1);
        let begin = file.lines.get(line - 1).copied().unwrap_or(0);
        let rest = file.text.get(begin..).unwrap_or_default();
        let before = rest.char_indices().take_while(|(at, _)| begin + at < offset);
        Place { path: &file.path, line, column: before.count() + 1 }
    }

    /// An error about what is at an offset.
    pub(crate) fn error(&self, offset: usize, message: String) -> Error {
        let Place { path, line, column } = self.place(offset);
        let message = message + &self.chain(self.includer(offset));
        Error::Config { path: path.to_owned(), line, column, message }
    }

    /// Where the includes stand that lead to an offset, the nearest first, as the end of a sentence.
    pub(crate) fn chain(&self, included_at: Option<usize>) -> String {
        let mut text = String::new();
        let mut at = included_at;
        while let Some(offset) = at {
            let Place { path, line, column } = self.place(offset);
            let word = if text.is_empty() { "; included by" } else { ", by" };
            text.push_str(&format!("{word} {}:{line}:{column}", path.display()));
            at = self.includer(offset);
        }
        text
    }

    /// The path of each file but the first, and where it is included.
    pub(crate) fn included(&self) -> impl Iterator<Item = (&Path, Place<'_>)> {
        let included = |file| {
            let File { path, included_at, .. }: &File = file;
            Some((path.as_path(), self.place((*included_at)?)))
        };
        self.0.iter().filter_map(included)
    }

    /// The paths of all files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|file| file.path.as_path())
    }

    /// The path of a file.
    pub(crate) fn path(&self, number: usize) -> &Path {
        self.0.get(number).map_or(Path::new(""), |file| &file.path)
    }

    /// How many bytes all files have together.
    pub(crate) fn total_bytes(&self) -> usize {
        self.0.iter().map(|file| file.text.len()).sum()
    }

    /// Where the include stands that led to the file of an offset. It is always in an earlier file.
    fn includer(&self, offset: usize) -> Option<usize> {
        let file = self.0.iter().rev().find(|file| file.start <= offset)?;
        file.included_at.filter(|at| *at < file.start)
    }

    fn toml_error(&self, error: &toml::de::Error, start: usize) -> Error {
        let offset = start + error.span().map_or(0, |span| span.start);
        self.error(offset, plain(&without_value(error.message())).replace('\n', "; "))
    }
}

fn moved(span: Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

fn moved_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let entries = table.into_iter().map(|(key, value)| {
        let key = Spanned::new(moved(key.span(), by), key.into_inner());
        (key, moved_value(value, by))
    });
    entries.collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = moved(value.span(), by);
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        DeValue::Array(mut array) => {
            for item in array.iter_mut() {
                let nothing = Spanned::new(0..0, DeValue::Boolean(false));
                *item = moved_value(std::mem::replace(item, nothing), by);
            }
            DeValue::Array(array)
        }
        other => other,
    };
    Spanned::new(span, value)
}
