//! When the series of a scheduled tag began, which determines the hour and the day when the next ones are due.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Unknown;
use super::unknown::keeps_unknown;
use crate::base::revision::Tag;

/// The series of a scheduled tag. Revisions expire, so the existing ones may not show when it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Series {
    /// The tag.
    pub tag: Tag,
    /// When the first revision began that had this tag because it was due.
    pub began: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Series {
    /// A series that began at this time.
    pub fn new(tag: Tag, began: Timestamp) -> Self {
        Series { tag, began, unknown: Unknown::new() }
    }
}

keeps_unknown!(Series);
