//! The names that an archive's files may have. Nothing else ever reaches the file system.

use std::fmt;

use crate::base::digest::Digest;
use crate::base::revision::RevisionId;

/// A file that is replaced as a whole: written under another name, synced, renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Published {
    /// `README`
    Readme,
    /// `backy.toml`
    Config,
    /// `manifest.json`
    Manifest,
    /// `last.raw`
    Image,
}

/// Which blocks a digest file has entries for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DigestsKind {
    /// All blocks of the revision: it is, or was, the newest.
    Image,
    /// The blocks that the revision's delta holds.
    Delta,
}

/// Distinguishes the files that an archive is writing from those of anybody else: a number that no other program puts
/// into a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagingToken(u64);

impl StagingToken {
    /// For files that are written before there is a manifest.
    pub const FIRST: StagingToken = StagingToken(0xbac0_9d3f_61e7_5a28);

    /// A token derived from any text.
    pub fn of(text: &str) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(text.as_bytes()).0;
        StagingToken(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The token that 16 digits spell.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits && text.len() == 16)?;
        Some(StagingToken(number))
    }
}

impl fmt::Display for StagingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A checked file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A file under its final name.
    Published(Published),
    /// The final name and `.new`: `last.raw` while it is being written.
    Staged(Published),
    /// A small file while it is being written: the final name, the archive's own token and `.new`.
    Aside(Published, StagingToken),
    /// `<uuid>.qcow2`
    Delta(RevisionId),
    /// `<uuid>.image.digests` or `<uuid>.delta.digests`
    Digests(RevisionId, DigestsKind),
    /// `lock`
    Lock,
    /// `reserve`
    Reserve,
    /// `history.jsonl`
    History,
    /// `history.jsonl.1`
    OldHistory,
    /// `pull.spool`
    Spool,
}

impl FileName {
    /// `README`
    pub const README: FileName = FileName::Published(Published::Readme);
    /// `backy.toml`
    pub const CONFIG: FileName = FileName::Published(Published::Config);
    /// `manifest.json`
    pub const MANIFEST: FileName = FileName::Published(Published::Manifest);
    /// `last.raw`
    pub const IMAGE: FileName = FileName::Published(Published::Image);
    /// `last.raw.new`
    pub const STAGED_IMAGE: FileName = FileName::Staged(Published::Image);

    const PLAIN: [FileName; 5] = [
        FileName::Lock,
        FileName::Reserve,
        FileName::History,
        FileName::OldHistory,
        FileName::Spool,
    ];

    /// The name that `text` spells; `None` for a name that an archive does not use.
    pub fn parse(text: &str) -> Option<Self> {
        for name in FileName::PLAIN {
            if text == name.to_string() {
                return Some(name);
            }
        }
        for file in [Published::Readme, Published::Config, Published::Manifest, Published::Image] {
            match text.strip_prefix(file.as_str()) {
                Some("") => return Some(FileName::Published(file)),
                Some(STAGED_SUFFIX) => return Some(FileName::Staged(file)),
                Some(rest) => {
                    let token = rest.strip_prefix('.').and_then(|r| r.strip_suffix(STAGED_SUFFIX));
                    if let Some(token) = token.and_then(StagingToken::parse) {
                        return Some(FileName::Aside(file, token));
                    }
                }
                None => {}
            }
        }
        let (uuid, suffix) = text.split_once('.')?;
        let id = uuid.parse().ok()?;
        match suffix {
            "qcow2" => Some(FileName::Delta(id)),
            "image.digests" => Some(FileName::Digests(id, DigestsKind::Image)),
            "delta.digests" => Some(FileName::Digests(id, DigestsKind::Delta)),
            _ => None,
        }
    }
}

const STAGED_SUFFIX: &str = ".new";

impl Published {
    fn as_str(self) -> &'static str {
        match self {
            Published::Readme => "README",
            Published::Config => "backy.toml",
            Published::Manifest => "manifest.json",
            Published::Image => "last.raw",
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Published(file) => f.write_str(file.as_str()),
            FileName::Staged(file) => write!(f, "{}{STAGED_SUFFIX}", file.as_str()),
            FileName::Aside(file, token) => write!(f, "{}.{token}{STAGED_SUFFIX}", file.as_str()),
            FileName::Delta(id) => write!(f, "{id}.qcow2"),
            FileName::Digests(id, DigestsKind::Image) => write!(f, "{id}.image.digests"),
            FileName::Digests(id, DigestsKind::Delta) => write!(f, "{id}.delta.digests"),
            FileName::Lock => f.write_str("lock"),
            FileName::Reserve => f.write_str("reserve"),
            FileName::History => f.write_str("history.jsonl"),
            FileName::OldHistory => f.write_str("history.jsonl.1"),
            FileName::Spool => f.write_str("pull.spool"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_nothing_else_is_a_name() {
        let id = RevisionId::new(jiff::Timestamp::UNIX_EPOCH);
        let mut names = vec![
            FileName::Lock,
            FileName::Reserve,
            FileName::History,
            FileName::OldHistory,
            FileName::Spool,
            FileName::Delta(id),
            FileName::Digests(id, DigestsKind::Image),
            FileName::Digests(id, DigestsKind::Delta),
        ];
        for file in [Published::Readme, Published::Config, Published::Manifest, Published::Image] {
            let aside = FileName::Aside(file, StagingToken::of("x"));
            names.extend([FileName::Published(file), FileName::Staged(file), aside]);
        }
        for name in names {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        let tokens = ["README.0123456789abcdeF.new", "README.+123456789abcdef.new", "README.0.new"];
        let others = ["", ".", "..", "/etc/passwd", "../last.raw", "last.raw.new.new", "x.qcow2"];
        for bad in tokens.into_iter().chain(others) {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
        assert_eq!(FileName::parse(&format!("{id}.qcow2/../../x")), None);
    }
}
