//! `group`: which archives share a limit of `backy run`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::revision::Tag;

/// The name of a group of archives: 1 to 64 letters, digits, `_`, `-` and `.`, starting with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(Tag);

impl Group {
    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Group).map_err(|_: String| {
            format!(
                "group: found {text:?}, expected 1 to 64 letters, digits, '_', '-' and '.', beginning with a letter \
                 or a digit"
            )
        })
    }
}

impl TryFrom<String> for Group {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.as_str().to_owned()
    }
}
