//! Lists of file names as they are spelt, each of those that belong into it.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use crate::storage::FileName;

fn serialize<S: Serializer>(names: &[FileName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(FileName::to_string))
}

fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    list: &str,
    expected: &str,
    belongs: impl Fn(FileName) -> bool,
) -> Result<Vec<FileName>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parse = |name: String| {
        FileName::parse(&name).filter(|name| belongs(*name)).ok_or_else(|| {
            let found = name.escape_default();
            D::Error::custom(format!("'{found}' in {list}, expected {expected}"))
        })
    };
    names.into_iter().map(parse).collect()
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
        let expected = "the name of a delta or a digest file";
        super::deserialize(deserializer, "set_aside", expected, |name| {
            matches!(name, FileName::Delta(_) | FileName::Digests(..))
        })
    }
}

/// Only files that an operation makes under their own name and that may have to go.
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
        let expected = "the name of an image, a delta or a digest file";
        super::deserialize(deserializer, "removable", expected, |name| {
            let images = [FileName::IMAGE, FileName::STAGED_IMAGE];
            matches!(name, FileName::Delta(_) | FileName::Digests(..)) || images.contains(&name)
        })
    }
}
