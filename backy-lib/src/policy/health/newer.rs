//! Kinds of problems added by newer versions, so that this version can read their reports.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ProblemKind;

/// Longest word accepted as a kind.
const MAX_BYTES: usize = 64;
/// No version has this many kinds. Words stay allocated for the life of the process, so their number is bounded.
const MAX_WORDS: usize = 256;

static MET: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

impl Serialize for ProblemKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ProblemKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let known = ProblemKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.or_else(|| newer(&word)).ok_or_else(|| {
            D::Error::custom(format!("found {word:?}; expected a kind of problem, such as overdue"))
        })
    }
}

/// The kind for a word that a newer version may use.
fn newer(word: &str) -> Option<ProblemKind> {
    let may_be = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if word.is_empty() || word.len() > MAX_BYTES || !word.bytes().all(may_be) {
        return None;
    }
    let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = match met.get(word) {
        Some(kept) => kept,
        None if met.len() < MAX_WORDS => {
            let kept: &'static str = Box::leak(word.to_owned().into_boxed_str());
            met.insert(kept);
            kept
        }
        None => return None,
    };
    Some(ProblemKind::Newer(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind reads back as written. A kind of a newer version keeps its word and is equal each time.
    #[test]
    fn every_kind_round_trips() {
        for kind in ProblemKind::ALL {
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!(text, format!("\"{}\"", kind.as_str()));
            assert_eq!(serde_json::from_str::<ProblemKind>(&text).unwrap(), kind);
        }
        let read = |text: &str| serde_json::from_str::<ProblemKind>(text);
        let newer = read("\"from-the-future\"").unwrap();
        assert_eq!(
            (newer, newer.as_str()),
            (ProblemKind::Newer("from-the-future"), "from-the-future")
        );
        assert_eq!(serde_json::to_string(&newer).unwrap(), "\"from-the-future\"");
        for wrong in ["\"\"", "\"No Kind\"", "1", &format!("\"{}\"", "a".repeat(65))] {
            read(wrong).unwrap_err();
        }
    }
}
