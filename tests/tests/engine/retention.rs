//! Which revisions expire: against a rule that is written a second time and without haste, and over ten years of
//! cron. And when backups are made.

mod hours;
mod rules;
mod simulation;

use std::fs;
use std::path::Path;

/// The rows of the first table after `heading`, without its head.
fn documented(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../doc/retention.md");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, after) = text.split_once(heading).unwrap_or_else(|| panic!("no '{heading}'"));
    let rows = after.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}
