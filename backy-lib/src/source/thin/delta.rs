//! What `thin_delta` prints: which blocks two thin devices of a pool have in common. It is not believed further than
//! its form, its numbers and the order of its ranges go.
//!
//! ```xml
//! <superblock uuid="" time="2" transaction="7" data_block_size="128" nr_data_blocks="16384">
//!   <diff left="1" right="2">
//!     <same begin="0" length="3"/>
//!     <different begin="3" length="1"/>
//!     <left_only begin="8" length="2"/>
//!     <right_only begin="10" length="2"/>
//!   </diff>
//! </superblock>
//! ```

use std::io::{self, BufRead, BufReader, Read};

use crate::base::error::describe_io;
use crate::base::extent::Extent;
use crate::source::reported::Extents;

/// Longest tag.
const MOST_TAG_BYTES: u64 = 4096;

const SECTOR: u64 = 512;

/// What is asked: two devices of a pool, and the size of the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The device of the earlier snapshot, or the same as `right`.
    pub left: u32,
    /// The device that is read.
    pub right: u32,
    /// Unit of the pool, in bytes.
    pub block_bytes: u64,
    /// Size of the right device in bytes.
    pub size_bytes: u64,
}

/// The answer: extents of the right device, ascending, with gaps in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Where the two may differ.
    pub changed: Vec<Extent>,
    /// What is mapped in the right one.
    pub data: Vec<Extent>,
}

/// Why an answer is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misprint {
    /// A sentence.
    pub why: String,
    /// It ended too early.
    pub is_cut: bool,
}

type Answer<T> = std::result::Result<T, Misprint>;

fn wrong<T>(why: impl Into<String>) -> Answer<T> {
    Err(Misprint { why: why.into(), is_cut: false })
}

/// Reads an answer while it is printed.
///
/// # Errors
/// Of anything but an answer to this question.
pub fn difference(printed: impl Read, asked: Question) -> Answer<Difference> {
    let mut tags = Tags { input: BufReader::new(printed) };
    let superblock = tags.expect("superblock")?;
    let sectors = superblock.number("data_block_size")?;
    if sectors.checked_mul(SECTOR) != Some(asked.block_bytes) {
        let expected = asked.block_bytes;
        return wrong(format!("found blocks of {sectors} sectors, expected {expected} bytes"));
    }
    let diff = tags.expect("diff")?;
    let (left, right) = (diff.number("left")?, diff.number("right")?);
    if (left, right) != (asked.left.into(), asked.right.into()) {
        let (expected, other) = (asked.left, asked.right);
        return wrong(format!("found devices {left} and {right}, expected {expected} and {other}"));
    }
    let (mut changed, mut data) = (Extents::new(), Extents::new());
    let mut end = 0;
    loop {
        let tag = tags.some()?;
        let (is_changed, is_data) = match (&*tag.name, tag.form) {
            ("diff", Form::End) => break,
            ("same", Form::Empty) => (false, true),
            ("different" | "right_only", Form::Empty) => (true, true),
            ("left_only", Form::Empty) => (true, false),
            _ => return wrong(format!("found {tag}, expected a range")),
        };
        let (begin, length) = (tag.number("begin")?, tag.number("length")?);
        let bytes = |blocks: u64| blocks.checked_mul(asked.block_bytes);
        let range = begin.checked_add(length).and_then(|stop| Some((bytes(begin)?, bytes(stop)?)));
        let Some((from, to)) = range.filter(|_| length > 0 && begin >= end) else {
            return wrong(format!("found {length} blocks from {begin} on, behind block {end}"));
        };
        end = begin + length;
        // A volume that was made smaller keeps what is mapped behind its end.
        let extent = Extent::between(from, to.min(asked.size_bytes));
        if extent.len == 0 {
            continue;
        }
        if is_changed {
            changed.push(extent);
        }
        if is_data {
            data.push(extent);
        }
    }
    let last = tags.some()?;
    if (&*last.name, last.form) != ("superblock", Form::End) {
        return wrong(format!("found {last}, expected the end of the superblock"));
    }
    match tags.next()? {
        None => Ok(Difference { changed: changed.finish(), data: data.finish() }),
        Some(tag) => wrong(format!("found {tag} behind the end")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Begin,
    End,
    Empty,
}

#[derive(Debug)]
struct Tag {
    name: String,
    form: Form,
    values: Vec<(String, String)>,
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.form == Form::End { "/" } else { "" };
        write!(f, "<{slash}{:.40}>", self.name)
    }
}

impl Tag {
    fn number(&self, key: &str) -> Answer<u64> {
        let mut found = self.values.iter().filter(|(name, _)| name == key).map(|(_, value)| value);
        let (Some(text), None) = (found.next(), found.next()) else {
            return wrong(format!("expected one {key} in {self}"));
        };
        match text.parse() {
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => wrong(format!("found {key} = {text:.40?} in {self}, expected a number")),
        }
    }
}

struct Tags<R> {
    input: BufReader<R>,
}

impl<R: Read> Tags<R> {
    /// The next tag, which has to begin something of this name.
    fn expect(&mut self, name: &str) -> Answer<Tag> {
        let tag = self.some()?;
        match tag.name == name && tag.form == Form::Begin {
            true => Ok(tag),
            false => wrong(format!("found {tag}, expected <{name}>")),
        }
    }

    fn some(&mut self) -> Answer<Tag> {
        let ended = || Misprint { why: "it ended too early".to_owned(), is_cut: true };
        self.next()?.ok_or_else(ended)
    }

    /// The next tag; `None` at the end.
    fn next(&mut self) -> Answer<Option<Tag>> {
        let mut text = Vec::new();
        let unread = |error: io::Error| Misprint { why: describe_io(&error), is_cut: true };
        (&mut self.input).take(MOST_TAG_BYTES).read_until(b'>', &mut text).map_err(unread)?;
        let Ok(text) = String::from_utf8(text) else { return wrong("found no text") };
        let text = text.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        match text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            Some(inner) => match tag(inner) {
                Some(tag) => Ok(Some(tag)),
                None => wrong(format!("found {text:.80?}, which is no tag")),
            },
            None => Err(Misprint {
                why: format!("found {text:.80?}, expected a tag"),
                is_cut: text.starts_with('<') && (text.len() as u64) < MOST_TAG_BYTES,
            }),
        }
    }
}

/// What is between the brackets.
fn tag(inner: &str) -> Option<Tag> {
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let (form, inner) = match (inner.strip_prefix('/'), inner.strip_suffix('/')) {
        (Some(rest), None) => (Form::End, rest),
        (None, Some(rest)) => (Form::Empty, rest),
        (None, None) => (Form::Begin, inner),
        (Some(_), Some(_)) => return None,
    };
    let (name, mut rest) = inner.split_once(' ').unwrap_or((inner, ""));
    let mut values = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            break;
        }
        let (key, behind) = rest.split_once("=\"")?;
        let (value, behind) = behind.split_once('"')?;
        if !is_word(key) || value.contains(['<', '&']) {
            return None;
        }
        values.push((key.to_owned(), value.to_owned()));
        rest = behind;
    }
    let tag = Tag { name: name.to_owned(), form, values };
    (is_word(name) && (form != Form::End || tag.values.is_empty())).then_some(tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: u64 = 65536;
    const ASKED: Question =
        Question { left: 2, right: 1, block_bytes: UNIT, size_bytes: 12 * UNIT - 512 };
    const HEAD: &str = "<superblock uuid=\"\" time=\"2\" transaction=\"7\" data_block_size=\"128\" \
                        nr_data_blocks=\"16384\">\n  <diff left=\"2\" right=\"1\">\n";
    const TAIL: &str = "  </diff>\n</superblock>\n";

    fn read(printed: &str) -> Answer<Difference> {
        difference(printed.as_bytes(), ASKED)
    }

    fn of(ranges: &str) -> Answer<Difference> {
        read(&format!("{HEAD}{ranges}{TAIL}"))
    }

    fn at(begin: u64, length: u64) -> Extent {
        Extent::between(begin * UNIT, ((begin + length) * UNIT).min(ASKED.size_bytes))
    }

    /// What is not the same has changed, and what is mapped has data, up to the end of the volume.
    #[test]
    fn ranges_become_extents() {
        let found = of("<same begin=\"0\" length=\"3\"/>\n<different begin=\"3\" length=\"1\"/>\n\
                        <left_only begin=\"8\" length=\"2\"/><right_only begin=\"10\" length=\"2\"/>\n\
                        <different begin=\"15\" length=\"9\"/>");
        let changed = vec![at(3, 1), at(8, 4)];
        assert_eq!(found, Ok(Difference { changed, data: vec![at(0, 4), at(10, 2)] }));
        assert_eq!(of(""), Ok(Difference::default()));
    }

    /// Anything else is refused, and what is cut is known as that.
    #[test]
    fn other_answers_are_refused() {
        for (ranges, part) in [
            ("<same begin=\"4\" length=\"0\"/>", "found 0 blocks"),
            ("<same begin=\"4\" length=\"2\"/><same begin=\"5\" length=\"2\"/>", "behind block 6"),
            ("<same begin=\"18446744073709551615\" length=\"2\"/>", "found 2 blocks"),
            ("<same begin=\"18446744073709551\" length=\"2\"/>", "found 2 blocks"),
            ("<same begin=\"-1\" length=\"2\"/>", "expected a number"),
            ("<same begin=\"+1\" length=\"2\"/>", "expected a number"),
            ("<same begin=\"1\"/>", "expected one length"),
            ("<same begin=\"1\" begin=\"1\" length=\"1\"/>", "expected one begin"),
            ("<same begin=\"1\" length=\"1\">", "expected a range"),
            ("<other begin=\"1\" length=\"1\"/>", "expected a range"),
            ("text", "expected a tag"),
            ("<same begin=1 length=2/>", "no tag"),
        ] {
            let error = of(ranges).unwrap_err();
            assert!(error.why.contains(part) && !error.is_cut, "{ranges}: {error:?}");
        }
        for (printed, part) in [
            (HEAD.replace("left=\"2\"", "left=\"3\""), "found devices 3 and 1"),
            (HEAD.replace("\"128\"", "\"256\""), "found blocks of 256 sectors"),
            (HEAD.replace("<diff", "<other"), "expected <diff>"),
            (format!("{HEAD}{TAIL}{TAIL}"), "behind the end"),
            (format!("{HEAD}</diff></diff>"), "expected the end of the superblock"),
            ("x".repeat(9000), "expected a tag"),
        ] {
            let error = read(&printed).unwrap_err();
            assert!(error.why.contains(part), "{printed}: {error:?}");
        }
        assert!(difference(&b"<superblock \xff>"[..], ASKED).is_err());
        let whole = format!("{HEAD}<same begin=\"0\" length=\"3\"/>{TAIL}");
        for end in 0..whole.len() - 1 {
            let error = read(&whole[..end]).unwrap_err();
            assert!(error.is_cut, "{end}: {error:?}");
        }
    }

    proptest! {
        /// Whatever is printed, the answer is an error or extents within the size.
        #[test]
        fn anything_printed_is_a_difference_or_an_error(
            ranges in proptest::collection::vec(
                (0usize..5, any::<u64>(), any::<u64>(), any::<bool>()), 0..8),
            cut in 0usize..900,
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let names = ["same", "different", "left_only", "right_only", "other"];
            let mut begin = 0;
            let ranges: String = ranges.iter().map(|(name, gap, length, is_large)| {
                let (gap, length) = if *is_large { (*gap, *length) } else { (gap % 4, length % 4) };
                begin += gap % 5;
                let range = format!("<{} begin=\"{begin}\" length=\"{length}\"/>", names[*name]);
                begin = begin.wrapping_add(length);
                range
            }).collect();
            let mut printed = format!("{HEAD}{ranges}{TAIL}").into_bytes();
            printed.truncate(cut.max(1));
            for (place, byte) in noise {
                let place = place.index(printed.len());
                printed[place] = byte;
            }
            if let Ok(Difference { changed, data }) = difference(&printed[..], ASKED) {
                for list in [&changed, &data] {
                    prop_assert!(list.windows(2).all(|pair| pair[0].end() < pair[1].offset));
                    let is_inside = |extent: &Extent| extent.len > 0 && extent.end() <= ASKED.size_bytes;
                    prop_assert!(list.iter().all(is_inside));
                }
            }
        }
    }
}
