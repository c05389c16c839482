//! Lists that are short in any manifest that backy writes: a file that claims more is refused before that costs memory.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::{Flaw, MAX_TAGS};
use crate::revision::Tag;

/// More features are refused; there have been few.
const MAX_FEATURES: usize = 256;

/// More flaws of one revision are refused, so that a newer program may keep more than this one.
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
