//! When the series of a scheduled tag began, which says at which hour and on which day the next ones are due.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Unknown;
use super::unknown::keeps_unknown;
use crate::base::revision::Tag;

/// The series of a scheduled tag. Revisions expire, so that none of those that are there may tell when it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Series {
    /// The tag.
    pub tag: Tag,
    /// When the first revision that had it because it was due began.
    pub began: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Series {
    /// One that began at this time.
    pub fn new(tag: Tag, began: Timestamp) -> Self {
        Series { tag, began, unknown: Unknown::new() }
    }
}

keeps_unknown!(Series);
