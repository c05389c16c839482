//! Fields of newer programs: kept as their text, so that they cost no more memory than that.
//!
//! A type that keeps them derives `Serialize` and `Deserialize` with `remote = "Self"`, has a field `unknown` with
//! `flatten, skip_deserializing`, and is named in [`keeps_unknown`]. `flatten` alone would first build a tree of
//! everything.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::CowStrDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// An object with more text of unknown fields is refused.
pub const UNKNOWN_LIMIT_BYTES: usize = 1 << 20;

/// An unknown field with lists and objects that are nested deeper is refused: other programs could not read it.
pub const UNKNOWN_LIMIT_DEPTH: usize = 64;

/// Fields of newer programs, kept as they are: `"key":value` with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unknown(String);

impl Unknown {
    /// None.
    pub fn new() -> Self {
        Unknown::default()
    }

    /// Whether there are no such fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a field that is not among them; `value` is JSON.
    ///
    /// # Errors
    /// A sentence if it is nested too deep, or if they would be too long.
    fn add(&mut self, key: &str, value: &str) -> Result<(), String> {
        let shown = || key.chars().take(40).collect::<String>();
        let depth = depth(value);
        if depth > UNKNOWN_LIMIT_DEPTH {
            return Err(format!(
                "the unknown field {:?}, nested {depth} deep, expected at most {UNKNOWN_LIMIT_DEPTH}",
                shown()
            ));
        }
        let key_text = serde_json::to_string(key).map_err(|error| error.to_string())?;
        let len = self.0.len().saturating_add(key_text.len()).saturating_add(value.len());
        if len > UNKNOWN_LIMIT_BYTES {
            return Err(format!(
                "the unknown field {:?}, with which those of its object take {len} bytes, \
                 expected at most {UNKNOWN_LIMIT_BYTES}",
                shown()
            ));
        }
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0 += &key_text;
        self.0.push(':');
        self.0 += value;
        Ok(())
    }
}

/// How deep the lists and objects of a JSON text are nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(inner) = bytes.next().filter(|byte| *byte != b'"') {
                    if inner == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

impl Serialize for Unknown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut map = serializer.serialize_map(None)?;
        if !self.is_empty() {
            let object = format!("{{{}}}", self.0);
            let fields: Fields<'_> = serde_json::from_str(&object).map_err(S::Error::custom)?;
            fields.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        }
        map.end()
    }
}

/// The fields of an object, one by one.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// A key, which must only be copied if it has escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads an object for a type that ignores unknown fields, and keeps those.
pub(super) struct Sift<'a, D> {
    pub(super) inner: D,
    pub(super) unknown: &'a mut Unknown,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Sift<'_, D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Sifting { inner: visitor, fields, unknown: self.unknown })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The derived visitor, or the object that it reads, behind the sieve.
struct Sifting<'a, I> {
    inner: I,
    fields: &'static [&'static str],
    unknown: &'a mut Unknown,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Sifting<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let Sifting { inner, fields, unknown } = self;
        inner.visit_map(Sifting { inner: map, fields, unknown })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Sifting<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(Key(key)) = self.inner.next_key()? {
            if self.fields.contains(&&*key) {
                return seed.deserialize(CowStrDeserializer::new(key)).map(Some);
            }
            let value: Box<RawValue> = self.inner.next_value()?;
            self.unknown.add(&key, value.get()).map_err(A::Error::custom)?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

/// Reads and writes these types as the code derived for them does, with unknown fields in `unknown`.
macro_rules! keeps_unknown {
    ($($name:ident),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(inner: D) -> Result<Self, D::Error> {
                let mut unknown = $crate::format::manifest::Unknown::new();
                let sift = $crate::format::manifest::unknown::Sift { inner, unknown: &mut unknown };
                let mut read = $name::deserialize(sift)?;
                read.unknown = unknown;
                Ok(read)
            }
        }
    )+};
}

pub(super) use keeps_unknown;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(remote = "Self")]
    struct Known {
        a: u32,
        #[serde(flatten, skip_deserializing)]
        unknown: Unknown,
    }

    keeps_unknown!(Known);

    fn read(text: &str) -> Result<Known, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Unknown fields come out as the text that went in, to the last digit, wherever they are and whatever their
    /// names.
    #[test]
    fn unknown_fields_are_kept_to_the_letter() {
        for (text, written) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (
                r#"{"x":[1.50,"\u00e9",{"a":2}],"a":1,"unknown":null}"#,
                r#"{"a":1,"x":[1.50,"\u00e9",{"a":2}],"unknown":null}"#,
            ),
            (
                r#"{"\u0061":1,"q\"\\\n":"{[","big":123456789012345678901234567890}"#,
                r#"{"a":1,"q\"\\\n":"{[","big":123456789012345678901234567890}"#,
            ),
        ] {
            let known = read(text).unwrap();
            assert_eq!(known.a, 1);
            assert_eq!(serde_json::to_string(&known).unwrap(), written);
            assert_eq!(read(written).unwrap(), known);
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_value(&known).unwrap(), value);
        }
        assert!(read(r#"{"x":1}"#).unwrap_err().contains("`a`"));
        assert!(read("[1]").unwrap_err().contains("sequence"));
        assert!(read(r#"{"a":1,"x":[}"#).is_err());
    }

    /// Reads as much and as deep as is allowed; refuses one byte or one level more, with the name of the field.
    #[test]
    fn what_is_too_long_or_too_deep_is_refused() {
        let deep = |depth: usize| {
            let text = format!(r#"{{"a":1,"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
            read(&text)
        };
        assert!(deep(UNKNOWN_LIMIT_DEPTH).is_ok());
        let error = deep(UNKNOWN_LIMIT_DEPTH + 1).unwrap_err();
        assert!(error.contains("\"x\", nested 65 deep"), "{error}");
        assert!(deep(1 << 20).is_err());
        let brackets = format!(r#"{{"a":1,"x":"\"{}"}}"#, "[".repeat(99));
        assert!(read(&brackets).is_ok());
        let long = |len: usize| read(&format!(r#"{{"a":1,"x":"{}"}}"#, "y".repeat(len)));
        let most = UNKNOWN_LIMIT_BYTES - 5;
        assert!(long(most).is_ok());
        assert!(long(most + 1).unwrap_err().contains("\"x\", with which"));
        let many: String = (0..200_000).map(|n| format!(r#","x{n}":0"#)).collect();
        assert!(read(&format!(r#"{{"a":1{many}}}"#)).unwrap_err().contains("expected at most"));
    }
}
