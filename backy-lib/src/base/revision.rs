//! Names of revisions (a UUID, and tags that say why it exists) and of operations.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::{NoContext, Uuid};

/// Name of a revision: a UUID. backy makes version 7, so that names sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevisionId(Uuid);

impl RevisionId {
    /// A new name for a revision started at `time`. A clock before 1970 counts as 1970.
    pub fn new(time: Timestamp) -> Self {
        RevisionId(version_7(time))
    }

    /// The 16 bytes of the UUID.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The time in the name, to the millisecond; `None` for a UUID of another version.
    pub fn time(self) -> Option<Timestamp> {
        let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
        Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanoseconds).ok()?).ok()
    }
}

fn version_7(time: Timestamp) -> Uuid {
    #[cfg(feature = "testing")]
    if let Some(uuid) = seeded::version_7(time) {
        return uuid;
    }
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, nanoseconds))
}

/// Names by a seed, for tests that compare what several runs of one operation leave.
#[cfg(feature = "testing")]
pub mod seeded {
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};

    use jiff::Timestamp;
    use uuid::{Builder, Uuid};

    thread_local! {
        static NEXT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Another seed at each call.
    pub fn seed() -> u64 {
        RandomState::new().hash_one(())
    }

    /// Runs `operation`. The names that it makes in this thread follow from `seed`.
    pub fn names<T>(seed: u64, operation: impl FnOnce() -> T) -> T {
        let before = NEXT.replace(Some(seed));
        let result = operation();
        NEXT.set(before);
        result
    }

    pub(super) fn version_7(time: Timestamp) -> Option<Uuid> {
        let number = NEXT.get()?;
        NEXT.set(Some(number.wrapping_add(1)));
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let milliseconds = u64::try_from(time.as_millisecond()).unwrap_or(0);
        Some(Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid())
    }
}

impl From<Uuid> for RevisionId {
    fn from(uuid: Uuid) -> Self {
        RevisionId(uuid)
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RevisionId {
    type Err = String;

    /// Accepts only lower case with hyphens, the form that file names use.
    fn from_str(text: &str) -> Result<Self, String> {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().to_string() == text => Ok(RevisionId(uuid)),
            _ => {
                let text = text.escape_debug();
                Err(format!("'{text}' is not a UUID in lower case with hyphens"))
            }
        }
    }
}

/// Name of one operation: a UUID of version 7, shared by its log messages and its line in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct OperationId(Uuid);

impl OperationId {
    /// A new name for an operation started at `time`. A clock before 1970 counts as 1970.
    pub fn new(time: Timestamp) -> Self {
        OperationId(version_7(time))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for OperationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(|RevisionId(uuid)| OperationId(uuid))
    }
}

/// Why a revision exists: the name of a schedule, or a word given by a person.
///
/// 1 to 64 letters, digits, `_`, `-` and `.`, starting with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refuses names that no new tag may have, although older archives may contain such tags.
    ///
    /// # Errors
    /// A sentence: `..` stands for the revisions from one to another.
    pub fn check_new(&self) -> Result<(), String> {
        match self.0.contains("..") {
            true => Err(format!(
                "'{self}' cannot be a new tag: '..' stands for a range of revisions; use other characters"
            )),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let first_is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first_is_plain && text.len() <= 64 && text.chars().all(allowed) {
            Ok(Tag(text.to_owned()))
        } else {
            Err(format!(
                "'{}' is not a tag; expected 1 to 64 letters, digits, '_', '-' or '.', \
                 beginning with a letter or a digit",
                text.escape_debug()
            ))
        }
    }
}

impl TryFrom<String> for Tag {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time() {
        let early = RevisionId::new("2026-11-22T19:13:05Z".parse().unwrap());
        let late = RevisionId::new("2026-11-22T19:13:06Z".parse().unwrap());
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.time(), "2026-11-22T19:13:05Z".parse().ok());
    }

    #[test]
    fn only_the_canonical_form_of_a_uuid_is_accepted() {
        let text = "01935470-2f5e-7cc0-9d1a-3f0c5a3be001";
        assert_eq!(text.parse::<RevisionId>().unwrap().to_string(), text);
        for bad in ["", "..", &text.to_uppercase(), &text.replace('-', ""), "{x}"] {
            assert!(bad.parse::<RevisionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_short_plain_words() {
        for good in ["daily", "before-upgrade", "v1.2", "7"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", "-x", "+x", "a b", "ü", "a/b", "..", &"x".repeat(65)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert_eq!(
            ["a.b", "v1.2.", "a..b"].map(|tag| tag.parse::<Tag>().unwrap().check_new().is_ok()),
            [true, true, false]
        );
    }
}
