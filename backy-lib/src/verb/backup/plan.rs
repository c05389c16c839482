//! Whether backy would make a backup now, and with which tags.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupOptions;
use crate::base::error::{Error, Result};
use crate::base::revision::Tag;
use crate::policy::config::Config;
use crate::policy::room::Estimate;
use crate::policy::schedule::{self, Due, Past};

/// What a backup would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupPlan {
    /// Whether backy would make a revision.
    pub due: bool,
    /// The tags that it would get.
    pub tags: BTreeSet<Tag>,
    /// The space that it would take, if that has been estimated.
    pub room: Option<Estimate>,
    /// When the next backup is due, if none is made now; null when nothing is scheduled.
    pub next_due: Option<Timestamp>,
    /// The tag that is due then.
    pub next_tag: Option<Tag>,
}

/// Which tags a backup started at `now` would give, and whether backy would make it.
///
/// # Errors
/// [`Error::Specification`] when a tag to be given as scheduled is not in the schedule.
pub fn plan(
    past: &Past<'_>,
    config: &Config,
    options: &BackupOptions,
    now: Timestamp,
) -> Result<BackupPlan> {
    check_scheduled(config, options)?;
    let scheduled = schedule::due(past, config, now);
    let due = options.is_wanted_now() || scheduled.is_due();
    let mut tags = &options.tags | &options.scheduled;
    if let Due::Tags(scheduled) = scheduled {
        tags.extend(scheduled);
    }
    let next = if due { None } else { schedule::next(past, config, now) };
    let (next_due, next_tag) = next.unzip();
    Ok(BackupPlan { due, tags, room: None, next_due, next_tag })
}

impl BackupOptions {
    /// Whether to make a backup whatever the schedule says.
    pub fn is_wanted_now(&self) -> bool {
        self.force || !self.tags.is_empty() || !self.scheduled.is_empty()
    }
}

/// Checks that tags to be given as scheduled are in the schedule, and are not pinned at the same time.
fn check_scheduled(config: &Config, options: &BackupOptions) -> Result<()> {
    if let Some(tag) = options.scheduled.intersection(&options.tags).next() {
        let message = format!("{tag}: cannot be both a scheduled and a pinned tag; choose one");
        return Err(Error::Specification { message });
    }
    let Some(tag) = options.scheduled.iter().find(|tag| !config.schedule.contains_key(*tag)) else {
        return Ok(());
    };
    let known: Vec<&str> = config.schedule.keys().map(Tag::as_str).collect();
    let expected = match known.is_empty() {
        true => "backy.toml has no schedule".to_owned(),
        false => format!("expected one of {}", known.join(", ")),
    };
    Err(Error::Specification { message: format!("{tag} is not in the schedule: {expected}") })
}

/// The warning about tags of the schedule that are given by hand: most who do so mean something else.
pub fn pins_scheduled(config: &Config, options: &BackupOptions) -> Option<String> {
    let pinned: Vec<&str> = options
        .tags
        .iter()
        .filter(|tag| config.schedule.contains_key(*tag))
        .map(Tag::as_str)
        .collect();
    let first = pinned.first()?;
    let (tags, are, they, tag_is) = match pinned.len() {
        1 => (pinned.join(", "), "is", "it is", "a tag"),
        _ => (pinned.join(", "), "are", "they are", "tags"),
    };
    Some(format!(
        "{tags} {are} {tag_is} of the schedule, but with --tag {they} pinned: the revision does not expire until \
         somebody removes the tag; 'backy backup --as {first}' makes a scheduled one now"
    ))
}
