//! What several commands print in the same way: lists of tags, of revisions and of extents, words for a shell, and
//! how much is verified.

use backy_lib::extent::Extent;
use backy_lib::health::display_age;
use backy_lib::scrub::Coverage;
use backy_lib::{Revision, RevisionId, Tag};
use jiff::Timestamp;

use crate::output::size;

/// `daily, weekly`
pub(crate) fn list<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> String {
    tags.into_iter().map(Tag::as_str).collect::<Vec<_>>().join(", ")
}

/// `before-upgrade (pinned), daily`
pub(crate) fn marked<'a>(
    tags: impl IntoIterator<Item = &'a Tag>,
    is_pinned: impl Fn(&Tag) -> bool,
) -> Vec<String> {
    let mark = |tag: &Tag| if is_pinned(tag) { format!("{tag} (pinned)") } else { tag.to_string() };
    tags.into_iter().map(mark).collect()
}

/// The tags of a revision, with those that are pinned marked.
pub(crate) fn tags(revision: &Revision) -> Vec<String> {
    marked(&revision.tags, |tag| revision.pinned_tags.contains(tag))
}

/// `no revision`, `revision 3`, `revisions 1, 3..7`; `numbers` are ascending.
pub(crate) fn revisions(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}..{last}"),
    };
    let runs: Vec<String> = runs.iter().map(run).collect();
    match numbers.len() {
        0 => "no revision".to_owned(),
        1 => format!("revision {}", runs.join(", ")),
        _ => format!("revisions {}", runs.join(", ")),
    }
}

/// How many characters of UUIDs distinguish all of them: at least 8, and not just up to a hyphen.
pub(crate) fn telling_length<'a>(ids: impl IntoIterator<Item = &'a RevisionId>) -> usize {
    let mut names: Vec<String> = ids.into_iter().map(RevisionId::to_string).collect();
    names.sort_unstable();
    let shared = names.windows(2).filter_map(|pair| {
        let [one, other] = pair else { return None };
        one.bytes().zip(other.bytes()).position(|(one, other)| one != other)
    });
    shared.max().map_or(0, |shared| shared + 1).max(8)
}

/// The beginning of a UUID, which names the revision as well.
pub(crate) fn short(id: RevisionId, length: usize) -> String {
    id.to_string().chars().take(length).collect()
}

/// `1 finding`, `2 findings`
pub(crate) fn count(number: usize, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

/// How many extents are shown of one revision.
const MAX_EXTENTS: usize = 4;

/// `bytes 0-65535, 131072-196607 (128 KiB)`; of many only the first ones.
pub(crate) fn bytes(extents: &[Extent]) -> String {
    let total = extents.iter().map(|extent| extent.len).sum();
    let shown = extents.iter().take(MAX_EXTENTS).map(|extent| {
        let last = extent.end().saturating_sub(1).max(extent.offset);
        format!("{}-{last}", extent.offset)
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    let more = match extents.len().saturating_sub(MAX_EXTENTS) {
        0 => String::new(),
        more => format!(" … and {more} more"),
    };
    format!("bytes {shown}{more} ({})", size(total))
}

/// With a capital at its beginning and a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

/// How many of the stored blocks were verified, and when last.
pub(crate) fn coverage(coverage: &Coverage, now: Timestamp) -> String {
    match (coverage.oldest, coverage.verified_share) {
        (Some(oldest), _) => {
            let age = display_age((now.as_second() - oldest.as_second()).max(1));
            format!("all stored blocks verified within the last {age}")
        }
        (None, share) if share > 0.0 => {
            // Not 100 while there is a rest.
            let percent = ((share * 100.0) as u32).min(99);
            let percent = if percent == 0 { "less than 1".to_owned() } else { percent.to_string() };
            format!("{percent} % of the stored blocks verified, the rest never")
        }
        _ => "no stored block verified yet".to_owned(),
    }
}

/// A word that a shell takes as it is.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_put_together() {
        for (numbers, text) in [
            (&[][..], "no revision"),
            (&[3], "revision 3"),
            (&[1, 2], "revisions 1, 2"),
            (&[0, 2, 3, 4, 9], "revisions 0, 2..4, 9"),
        ] {
            assert_eq!(revisions(numbers), text);
        }
    }

    #[test]
    fn short_names_tell_all_revisions_apart() {
        let id = |text: &str| text.parse::<RevisionId>().unwrap();
        let ids = [
            id("01a22436-1103-7e44-be21-0c7de8edeec9"),
            id("01a22436-106f-7d48-ba77-38828f98051c"),
            id("01a22499-106f-7d48-ba77-38828f98051c"),
        ];
        let length = telling_length(&ids);
        let names = ids.map(|id| short(id, length));
        assert_eq!(names, ["01a22436-11", "01a22436-10", "01a22499-10"]);
        assert_eq!(telling_length(&ids[1..]), 8);
        assert_eq!(telling_length([]), 8);
    }

    #[test]
    fn of_many_stretches_some_are_shown_and_all_are_summed_up() {
        let extents: Vec<Extent> = (0..6).map(|n| Extent::new(n * 8192, 4096)).collect();
        assert_eq!(bytes(&extents[..1]), "bytes 0-4095 (4.0 KiB)");
        let text = "bytes 0-4095, 8192-12287, 16384-20479, 24576-28671 … and 2 more (24.0 KiB)";
        assert_eq!(bytes(&extents), text);
    }

    #[test]
    fn coverage_is_never_rounded_up_to_all() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let say = |oldest: Option<i64>, verified_share| {
            let oldest = oldest.map(|seconds| Timestamp::from_second(seconds).unwrap());
            coverage(&Coverage { oldest, verified_share }, now)
        };
        assert!(say(None, 0.9999).starts_with("99 % "));
        assert!(say(None, 0.0001).starts_with("less than 1 % "));
        assert!(say(None, 0.0).starts_with("no "));
        assert_eq!(
            say(Some(1_000_000 - 9 * 86400), 1.0),
            "all stored blocks verified within the last 9 days"
        );
        assert_eq!(say(Some(1_000_100), 1.0), "all stored blocks verified within the last 1 s");
    }

    #[test]
    fn a_folder_with_a_blank_is_quoted() {
        assert_eq!(shell_word("/srv/backup/x-1.2"), "/srv/backup/x-1.2");
        assert_eq!(shell_word("/a b's"), r"'/a b'\''s'");
    }
}
