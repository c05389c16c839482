//! `backy tag`

use std::collections::BTreeSet;
use std::str::FromStr;

use backy_lib::tag::TagRequest;
use backy_lib::{Error, Revision, RevisionId, RevisionSpec, Tag};
use serde::Serialize;

use crate::Session;
use crate::cli::{REVISION_HELP, revision};
use crate::errors::Failure;
use crate::waiting::Waiting;
use crate::words;

/// Show, add or remove the tags of a revision
///
/// A tag that you add is pinned: maintenance keeps the revision until you remove the tag. If the schedule had given
/// the tag before, removing it only unpins it; remove it once more to delete it. Options come before the revision.
/// After -r REV, write '--' before a tag to remove.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    waiting: Waiting,

    /// Print the tags as JSON
    #[arg(long)]
    json: bool,

    /// Which revision
    #[arg(short, long, value_name = "REV", value_parser = revision, long_help = REVISION_HELP)]
    revision: Option<RevisionSpec>,

    /// Revision, without -r
    #[arg(value_name = "REV", allow_hyphen_values = true, required_unless_present = "revision")]
    first: Option<String>,

    /// Tags to add (+TAG) and remove (-TAG) [default: show the tags]
    #[arg(value_name = "+TAG|-TAG", allow_hyphen_values = true, trailing_var_arg = true)]
    changes: Vec<Change>,
}

/// A tag to add or to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Add(Tag),
    Remove(Tag),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("--") {
            return Err("options come before the revision, as in 'backy tag --json 0'".to_owned());
        }
        if let Some(tag) = text.strip_prefix('+') {
            return tag.parse().map(Change::Add);
        }
        if let Some(tag) = text.strip_prefix('-') {
            return tag.parse().map(Change::Remove);
        }
        Err(format!("write +{text} to add the tag, or -{text} to remove it"))
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Tags<'a> {
    revision: RevisionId,
    tags: &'a BTreeSet<Tag>,
    pinned_tags: &'a BTreeSet<Tag>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let (wanted, changes) = sort_words(args)?;
    let (add, remove) = sort(&changes);
    let request = TagRequest { revision: wanted, add, remove };
    let archive = session.archive()?;
    let reporter = session.reporter();
    let changed = request.run(&archive, &session.caller(args.waiting, &reporter));
    drop(reporter);
    let revision = changed.map_err(|error| match &error {
        // The error says what to do itself.
        Error::Specification { message } if message.contains("; ") => Failure::advised(error, ""),
        _ => error.into(),
    })?;
    if changes.is_empty() {
        return show(&revision, args.json, session);
    }
    if args.json {
        show(&revision, true, session)?;
    }
    if session.tells() {
        let tags = words::tags(&revision).join(", ");
        let tags = if tags.is_empty() { "no tags".to_owned() } else { tags };
        session.output.note(&format!("revision {} has now: {tags}", revision.uuid));
    }
    Ok(())
}

/// With -r, the first word is a tag as well.
fn sort_words(args: &Args) -> Result<(RevisionSpec, Vec<Change>), Failure> {
    let mut changes = Vec::new();
    let wanted = match (&args.revision, &args.first) {
        (Some(wanted), None) => wanted.clone(),
        (Some(wanted), Some(first)) => {
            let advice = "see 'backy tag --help'";
            let change: Result<Change, String> = first.parse();
            let failed = |message| Failure::message(format!("'{first}': {message}; {advice}"));
            changes.push(change.map_err(failed)?);
            wanted.clone()
        }
        (None, first) => {
            let first = first.as_deref().unwrap_or_default();
            revision(first).map_err(|error| Failure::advised(error, "see 'backy tag --help'"))?
        }
    };
    changes.extend(args.changes.iter().cloned());
    Ok((wanted, changes))
}

fn show(revision: &Revision, json: bool, session: &Session) -> Result<(), Failure> {
    let Revision { uuid, tags, pinned_tags, .. } = revision;
    if json {
        return session.output.json(&Tags { revision: *uuid, tags, pinned_tags });
    }
    let lines: String = words::tags(revision).into_iter().map(|tag| tag + "\n").collect();
    if lines.is_empty() && session.tells() {
        session.output.note(&format!("revision {uuid} has no tags"));
    }
    session.output.result(lines.as_bytes())
}

/// The tags to add, and those to remove.
fn sort(changes: &[Change]) -> (BTreeSet<Tag>, BTreeSet<Tag>) {
    let (mut add, mut remove) = (BTreeSet::new(), BTreeSet::new());
    for change in changes {
        match change {
            Change::Add(tag) => add.insert(tag.clone()),
            Change::Remove(tag) => remove.insert(tag.clone()),
        };
    }
    (add, remove)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_begins_with_plus_or_minus() {
        assert_eq!("+v1.2".parse(), Ok(Change::Add("v1.2".parse().unwrap())));
        assert_eq!("-a-b".parse(), Ok(Change::Remove("a-b".parse().unwrap())));
        for (bad, word) in [
            ("weekly", "+weekly"),
            ("--json", "before the revision"),
            ("+", "letters"),
            ("-", "letters"),
            ("+a b", "'a b'"),
            ("", "+"),
        ] {
            let said = bad.parse::<Change>().expect_err(bad);
            assert!(said.contains(word), "{bad}: {said}");
        }
    }
}
