//! What `rbd` and `ceph` print as JSON. It is not believed further than its types, lengths and places go.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};

use crate::base::extent::Extent;
use crate::source::reported::Extents;

/// Longest text that goes into the manifest.
const MOST_ID_BYTES: usize = 128;

/// An image; `rbd info`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    /// Unique within its pool; another image of the same name has another one.
    pub id: String,
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

/// A snapshot; `rbd snap ls`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Snapshot {
    /// Unique within its image; a snapshot that is made again has another one.
    pub id: u64,
    pub name: String,
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

#[derive(Deserialize)]
struct Cluster {
    fsid: String,
}

#[derive(Deserialize)]
struct Pool {
    #[serde(rename = "poolnum")]
    id: u64,
    #[serde(rename = "poolname")]
    name: String,
}

impl Info {
    /// # Errors
    /// A sentence.
    pub(super) fn parse(printed: &[u8]) -> std::result::Result<Self, String> {
        // An image of format 1 has no id.
        let info: Info = parsed("rbd info", printed)?;
        check_id("rbd info", &info.id)?;
        Ok(info)
    }
}

/// # Errors
/// A sentence.
pub(super) fn snapshots(printed: &[u8]) -> std::result::Result<Vec<Snapshot>, String> {
    parsed("rbd snap ls", printed)
}

/// The name of a cluster that no other one has.
///
/// # Errors
/// A sentence.
pub(super) fn cluster(printed: &[u8]) -> std::result::Result<String, String> {
    let Cluster { fsid } = parsed("ceph fsid", printed)?;
    check_id("ceph fsid", &fsid)?;
    Ok(fsid)
}

/// The number of a pool, which stays when it is renamed.
///
/// # Errors
/// A sentence.
pub(super) fn pool(printed: &[u8], name: &str) -> std::result::Result<u64, String> {
    let pools: Vec<Pool> = parsed("ceph osd lspools", printed)?;
    let found = pools.into_iter().find(|pool| pool.name == name);
    found.map(|pool| pool.id).ok_or_else(|| {
        format!("'ceph osd lspools' does not list the pool '{}'", name.escape_debug())
    })
}

fn parsed<'a, T: Deserialize<'a>>(
    command: &str,
    printed: &'a [u8],
) -> std::result::Result<T, String> {
    serde_json::from_slice(printed).map_err(|error| other(command, &error))
}

fn other(command: &str, error: &serde_json::Error) -> String {
    format!("'{command}' printed something else than expected: {error}")
}

fn check_id(command: &str, id: &str) -> std::result::Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match (1..=MOST_ID_BYTES).contains(&id.len()) && id.chars().all(is_plain) {
        true => Ok(()),
        false => Err(format!("'{command}' printed an id that is none: {:.60?}", id)),
    }
}

/// What `rbd diff` has printed of an image or a snapshot of `size_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Difference {
    /// What it lists, ascending, with gaps in between.
    pub listed: Vec<Extent>,
    /// Of that, what holds data.
    pub data: Vec<Extent>,
}

/// Reads a difference while it is printed. `rbd` lists the extents of an image with fancy striping in another order
/// than that of their offsets.
///
/// # Errors
/// Of the syntax, or of an extent that is not within the size.
pub(super) fn difference(
    printed: impl Read,
    size_bytes: u64,
) -> std::result::Result<Difference, serde_json::Error> {
    let mut found = Gathered { size_bytes, listed: Extents::new(), data: Extents::new() };
    let mut reader = serde_json::Deserializer::from_reader(std::io::BufReader::new(printed));
    DeserializeSeed::deserialize(&mut found, &mut reader)?;
    reader.end()?;
    Ok(Difference { listed: found.listed.finish(), data: found.data.finish() })
}

struct Gathered {
    size_bytes: u64,
    listed: Extents,
    data: Extents,
}

/// An entry of `rbd diff`.
#[derive(Deserialize)]
struct Entry {
    offset: u64,
    length: u64,
    #[serde(deserialize_with = "truth")]
    exists: bool,
}

impl<'de> DeserializeSeed<'de> for &mut Gathered {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Gathered {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        while let Some(Entry { offset, length, exists }) = list.next_element()? {
            let end =
                offset.checked_add(length).filter(|end| length > 0 && *end <= self.size_bytes);
            let Some(end) = end else {
                return Err(de::Error::custom(format!(
                    "found {length} bytes at offset {offset}, expected at least one within {}",
                    self.size_bytes
                )));
            };
            let extent = Extent::between(offset, end);
            self.listed.push(extent);
            if exists {
                self.data.push(extent);
            }
        }
        Ok(())
    }
}

/// `rbd` prints truth values as strings.
fn truth<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Value(bool),
        Word(String),
    }
    match Either::deserialize(from)? {
        Either::Value(value) => Ok(value),
        Either::Word(word) if word == "true" => Ok(true),
        Either::Word(word) if word == "false" => Ok(false),
        Either::Word(_) => Err(de::Error::custom("expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn read(printed: &str) -> std::result::Result<Difference, String> {
        difference(printed.as_bytes(), SIZE).map_err(|error| error.to_string())
    }

    /// What the programs print is understood, and nothing else.
    #[test]
    fn answers_are_understood() {
        let info = br#"{"name":"a","id":"102d97c040e5","size":67108864,"features":["layering"]}"#;
        let expected = Info { id: "102d97c040e5".to_owned(), size_bytes: 64 << 20 };
        assert_eq!(Info::parse(info), Ok(expected));
        let list = br#"[{"id":4,"name":"s1","size":7,"protected":"true","timestamp":"Mon"}]"#;
        let expected = Snapshot { id: 4, name: "s1".to_owned(), size_bytes: 7 };
        assert_eq!(snapshots(list), Ok(vec![expected]));
        assert_eq!(cluster(br#"{"fsid":"8ec44e2c-a0cf"}"#), Ok("8ec44e2c-a0cf".to_owned()));
        let pools = br#"[{"poolnum":1,"poolname":"a"},{"poolnum":2,"poolname":"rbd"}]"#;
        assert_eq!(pool(pools, "rbd"), Ok(2));
        let missing = pool(pools, "b").unwrap_err();
        assert!(missing.contains("the pool 'b'"), "{missing}");
        // An image of format 1 has no id.
        for wrong in
            [r#"{"size":1}"#, r#"{"id":"","size":1}"#, r#"{"id":"a b","size":1}"#, "[]", ""]
        {
            let why = Info::parse(wrong.as_bytes()).unwrap_err();
            assert!(why.starts_with("'rbd info' printed"), "{wrong}: {why}");
        }
    }

    /// A difference is what is listed, merged; what does not exist is listed, but no data.
    #[test]
    fn differences_are_merged() {
        let found = read(
            r#"[{"offset":0,"length":10,"exists":"true"},{"offset":10,"length":5,"exists":"false"},
                {"offset":30,"length":1,"exists":true},{"offset":20,"length":4,"exists":"true"}]"#,
        );
        let at = |offset, len| Extent { offset, len };
        let listed = vec![at(0, 15), at(20, 4), at(30, 1)];
        let data = vec![at(0, 10), at(20, 4), at(30, 1)];
        assert_eq!(found, Ok(Difference { listed, data }));
        assert_eq!(read("[]"), Ok(Difference::default()));
        for (wrong, part) in [
            (r#"[{"offset":0,"length":0,"exists":"true"}]"#, "found 0 bytes at offset 0"),
            (r#"[{"offset":1,"length":1048576,"exists":"true"}]"#, "within 1048576"),
            (r#"[{"offset":18446744073709551615,"length":2,"exists":"true"}]"#, "within 1048576"),
            (r#"[{"offset":-1,"length":2,"exists":"true"}]"#, "invalid"),
            (r#"[{"offset":1,"length":2,"exists":"maybe"}]"#, "true or false"),
            (r#"[{"offset":1,"length":2}]"#, "exists"),
            (r#"[{"offset":1,"length":2,"exists":"true"}"#, "EOF"),
            ("[] []", "trailing"),
            ("{}", "a list of extents"),
            ("", "EOF"),
        ] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains(part), "{wrong}: {why}");
        }
    }

    proptest! {
        /// Whatever is printed, the answer is an error or extents within the size, of which the data are a part.
        #[test]
        fn anything_printed_is_a_difference_or_an_error(
            entries in proptest::collection::vec(
                (any::<u64>(), any::<u64>(), 0u8..3, "[a-z]{0,4}"), 0..6),
            small in any::<bool>(),
            cut in 0usize..400,
        ) {
            let entries: Vec<String> = entries.iter().map(|(offset, length, exists, word)| {
                let (offset, length) =
                    if small { (offset % SIZE, length % 5000) } else { (*offset, *length) };
                let exists = ["\"true\"", "false", &format!("\"{word}\"")][usize::from(*exists)].to_owned();
                format!(r#"{{"offset":{offset},"length":{length},"exists":{exists}}}"#)
            }).collect();
            let mut printed = format!("[{}]", entries.join(","));
            printed.truncate(cut);
            if let Ok(Difference { listed, data }) = read(&printed) {
                for list in [&listed, &data] {
                    prop_assert!(list.windows(2).all(|pair| pair[0].end() < pair[1].offset));
                    prop_assert!(list.iter().all(|extent| extent.len > 0 && extent.end() <= SIZE));
                }
                let is_listed = |data: &Extent| {
                    listed.iter().any(|all| all.offset <= data.offset && data.end() <= all.end())
                };
                prop_assert!(data.iter().all(is_listed));
            }
            let _ = (Info::parse(printed.as_bytes()), snapshots(printed.as_bytes()));
            let _ = (cluster(printed.as_bytes()), pool(printed.as_bytes(), "a"));
        }
    }
}
