//! The records of "rbd diff v1", as Ceph's documentation for developers has them (`doc/dev/rbd-diff.rst`): a tag of one
//! byte, then numbers with the lowest byte first.

use crate::base::digest::{Digest, StreamHasher};
use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::revision::RevisionId;

/// The longest stretch in one record. A reader needs this much memory, and old ones discard at most 2 GiB at once.
const MAX_RECORD_BYTES: u64 = 4 << 20;

const BANNER: &[u8] = b"rbd diff v1\n";

/// What a stream has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) stream_bytes: u64,
    pub(super) data_bytes: u64,
    pub(super) zero_bytes: u64,
    pub(super) sha256: Digest,
}

/// Writes a stream. Joins neighbouring stretches of the same kind.
pub(super) struct Records<'a> {
    put: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    hasher: StreamHasher,
    stream_bytes: u64,
    data_bytes: u64,
    zero_bytes: u64,
    /// The stretch that may still grow, and its bytes, of which there are none for zeros.
    open: Option<(Kind, Extent)>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
}

impl<'a> Records<'a> {
    /// Begins a stream with `put`, which takes its bytes in order.
    pub(super) fn begin(
        put: &'a mut dyn FnMut(&[u8]) -> Result<()>,
        since: Option<RevisionId>,
        revision: RevisionId,
        size_bytes: u64,
    ) -> Result<Self> {
        let mut records = Records {
            put,
            hasher: StreamHasher::default(),
            stream_bytes: 0,
            data_bytes: 0,
            zero_bytes: 0,
            open: None,
            bytes: Vec::new(),
        };
        let mut head = BANNER.to_vec();
        let names = since.map(|since| (b'f', since)).into_iter().chain([(b't', revision)]);
        for (tag, name) in names {
            let name = name.to_string();
            head.push(tag);
            head.extend((name.len() as u32).to_le_bytes());
            head.extend(name.as_bytes());
        }
        head.push(b's');
        head.extend(size_bytes.to_le_bytes());
        records.write(&head)?;
        Ok(records)
    }

    /// Bytes from `offset` on. Stretches are given in ascending order.
    pub(super) fn data(&mut self, offset: u64, mut bytes: &[u8]) -> Result<()> {
        let mut extent = Extent::new(offset, bytes.len() as u64);
        while extent.len > 0 {
            let len = self.grow(Kind::Data, extent)?;
            let (part, rest) = bytes.split_at_checked(len as usize).unwrap_or((bytes, &[]));
            self.bytes.extend_from_slice(part);
            bytes = rest;
            extent = Extent::between(extent.offset + len, extent.end());
        }
        Ok(())
    }

    /// A stretch of zeros.
    pub(super) fn zeros(&mut self, mut extent: Extent) -> Result<()> {
        while extent.len > 0 {
            let len = self.grow(Kind::Zero, extent)?;
            extent = Extent::between(extent.offset + len, extent.end());
        }
        Ok(())
    }

    /// Adds the beginning of a stretch to the open record, or to a new one. Returns its length, at least 1.
    fn grow(&mut self, kind: Kind, extent: Extent) -> Result<u64> {
        let space = match &self.open {
            Some((open, at)) if *open == kind && at.end() == extent.offset => {
                MAX_RECORD_BYTES - at.len
            }
            _ => 0,
        };
        if space == 0 {
            self.close()?;
        }
        let len = extent.len.min(if space == 0 { MAX_RECORD_BYTES } else { space });
        let (_, at) = self.open.get_or_insert((kind, Extent::new(extent.offset, 0)));
        at.len += len;
        Ok(len)
    }

    /// Writes the open record.
    fn close(&mut self) -> Result<()> {
        let Some((kind, extent)) = self.open.take() else { return Ok(()) };
        let (tag, sum) = match kind {
            Kind::Data => (b'w', &mut self.data_bytes),
            Kind::Zero => (b'z', &mut self.zero_bytes),
        };
        *sum += extent.len;
        let mut head = vec![tag];
        head.extend(extent.offset.to_le_bytes());
        head.extend(extent.len.to_le_bytes());
        self.write(&head)?;
        let bytes = std::mem::take(&mut self.bytes);
        self.write(&bytes)?;
        self.bytes = bytes;
        self.bytes.clear();
        Ok(())
    }

    /// Ends the stream. Without this record no reader takes it for complete.
    pub(super) fn end(mut self) -> Result<Totals> {
        self.close()?;
        self.write(b"e")?;
        Ok(Totals {
            stream_bytes: self.stream_bytes,
            data_bytes: self.data_bytes,
            zero_bytes: self.zero_bytes,
            sha256: self.hasher.finish(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.stream_bytes += bytes.len() as u64;
        (self.put)(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbours of one kind become one record, up to its limit; a gap and another kind begin a new one.
    #[test]
    fn neighbours_are_joined_up_to_the_limit() {
        let mut stream = Vec::new();
        let mut put = |bytes: &[u8]| {
            stream.extend_from_slice(bytes);
            Ok(())
        };
        let id: RevisionId = "01939c4e-7a2b-7000-8000-000000000001".parse().unwrap();
        let mut records = Records::begin(&mut put, None, id, 64 << 20).unwrap();
        records.data(0, b"ab").unwrap();
        records.data(2, b"c").unwrap();
        records.zeros(Extent::new(3, 5)).unwrap();
        records.data(9, b"d").unwrap();
        records.zeros(Extent::new(1 << 20, MAX_RECORD_BYTES + 1)).unwrap();
        let big = vec![7; MAX_RECORD_BYTES as usize - 1];
        let at = (1 << 20) + MAX_RECORD_BYTES + 1;
        records.data(at, &big).unwrap();
        records.data(at + big.len() as u64, b"xyz").unwrap();
        let totals = records.end().unwrap();

        let number = |value: u64| value.to_le_bytes().to_vec();
        let mut expected = b"rbd diff v1\nt".to_vec();
        expected.extend(36u32.to_le_bytes());
        expected.extend(id.to_string().bytes());
        expected.extend([b"s".to_vec(), number(64 << 20)].concat());
        expected.extend([b"w".to_vec(), number(0), number(3), b"abc".to_vec()].concat());
        expected.extend([b"z".to_vec(), number(3), number(5)].concat());
        expected.extend([b"w".to_vec(), number(9), number(1), b"d".to_vec()].concat());
        expected.extend([b"z".to_vec(), number(1 << 20), number(MAX_RECORD_BYTES)].concat());
        expected.extend([b"z".to_vec(), number(at - 1), number(1)].concat());
        expected.extend([b"w".to_vec(), number(at), number(MAX_RECORD_BYTES)].concat());
        expected.extend([big, b"x".to_vec()].concat());
        let last = at + MAX_RECORD_BYTES;
        expected.extend([b"w".to_vec(), number(last), number(2), b"yze".to_vec()].concat());
        assert!(stream == expected);
        assert_eq!(totals.sha256, Digest::of(&expected));
        assert_eq!(totals.stream_bytes, expected.len() as u64);
        assert_eq!(totals.zero_bytes, 5 + MAX_RECORD_BYTES + 1);
        assert_eq!(totals.data_bytes, 4 + MAX_RECORD_BYTES + 2);
    }
}
