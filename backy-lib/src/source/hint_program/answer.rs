//! What a hint program prints: lines of JSON, the first with the version, the last with `done`. It is not believed
//! further than that.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use serde::Deserialize;

use crate::base::canary::{Bug, planted};
use crate::base::error::describe_io;
use crate::base::escape::is_unsafe;
use crate::base::extent::{Extent, gaps};
use crate::source::program::Misread;
use crate::source::reported::{Extents, MOST_EXTENTS};

/// The version of requests and answers.
pub(super) const VERSION: u64 = 1;

/// Longest line.
const MOST_LINE_BYTES: u64 = 8192;

/// Longest text that goes into the manifest.
const MOST_TEXT_BYTES: usize = 1024;

/// A line. Which of them it has depends on what was asked.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    version: Option<u64>,
    identity: Option<String>,
    id: Option<String>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    length: Option<u64>,
    unknown: Option<String>,
    done: Option<bool>,
}

/// A mark that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    /// What distinguishes it from another one of its name.
    pub id: String,
    /// Where the source is as it was at the mark.
    pub path: Option<PathBuf>,
}

/// Extents, or why they are not known.
pub(super) type Known = std::result::Result<Vec<Extent>, String>;

type Answer<T> = std::result::Result<T, Misread>;

fn wrong<T>(why: impl Into<String>) -> Answer<T> {
    Err(Misread { why: why.into(), is_cut: false })
}

/// What identifies the source.
pub(super) fn identity(printed: impl Read) -> Answer<String> {
    let mut found = None;
    lines(printed, |line| {
        let alone = Line { identity: line.identity.clone(), ..Line::default() };
        if line != alone || line.identity.is_none() || found.is_some() {
            return wrong("expected one line with 'identity'");
        }
        found = line.identity;
        Ok(())
    })?;
    checked("identity", found)
}

/// The mark that was made.
pub(super) fn made(printed: impl Read) -> Answer<Made> {
    let (mut id, mut path) = (None, None);
    lines(printed, |line| {
        let alone = Line { id: line.id.clone(), path: line.path.clone(), ..Line::default() };
        if line != alone || line.id.is_none() || id.is_some() {
            return wrong("expected one line with 'id'");
        }
        (id, path) = (line.id, line.path);
        Ok(())
    })?;
    let is_path =
        |path: &PathBuf| path.is_absolute() && !path.to_string_lossy().contains(is_unsafe);
    if let Some(path) = path.as_ref().filter(|path| !is_path(path)) {
        return wrong(format!("found the path {path:.80?}, expected an absolute one"));
    }
    Ok(Made { id: checked("id", id)?, path })
}

/// What may have changed, ascending.
pub(super) fn changed(printed: impl Read, size_bytes: u64) -> Answer<Known> {
    let mut extents = Extents::new();
    let unknown = listed(printed, size_bytes, |extent| {
        extents.push(extent);
        Ok(())
    })?;
    Ok(unknown.map_or_else(|| Ok(extents.finish()), Err))
}

/// Where it may have data, ascending: between its holes. No gap between holes may be filled.
pub(super) fn data(printed: impl Read, size_bytes: u64) -> Answer<Known> {
    let mut holes: Vec<Extent> = Vec::new();
    let unknown = listed(printed, size_bytes, |extent| {
        if let Some(last) = holes.last_mut().filter(|last| last.end() == extent.offset) {
            last.len += extent.len;
            return Ok(());
        }
        holes.push(extent);
        match holes.len() > MOST_EXTENTS {
            true => wrong(format!("found more than {MOST_EXTENTS} holes")),
            false => Ok(()),
        }
    })?;
    if let Some(why) = unknown {
        return Ok(Err(why));
    }
    holes.sort_unstable();
    holes.dedup_by(|next, last| {
        let overlaps = next.offset <= last.end();
        if overlaps {
            *last = Extent::between(last.offset, last.end().max(next.end()));
        }
        overlaps
    });
    Ok(Ok(gaps(&holes, size_bytes)))
}

/// That it is done.
pub(super) fn nothing(printed: impl Read) -> Answer<()> {
    lines(printed, |_| wrong("expected no more than that it is done"))
}

/// Extents within the size, in any order; or why they are not known.
fn listed(
    printed: impl Read,
    size_bytes: u64,
    mut take: impl FnMut(Extent) -> Answer<()>,
) -> Answer<Option<String>> {
    let (mut unknown, mut count) = (None, 0u64);
    lines(printed, |line| {
        count += 1;
        let Line { offset, length, unknown: why, .. } = &line;
        let alone =
            Line { offset: *offset, length: *length, unknown: why.clone(), ..Line::default() };
        match (offset, length, why) {
            (None, None, Some(why)) if line == alone && count == 1 => {
                unknown = Some(text("unknown", why)?);
                Ok(())
            }
            (Some(offset), Some(length), None) if line == alone && unknown.is_none() => {
                let end = offset.checked_add(*length);
                match end.filter(|end| *length > 0 && *end <= size_bytes) {
                    Some(end) => take(Extent::between(*offset, end)),
                    None => wrong(format!(
                        "found {length} bytes at offset {offset}, expected at least one within {size_bytes}"
                    )),
                }
            }
            _ => wrong("expected lines with 'offset' and 'length', or one with 'unknown'"),
        }
    })?;
    Ok(unknown)
}

/// Calls `each` with all lines between the first and the last.
fn lines(printed: impl Read, mut each: impl FnMut(Line) -> Answer<()>) -> Answer<()> {
    let mut input = BufReader::new(printed);
    let mut number = 0u64;
    let mut is_done = false;
    loop {
        let mut text = Vec::new();
        (&mut input).take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut text).map_err(|error| {
            Misread { why: format!("it cannot be read: {}", describe_io(&error)), is_cut: true }
        })?;
        number += 1;
        let within = |misread: Misread| Misread {
            why: format!("line {number}: {}", misread.why),
            ..misread
        };
        match (text.is_empty(), is_done) {
            (true, true) => return Ok(()),
            (true, false) if planted(Bug::CutAnswer) => return Ok(()),
            (true, false) => {
                let why = format!("it ended after {} lines, without 'done'", number - 1);
                return Err(Misread { why, is_cut: true });
            }
            (false, true) => return wrong(format!("line {number}: found more behind 'done'")),
            (false, false) => {}
        }
        if text.len() as u64 > MOST_LINE_BYTES {
            return wrong(format!("line {number}: found more than {MOST_LINE_BYTES} bytes"));
        }
        let line: Line = serde_json::from_slice(&text).map_err(|error| Misread {
            why: format!("line {number}: {error}"),
            // The last line of one that was killed.
            is_cut: !text.ends_with(b"\n"),
        })?;
        if number == 1 {
            check_version(&line).map_err(within)?;
        } else if line == (Line { done: Some(true), ..Line::default() }) {
            is_done = true;
        } else {
            each(line).map_err(within)?;
        }
    }
}

fn check_version(line: &Line) -> Answer<()> {
    if *line == (Line { version: Some(VERSION), ..Line::default() }) {
        return Ok(());
    }
    let found = line.version.map_or("another line".to_owned(), |found| format!("version {found}"));
    wrong(format!("found {found}, expected {{\"version\": {VERSION}}}"))
}

fn checked(what: &str, found: Option<String>) -> Answer<String> {
    match found {
        Some(found) => text(what, &found),
        // A program that has failed says why.
        None => Err(Misread { why: format!("expected one line with '{what}'"), is_cut: true }),
    }
}

/// A short text in one line.
fn text(what: &str, found: &str) -> Answer<String> {
    match (1..=MOST_TEXT_BYTES).contains(&found.len()) && !found.contains(is_unsafe) {
        true => Ok(found.to_owned()),
        false => wrong(format!(
            "found '{what}' {found:.60?}, expected 1 to {MOST_TEXT_BYTES} bytes in one line"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn whole(lines: &str) -> String {
        format!("{{\"version\": 1}}\n{lines}{{\"done\": true}}\n")
    }

    fn at(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    /// Whole answers are understood; extents may come in any order and overlap.
    #[test]
    fn answers_are_understood() {
        let said = whole("{\"identity\": \"disk 4\"}\n");
        assert_eq!(identity(said.as_bytes()).unwrap(), "disk 4");
        let said = whole("{\"id\": \"17\", \"path\": \"/dev/mapper/a\"}\n");
        let path = Some(PathBuf::from("/dev/mapper/a"));
        assert_eq!(made(said.as_bytes()).unwrap(), Made { id: "17".to_owned(), path });
        let said = whole("{\"id\": \"17\"}\n");
        assert_eq!(made(said.as_bytes()).unwrap(), Made { id: "17".to_owned(), path: None });
        assert!(nothing(whole("").as_bytes()).is_ok());
        let said = whole(
            "{\"offset\": 4096, \"length\": 512}\n{\"offset\":0,\"length\":100}\n{\"length\":50,\"offset\":60}\n",
        );
        let expected = vec![at(0, 110), at(4096, 512)];
        assert_eq!(changed(said.as_bytes(), SIZE).unwrap(), Ok(expected));
        let expected = vec![at(110, 4096 - 110), at(4608, SIZE - 4608)];
        assert_eq!(data(said.as_bytes(), SIZE).unwrap(), Ok(expected));
        assert_eq!(changed(whole("").as_bytes(), SIZE).unwrap(), Ok(vec![]));
        assert_eq!(data(whole("").as_bytes(), SIZE).unwrap(), Ok(vec![at(0, SIZE)]));
        let said = whole("{\"unknown\": \"the journal is full\"}\n");
        assert_eq!(changed(said.as_bytes(), SIZE).unwrap(), Err("the journal is full".to_owned()));
    }

    /// Anything else is refused, and names the line; an answer that was cut is never taken for a whole one.
    #[test]
    fn other_answers_are_refused() {
        for (printed, part) in [
            ("{\"version\": 2}\n".to_owned(), "line 1: found version 2"),
            ("{\"done\": true}\n".to_owned(), "line 1: found another line"),
            ("{\"version\": 1, \"done\": true}\n".to_owned(), "line 1: found version 1"),
            ("no JSON\n".to_owned(), "line 1: expected"),
            (format!("{{\"version\": 1{}}}\n", " ".repeat(9000)), "more than 8192 bytes"),
            (whole("") + "\n", "line 3: found more behind"),
            (whole("{\"done\": false}\n"), "line 2: expected lines"),
            (whole("{\"offset\": 0, \"length\": 0}\n"), "line 2: found 0 bytes at offset 0"),
            (whole("{\"offset\": 1, \"length\": 1048576}\n"), "within 1048576"),
            (whole("{\"offset\": 18446744073709551615, \"length\": 2}\n"), "within 1048576"),
            (whole("{\"offset\": -1, \"length\": 2}\n"), "line 2: invalid value"),
            (whole("{\"offset\": 1}\n"), "line 2: expected lines"),
            (whole("{\"offset\": 1, \"length\": 1, \"id\": \"a\"}\n"), "line 2: expected lines"),
            (whole("{\"offset\": 1, \"length\": 1, \"more\": 1}\n"), "unknown field `more`"),
            (whole("{\"offset\": 1, \"length\": 1}\n{\"unknown\": \"a\"}\n"), "line 3: expected"),
            (whole("{\"unknown\": \"a\"}\n{\"offset\": 1, \"length\": 1}\n"), "line 3: expected"),
            (whole("{\"unknown\": \"a\\nb\"}\n"), "in one line"),
        ] {
            for misread in [
                changed(printed.as_bytes(), SIZE).unwrap_err(),
                data(printed.as_bytes(), SIZE).unwrap_err(),
            ] {
                assert!(misread.why.contains(part) && !misread.is_cut, "{printed}: {misread:?}");
            }
        }
        for (lines, part) in [
            ("", "expected one line"),
            ("{\"identity\": \"\"}\n", "expected 1 to 1024 bytes"),
            ("{\"identity\": \"a\", \"id\": \"b\"}\n", "expected one line"),
            ("{\"identity\": \"a\"}\n{\"identity\": \"a\"}\n", "expected one line"),
            ("{\"id\": \"a\"}\n{\"id\": \"a\"}\n", "expected one line"),
            ("{\"id\": \"a\", \"path\": \"a\"}\n", "expected"),
            ("{\"id\": \"a\", \"path\": \"/a\\u0007\"}\n", "expected"),
        ] {
            let said = whole(lines);
            let (one, other) = (identity(said.as_bytes()), made(said.as_bytes()).unwrap_err());
            assert!(one.unwrap_err().why.contains("expected one") || part.contains("1024"));
            assert!(other.why.contains("expected"), "{lines}: {other:?}");
        }
        assert!(nothing(whole("{\"id\": \"a\"}\n").as_bytes()).is_err());
        let said = whole("{\"offset\": 0, \"length\": 100}\n");
        for end in 0..said.len() - 1 {
            let found = changed(&said.as_bytes()[..end], SIZE);
            assert!(found.is_err_and(|misread| misread.is_cut), "{end}");
        }
    }

    proptest! {
        /// Whatever is printed, the answer is an error or extents within the size.
        #[test]
        fn anything_printed_is_an_answer_or_an_error(
            lines in proptest::collection::vec(
                (any::<u64>(), any::<u64>(), "[a-z]{1,6}", any::<bool>()), 0..6),
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in 0usize..400,
        ) {
            let lines: String = lines.iter().map(|(offset, length, word, is_small)| {
                let word = if word.len() < 3 { word } else { "offset" };
                let (offset, length) =
                    if *is_small { (offset % SIZE, length % 5000) } else { (*offset, *length) };
                format!("{{\"{word}\": {offset}, \"length\": {length}}}\n")
            }).collect();
            let mut printed = whole(&lines).into_bytes();
            printed.truncate(cut.max(1));
            for (place, byte) in noise {
                let place = place.index(printed.len());
                printed[place] = byte;
            }
            for found in [changed(&printed[..], SIZE), data(&printed[..], SIZE)] {
                if let Ok(Ok(extents)) = found {
                    prop_assert!(extents.windows(2).all(|pair| pair[0].end() < pair[1].offset));
                    let is_inside = |extent: &Extent| extent.len > 0 && extent.end() <= SIZE;
                    prop_assert!(extents.iter().all(is_inside));
                }
            }
            let _ = (identity(&printed[..]), made(&printed[..]), nothing(&printed[..]));
        }
    }
}
