//! JSON for people: one line for each object within lists of ranges, everything else pretty-printed.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Objects nested this deep are written on one line: those of `verified` and `bad_blocks`, of which there may be very
/// many.
const FLAT_DEPTH: usize = 4;

/// # Errors
/// A sentence if a value has no JSON form.
pub(super) fn pretty<T: Serialize>(value: &T) -> Result<String, String> {
    let mut bytes = Vec::new();
    let lines = Lines { pretty: PrettyFormatter::new(), depth: 0, flat: 0 };
    let mut serializer = Serializer::with_formatter(&mut bytes, lines);
    value.serialize(&mut serializer).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

struct Lines<'a> {
    pretty: PrettyFormatter<'a>,
    /// How many lists and objects are open.
    depth: usize,
    /// How many of them are on one line.
    flat: usize,
}

impl Lines<'_> {
    fn separate<W: Write + ?Sized>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for Lines<'_> {
    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.flat > 0 {
            self.flat += 1;
            return writer.write_all(b"[");
        }
        self.pretty.begin_array(writer)
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.flat > 0 {
            self.flat -= 1;
            return writer.write_all(b"]");
        }
        self.pretty.end_array(writer)
    }

    fn begin_array_value<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if self.flat > 0 {
            return Self::separate(writer, first);
        }
        self.pretty.begin_array_value(writer, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.flat > 0 { Ok(()) } else { self.pretty.end_array_value(writer) }
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.flat > 0 || self.depth > FLAT_DEPTH {
            self.flat += 1;
            return writer.write_all(b"{");
        }
        self.pretty.begin_object(writer)
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.flat > 0 {
            self.flat -= 1;
            return writer.write_all(b"}");
        }
        self.pretty.end_object(writer)
    }

    fn begin_object_key<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if self.flat > 0 {
            return Self::separate(writer, first);
        }
        self.pretty.begin_object_key(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object_value(writer)
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.flat > 0 { Ok(()) } else { self.pretty.end_object_value(writer) }
    }
}
