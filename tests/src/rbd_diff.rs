//! A reader of Ceph's "rbd diff v1", written from its documentation alone. Stricter than Ceph: it refuses what no
//! writer has a reason to write.

use std::ops::Range;

/// The longest stretch of a record.
const MAX_BYTES: u64 = 4 << 20;

/// What a complete stream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdDiff {
    /// Name of the snapshot that the reader has to have.
    pub from: Option<String>,
    /// Name of the snapshot that it makes.
    pub to: String,
    /// Size of the image then.
    pub size: u64,
    /// The data records, ascending; the bytes of one are `None` for zeros.
    pub records: Vec<(Range<u64>, Option<Vec<u8>>)>,
}

impl RbdDiff {
    /// Reads a stream from its first byte to its last.
    ///
    /// # Errors
    /// What is wrong with it, also if it ends early.
    pub fn parse(stream: &[u8]) -> Result<Self, String> {
        let mut input = Input(stream);
        if input.take(12)? != b"rbd diff v1\n" {
            return Err("no banner".to_owned());
        }
        let (mut from, mut to, mut size) = (None, None, None);
        let mut records: Vec<(Range<u64>, Option<Vec<u8>>)> = Vec::new();
        loop {
            let is_head = records.is_empty();
            match input.take(1)?[0] {
                b'f' if is_head && from.is_none() => from = Some(input.text()?),
                b't' if is_head && to.is_none() => to = Some(input.text()?),
                b's' if is_head && size.is_none() => size = Some(input.number()?),
                tag @ (b'w' | b'z') => {
                    let (offset, len) = (input.number()?, input.number()?);
                    let end = offset.checked_add(len).ok_or("it overflows")?;
                    let after = records.last().map_or(0, |(last, _)| last.end);
                    let size = size.ok_or("data before the size")?;
                    if offset < after || end > size || len == 0 || len > MAX_BYTES {
                        return Err(format!("{offset}+{len} after {after} of {size}"));
                    }
                    let bytes = match tag {
                        b'w' => Some(input.take(len as usize)?.to_vec()),
                        _ => None,
                    };
                    records.push((offset..end, bytes));
                }
                b'e' if input.0.is_empty() => break,
                other => return Err(format!("tag {other}")),
            }
        }
        let (to, size) = (to.ok_or("no name")?, size.ok_or("no size")?);
        Ok(RbdDiff { from, to, size, records })
    }

    /// What becomes of an image.
    pub fn apply(&self, image: &[u8]) -> Vec<u8> {
        let mut image = image.to_vec();
        image.resize(self.size as usize, 0);
        for (range, bytes) in &self.records {
            let part = &mut image[range.start as usize..range.end as usize];
            match bytes {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.fill(0),
            }
        }
        image
    }

    /// Checks that it turns `old` into `new`, and has exactly the blocks that differ.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, old: &[u8], new: &[u8], block_bytes: usize) -> Result<(), String> {
        if self.size != new.len() as u64 || self.apply(old) != new {
            return Err("it makes another image".to_owned());
        }
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        for (number, block) in new.chunks(block_bytes).enumerate() {
            let at = number * block_bytes;
            let before = old.get(at..).unwrap_or_default();
            let before = &before[..before.len().min(block_bytes)];
            let differs = before != block && !(is_zero(before) && is_zero(block));
            let inside = at as u64..(at + block.len()) as u64;
            let touching = |(range, _): &&(Range<u64>, Option<Vec<u8>>)| {
                range.start < inside.end && inside.start < range.end
            };
            let found: Vec<_> = self.records.iter().filter(touching).collect();
            let as_zero = found.iter().all(|(_, bytes)| bytes.is_none());
            if found.is_empty() == differs || differs && as_zero != is_zero(block) {
                return Err(format!(
                    "block {number}: differs: {differs}, in {} records",
                    found.len()
                ));
            }
        }
        Ok(())
    }
}

/// The rest of a stream.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("it ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes")))
    }

    fn text(&mut self) -> Result<String, String> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes"));
        String::from_utf8(self.take(len as usize)?.to_vec()).map_err(|error| error.to_string())
    }
}
