//! Lists that are short in any manifest that backy writes: a file that claims a longer one is refused before it costs
//! memory.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::{Flaw, MAX_TAGS};
use crate::base::revision::Tag;

/// More features are refused; so far there have been few.
const MAX_FEATURES: usize = 256;

/// More flaws of one revision are refused. Higher than this program's own limit, so that a newer one may keep more.
const MAX_FLAWS_READ: usize = 256;

pub(super) fn features<'de, D: Deserializer<'de>>(inner: D) -> Result<Vec<String>, D::Error> {
    list(inner, MAX_FEATURES)
}

pub(super) fn tags<'de, D: Deserializer<'de>>(inner: D) -> Result<BTreeSet<Tag>, D::Error> {
    list(inner, MAX_TAGS)
}

pub(super) fn flaws<'de, D: Deserializer<'de>>(inner: D) -> Result<Vec<Flaw>, D::Error> {
    list(inner, MAX_FLAWS_READ)
}

fn list<'de, D, T, L>(deserializer: D, limit: usize) -> Result<L, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    L: Default + Extend<T> + IntoIterator<Item = T>,
{
    deserializer.deserialize_seq(Bounded { limit, of: PhantomData })
}

struct Bounded<T, L> {
    limit: usize,
    of: PhantomData<(T, L)>,
}

impl<'de, T: Deserialize<'de>, L: Default + Extend<T>> Visitor<'de> for Bounded<T, L> {
    type Value = L;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} values", self.limit)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<L, A::Error> {
        let mut list = L::default();
        let mut count = 0;
        while let Some(value) = seq.next_element::<T>()? {
            count += 1;
            if count > self.limit {
                return Err(A::Error::invalid_length(count, &self));
            }
            list.extend([value]);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Lists {
        #[serde(default, deserialize_with = "features")]
        features: Vec<String>,
        #[serde(default, deserialize_with = "tags")]
        tags: BTreeSet<Tag>,
        #[serde(default, deserialize_with = "flaws")]
        flaws: Vec<Flaw>,
    }

    /// Reads as many as are allowed, and refuses one more, even if it is a repetition.
    #[test]
    fn one_more_than_allowed_is_refused() {
        let flaw = r#"{"file":"","message":"","found":"2026-11-28T00:00:00Z","confirmed":null}"#;
        for (list, value, limit) in [
            ("features", "\"x\"", MAX_FEATURES),
            ("tags", "\"x\"", MAX_TAGS),
            ("flaws", flaw, MAX_FLAWS_READ),
        ] {
            let read = |count: usize| {
                let text = format!("{{\"{list}\":[{}]}}", vec![value; count].join(","));
                serde_json::from_str::<Lists>(&text).map_err(|error| error.to_string())
            };
            let lists = read(limit).unwrap();
            assert!(lists.features.len() + lists.tags.len() + lists.flaws.len() > 0);
            let error = read(limit + 1).err().unwrap();
            assert!(error.contains(&format!("at most {limit}")), "{error}");
        }
    }
}
