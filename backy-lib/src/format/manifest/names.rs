//! Lists of file names as text, each with the kinds of files that belong into it.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};

use crate::format::name::FileName;

fn serialize<S: Serializer>(names: &[FileName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(FileName::to_string))
}

/// A list, and which files belong into it.
struct Names {
    list: &'static str,
    expected: &'static str,
    belongs: fn(FileName) -> bool,
}

impl<'de> Visitor<'de> for Names {
    type Value = Vec<FileName>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list, each {}", self.expected)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<FileName>, A::Error> {
        let mut names = Vec::new();
        // One by one, so that the first invalid one ends it.
        while let Some(name) = seq.next_element::<String>()? {
            let parsed = FileName::parse(&name).filter(|name| (self.belongs)(*name));
            names.push(parsed.ok_or_else(|| {
                let found = name.escape_default();
                A::Error::custom(format!("'{found}' in {}, expected {}", self.list, self.expected))
            })?);
        }
        Ok(names)
    }
}

/// Only files that nothing else in a manifest needs to name.
pub(super) mod set_aside {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        names: &[FileName],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::serialize(names, serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<FileName>, D::Error> {
        deserializer.deserialize_seq(Names {
            list: "set_aside",
            expected: "the name of a delta or a digest file",
            belongs: |name| matches!(name, FileName::Delta(_) | FileName::Digests(..)),
        })
    }
}

/// Only files that an operation makes under their own name and that may have to be deleted.
pub(super) mod removable {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        names: &[FileName],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::serialize(names, serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<FileName>, D::Error> {
        deserializer.deserialize_seq(Names {
            list: "removable",
            expected: "the name of an image, a delta or a digest file",
            belongs: |name| {
                let images = [FileName::IMAGE, FileName::STAGED_IMAGE];
                matches!(name, FileName::Delta(_) | FileName::Digests(..)) || images.contains(&name)
            },
        })
    }
}
