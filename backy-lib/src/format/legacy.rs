//! The files of an archive of 2014: `config`, and a `<uuid>.rev` beside each data file `<uuid>`.
//!
//! Both are JSON as Python's `json` writes and reads it: if a key occurs twice, the last one counts. The blocks of
//! such an archive, all of one size, are called old blocks here. A `.rev` has a field `parent`: the *newer* revision
//! that a delta reads through to. `blocksums` gives the MD5 of each old block that the data file holds, or `bad:` and
//! the MD5 for one that was found to be wrong. Nothing here is trusted: counts and numbers have limits, and a
//! meaningless value is an error in a sentence.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::base::revision::RevisionId;

/// A longer `config` is not read.
pub const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// A longer `.rev` is not read.
pub const REV_LIMIT_BYTES: u64 = 256 << 20;

/// The size of an old block if `config` does not give it.
pub const DEFAULT_OLD_BLOCK_BYTES: u64 = 4 << 20;

/// Larger old blocks are refused: one is held in memory.
pub const MAX_OLD_BLOCK_BYTES: u64 = 64 << 20;

/// The most old blocks of a revision: 64 TiB at the usual size.
pub const MAX_OLD_BLOCKS: u64 = 1 << 24;

/// The content of `config`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OldConfig {
    /// What was backed up, as written there.
    pub source: Option<String>,
    /// Size of an old block in bytes.
    pub block_bytes: Option<u64>,
}

/// Which kind of data file a revision has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKind {
    /// The raw image.
    Full,
    /// The old blocks that differ from the parent, one after the other.
    Delta,
}

/// An MD5, written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Md5Sum(pub [u8; 16]);

/// An old block that a data file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldSum {
    /// Its number in the image, counted from 0.
    pub number: u64,
    /// Its MD5; `None` if it is marked as bad, or the value is not an MD5.
    pub md5: Option<Md5Sum>,
}

/// The content of a `.rev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldRevision {
    /// Its name, and that of its data file.
    pub uuid: RevisionId,
    /// When it was made.
    pub time: Timestamp,
    /// MD5 of the whole image.
    pub checksum: Option<Md5Sum>,
    /// The newer revision that a delta reads through to.
    pub parent: Option<RevisionId>,
    /// How many old blocks the image has; the last one may be short.
    pub blocks: u64,
    /// What its data file is.
    pub kind: OldKind,
    /// The old blocks in its data file, ascending, each once.
    pub sums: Vec<OldSum>,
    /// Number and MD5 of those that are marked as bad with the MD5 that they should have, ascending, each once.
    pub marks: Vec<(u64, Md5Sum)>,
}

impl OldConfig {
    /// Reads a `config`.
    ///
    /// # Errors
    /// A sentence: what was found and expected.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let RawConfig { source, chunksize, blocksize } = parse(bytes)?;
        let block_bytes = chunksize.or(blocksize);
        if let Some(bytes) = block_bytes.filter(|bytes| !(1..=MAX_OLD_BLOCK_BYTES).contains(bytes))
        {
            return Err(format!("chunksize: found {bytes}, expected 1 to {MAX_OLD_BLOCK_BYTES}"));
        }
        Ok(OldConfig { source, block_bytes })
    }
}

impl OldRevision {
    /// Reads a `.rev`.
    ///
    /// # Errors
    /// A sentence: the field, what was found and expected.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: RawRevision = parse(bytes)?;
        let missing = |field: &str| format!("{field}: found none");
        let blocks = raw.blocks.ok_or_else(|| missing("blocks"))?;
        if blocks > MAX_OLD_BLOCKS {
            return Err(format!("blocks: found {blocks}, expected at most {MAX_OLD_BLOCKS}"));
        }
        let kind = match raw.kind.as_deref() {
            Some("full") => OldKind::Full,
            Some("delta") => OldKind::Delta,
            other => return Err(format!("type: found {other:?}, expected \"full\" or \"delta\"")),
        };
        let uuid = |text: &str| text.parse::<RevisionId>();
        let Sums { sums, marks } = raw.sums.ok_or_else(|| missing("blocksums"))?;
        Ok(OldRevision {
            uuid: uuid(&raw.uuid.ok_or_else(|| missing("uuid"))?)?,
            time: time(raw.timestamp.ok_or_else(|| missing("timestamp"))?)?,
            checksum: raw.checksum.map(|text| md5(&text)).transpose()?,
            parent: raw.parent.map(|text| uuid(&text)).transpose()?,
            blocks,
            kind,
            sums,
            marks,
        })
    }
}

impl fmt::Display for Md5Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("JSON: found {error}"))
}

/// Seconds since 1970 with a fraction, as from Python's `time.time()`.
fn time(seconds: f64) -> Result<Timestamp, String> {
    let wrong = || format!("timestamp: found {seconds}, expected seconds from 1970 to 9999");
    if !(0.0..253_402_207_200.0).contains(&seconds) {
        return Err(wrong());
    }
    // A float of that size has no more than microseconds.
    Timestamp::from_microsecond((seconds * 1e6).round() as i64).map_err(|_| wrong())
}

fn md5(text: &str) -> Result<Md5Sum, String> {
    let wrong = || format!("{text:?} is not an MD5 of 32 hex digits");
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(Md5Sum(bytes))
}

/// A `config` before it is checked.
#[derive(Default)]
struct RawConfig {
    source: Option<String>,
    chunksize: Option<u64>,
    blocksize: Option<u64>,
}

/// A `.rev` before it is checked.
#[derive(Default)]
struct RawRevision {
    uuid: Option<String>,
    timestamp: Option<f64>,
    checksum: Option<String>,
    parent: Option<String>,
    blocks: Option<u64>,
    kind: Option<String>,
    sums: Option<Sums>,
}

/// `blocksums`, in ascending order.
struct Sums {
    sums: Vec<OldSum>,
    marks: Vec<(u64, Md5Sum)>,
}

/// Takes the fields of an object in any order; if one occurs twice, the last counts. serde's own code would refuse
/// that.
trait Fields: Default {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

impl Fields for RawConfig {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "source" => self.source = map.next_value()?,
            "chunksize" => self.chunksize = map.next_value()?,
            "blocksize" => self.blocksize = map.next_value()?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl Fields for RawRevision {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "uuid" => self.uuid = map.next_value()?,
            "timestamp" => self.timestamp = map.next_value()?,
            "checksum" => self.checksum = map.next_value()?,
            "parent" => self.parent = map.next_value()?,
            "blocks" => self.blocks = map.next_value()?,
            "type" => self.kind = map.next_value()?,
            "blocksums" => self.sums = map.next_value()?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

struct FieldsVisitor<T>(T);

impl<'de, T: Fields> Visitor<'de> for FieldsVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<T, A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            self.0.take(&key, &mut map)?;
        }
        Ok(self.0)
    }
}

impl<'de> Deserialize<'de> for RawConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(Self::default()))
    }
}

impl<'de> Deserialize<'de> for RawRevision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(Self::default()))
    }
}

struct SumsVisitor;

impl<'de> Visitor<'de> for SumsVisitor {
    type Value = Sums;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of MD5s by block number")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sums, A::Error> {
        use serde::de::Error;
        let mut sums: Vec<OldSum> = Vec::new();
        let mut marks = Vec::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let digits = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
            let number = key.parse::<u64>().ok().filter(|n| digits && *n < MAX_OLD_BLOCKS);
            let number = number.ok_or_else(|| {
                let limit = MAX_OLD_BLOCKS;
                A::Error::custom(format!("block {key:?}, expected a number below {limit}"))
            })?;
            if sums.len() as u64 >= MAX_OLD_BLOCKS {
                return Err(A::Error::custom("too many blocks"));
            }
            // `bad:` and anything else that is not an MD5 mean the same: the right content is not known.
            let text = map.next_value::<Cow<'de, str>>()?;
            let mark = text.strip_prefix("bad:").and_then(|text| md5(text).ok());
            marks.extend(mark.map(|md5| (number, md5)));
            sums.push(OldSum { number, md5: md5(&text).ok() });
        }
        // Stable, so that the last of several with one number stays last; reversed, so that this one is kept.
        sums.reverse();
        sums.sort_by_key(|sum| sum.number);
        sums.dedup_by_key(|sum| sum.number);
        marks.reverse();
        marks.sort_by_key(|(number, _)| *number);
        marks.dedup_by_key(|(number, _)| *number);
        // A mark counts only if no MD5 comes after it.
        marks.retain(|(number, _)| {
            let at = sums.binary_search_by_key(number, |sum| sum.number);
            at.ok().and_then(|at| sums.get(at)).is_some_and(|sum| sum.md5.is_none())
        });
        Ok(Sums { sums, marks })
    }
}

impl<'de> Deserialize<'de> for Sums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SumsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "18d1ff02f24fdcd6dd680e93ba11920d";

    fn rev(change: impl Fn(String) -> String) -> Result<OldRevision, String> {
        let text = format!(
            r#"{{"parent": "528f6c52-d4a6-4237-806a-78207688f511", "blocks": 4, "extra": [1, {{}}],
                "uuid": "de8285c3-af53-4967-a257-e66ea24f1020", "timestamp": 1396272454.468589,
                "blocksums": {{"10": "{MD5}", "1": "bad:{MD5}"}}, "checksum": "{MD5}", "type": "delta"}}"#
        );
        OldRevision::parse(change(text).as_bytes())
    }

    /// Reads a revision's file, with its old blocks in ascending order of their numbers.
    #[test]
    fn a_revision_is_read() {
        let read = rev(|text| text).unwrap();
        assert_eq!(read.uuid.to_string(), "de8285c3-af53-4967-a257-e66ea24f1020");
        assert_eq!(read.time.to_string(), "2014-03-31T13:27:34.468589Z");
        assert_eq!(read.checksum.unwrap().to_string(), MD5);
        assert_eq!((read.blocks, read.kind), (4, OldKind::Delta));
        assert_eq!(read.parent.unwrap().to_string(), "528f6c52-d4a6-4237-806a-78207688f511");
        let sums: Vec<_> = read.sums.iter().map(|sum| (sum.number, sum.md5.is_some())).collect();
        assert_eq!(sums, [(1, false), (10, true)]);
        let marks: Vec<_> = read.marks.iter().map(|(n, md5)| (*n, md5.to_string())).collect();
        assert_eq!(marks, [(1, MD5.to_owned())]);
    }

    /// If a key occurs twice, the last one counts, as in Python.
    #[test]
    fn the_last_of_two_equal_keys_counts() {
        let read =
            rev(|text| text.replace("\"blocks\": 4,", "\"blocks\": 7, \"blocks\": 5,")).unwrap();
        assert_eq!(read.blocks, 5);
        let twice = format!("\"1\": \"bad:{MD5}\", \"1\": \"{MD5}\"");
        let read = rev(|text| text.replace(&format!("\"1\": \"bad:{MD5}\""), &twice)).unwrap();
        assert!(read.sums[0].md5.is_some() && read.sums.len() == 2 && read.marks.is_empty());
        let config = |text: &str| OldConfig::parse(text.as_bytes()).unwrap().block_bytes;
        assert_eq!(config(r#"{"chunksize": 1, "source": "x", "chunksize": 50}"#), Some(50));
        assert_eq!(config(r#"{"blocksize": 50}"#), Some(50));
        assert_eq!(config(r#"{"source": null}"#), None);
        let named = OldConfig::parse(br#"{"source": "/dev/vg0/old"}"#).unwrap();
        assert_eq!(named.source.as_deref(), Some("/dev/vg0/old"));
    }

    /// Refuses meaningless values, with the name of the field.
    #[test]
    fn values_that_mean_nothing_are_refused() {
        for (from, to, word) in [
            ("\"blocks\": 4", "\"blocks\": 99999999", "blocks"),
            ("\"blocks\": 4", "\"blocks\": -1", "JSON"),
            ("\"blocks\": 4,", "", "blocks"),
            ("1396272454.468589", "1e300", "timestamp"),
            ("1396272454.468589", "-1.5", "timestamp"),
            ("1396272454.468589", "NaN", "JSON"),
            ("\"de8285c3", "\"DE8285C3", "UUID"),
            ("\"de8285c3", "\"../285c3", "UUID"),
            ("\"type\": \"delta\"", "\"type\": \"other\"", "type"),
            ("\"10\"", "\"+1\"", "+1"),
            ("\"10\"", "\"99999999999999999999\"", "99999999999999999999"),
            ("\"checksum\": \"18", "\"checksum\": \"1g", "MD5"),
            ("{\"10\"", "[{\"10\"", "an object of MD5s by block number"),
        ] {
            let error = rev(|text| text.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(word), "{to}: {error}");
        }
        assert!(OldConfig::parse(b"7").unwrap_err().contains("an object"));
        for bad in ["", "[]", "{", r#"{"chunksize": 0}"#, r#"{"chunksize": 99999999999}"#] {
            assert!(OldConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// No byte at any place makes it panic.
    #[test]
    fn any_byte_anywhere_is_read_or_refused() {
        let mut text = Vec::new();
        text.extend(
            br#"{"uuid": "de8285c3-af53-4967-a257-e66ea24f1020", "timestamp": 1.5, "blocks": 1, "#,
        );
        text.extend(br#""type": "full", "blocksums": {"0": "18d1ff02f24fdcd6dd680e93ba11920d"}}"#);
        assert!(OldRevision::parse(&text).is_ok());
        let mut read = 0;
        for at in 0..text.len() {
            for byte in [0, b'"', b'}', b'9', b'-', b'e', 0xc3, 0xff] {
                let mut changed = text.clone();
                changed[at] = byte;
                read += u32::from(OldRevision::parse(&changed).is_ok());
            }
            assert!(OldRevision::parse(&text[..at]).is_err(), "cut at {at}");
        }
        assert!(read > 0, "nothing was read");
    }

    /// Accepts a value at each limit, and refuses one more.
    #[test]
    fn limits_are_taken() {
        assert_eq!([CONFIG_LIMIT_BYTES, REV_LIMIT_BYTES], [1_048_576, 268_435_456]);
        assert_eq!(DEFAULT_OLD_BLOCK_BYTES, 4_194_304);
        let blocks = |count: u64| {
            rev(|text| text.replace("\"blocks\": 4", &format!("\"blocks\": {count}"))).is_ok()
        };
        assert_eq!([MAX_OLD_BLOCKS, MAX_OLD_BLOCKS + 1].map(blocks), [true, false]);
        let number =
            |number: u64| rev(|text| text.replace("\"10\"", &format!("\"{number}\""))).is_ok();
        assert_eq!([MAX_OLD_BLOCKS - 1, MAX_OLD_BLOCKS].map(number), [true, false]);
        let chunk =
            |bytes: u64| OldConfig::parse(format!("{{\"chunksize\": {bytes}}}").as_bytes()).is_ok();
        assert_eq!(
            [1, MAX_OLD_BLOCK_BYTES, MAX_OLD_BLOCK_BYTES + 1].map(chunk),
            [true, true, false]
        );
        let sum = |sum: &str| rev(|text| text.replacen(MD5, sum, 1)).unwrap().sums[1].md5;
        assert_eq!(sum(MD5).map(|md5| md5.to_string()).as_deref(), Some(MD5));
        for bad in [&MD5[1..], &format!("{MD5}0"), &MD5.replace('f', "g"), ""] {
            assert_eq!(sum(bad), None, "{bad}");
        }
    }
}
