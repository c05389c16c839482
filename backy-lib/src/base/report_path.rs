//! A path in a report: text for people and JSON, the exact path for programs that open it.
//!
//! A path on Linux is any sequence of bytes, JSON is UTF-8. Bytes that are not UTF-8 become U+FFFD in JSON,
//! and nothing can restore them. In this process, and in what [`exactly`] writes for another process of the
//! same program, the path stays exact.

use std::cell::Cell;
use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest path that is accepted: far more than any system call takes.
const MAX_BYTES: usize = 1 << 20;

/// A path in a report. Behaves like its text; [`ReportPath::as_path`] is the exact path.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportPath {
    text: String,
    /// Only for a path that is not UTF-8, whose text does not name the file.
    exact: Option<PathBuf>,
}

impl ReportPath {
    /// The path, byte for byte.
    pub fn as_path(&self) -> &Path {
        self.exact.as_deref().unwrap_or(Path::new(&self.text))
    }

    /// The text, with U+FFFD in place of bytes that are not UTF-8.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Deref for ReportPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for ReportPath {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ReportPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for ReportPath {
    fn from(text: String) -> Self {
        ReportPath { text, exact: None }
    }
}

impl From<&str> for ReportPath {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&Path> for ReportPath {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl From<PathBuf> for ReportPath {
    fn from(path: PathBuf) -> Self {
        match path.into_os_string().into_string() {
            Ok(text) => text.into(),
            Err(other) => {
                let exact = PathBuf::from(other);
                ReportPath { text: exact.display().to_string(), exact: Some(exact) }
            }
        }
    }
}

thread_local! {
    static EXACTLY: Cell<bool> = const { Cell::new(false) };
}

/// Writes and reads for another process of this program: a path that is not UTF-8 is the list of its bytes,
/// so that it survives unchanged. Not for JSON with a documented format.
pub fn exactly<T>(write_or_read: impl FnOnce() -> T) -> T {
    /// Restores the setting even after a panic.
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            EXACTLY.set(self.0);
        }
    }

    let _before = Before(EXACTLY.replace(true));
    write_or_read()
}

/// Whether this thread runs inside [`exactly`].
pub fn is_exact() -> bool {
    EXACTLY.get()
}

impl Serialize for ReportPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.exact {
            Some(exact) if is_exact() => {
                serializer.collect_seq(exact.as_os_str().as_bytes().iter())
            }
            _ => serializer.serialize_str(&self.text),
        }
    }
}

impl<'de> Deserialize<'de> for ReportPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrBytes;

        impl<'de> Visitor<'de> for TextOrBytes {
            type Value = ReportPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ReportPath, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ReportPath, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element::<u8>()? {
                    if bytes.len() == MAX_BYTES {
                        return Err(A::Error::custom("the path is too long"));
                    }
                    bytes.push(byte);
                }
                Ok(PathBuf::from(OsString::from_vec(bytes)).into())
            }
        }

        if is_exact() {
            deserializer.deserialize_any(TextOrBytes)
        } else {
            deserializer.deserialize_str(TextOrBytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd() -> ReportPath {
        PathBuf::from(OsString::from_vec(b"/srv/arch\xff".to_vec())).into()
    }

    /// JSON is UTF-8 whatever the path, and the path itself stays exact.
    #[test]
    fn a_path_that_is_not_utf_8_is_text_in_json_and_exact_in_the_process() {
        assert_eq!(serde_json::to_string(&odd()).unwrap(), "\"/srv/arch\u{fffd}\"");
        assert_eq!(odd().as_path().as_os_str().as_bytes(), b"/srv/arch\xff");
        assert_ne!(odd(), ReportPath::from(odd().as_str()));
    }

    /// Exact text reads back exactly, and JSON is normal again afterwards, even after a panic.
    #[test]
    fn exact_text_round_trips_the_path() {
        for path in [odd(), "/srv/ü".into()] {
            let text = exactly(|| serde_json::to_string(&path)).unwrap();
            assert_eq!(exactly(|| serde_json::from_str::<ReportPath>(&text)).unwrap(), path);
        }
        serde_json::from_str::<ReportPath>("[47]").unwrap_err();
        assert_eq!(exactly(|| serde_json::to_string("/srv/ü")).unwrap(), "\"/srv/ü\"");
        std::panic::catch_unwind(|| exactly(|| panic!("on purpose"))).unwrap_err();
        assert_eq!(serde_json::to_string(&odd()).unwrap(), "\"/srv/arch\u{fffd}\"");
    }
}
