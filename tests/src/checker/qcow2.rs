//! The part of qcow2, version 3, that deltas use.

use super::{be_u16, be_u32, be_u64};

const MAGIC: u32 = 0x5146_49fb;
const FORMAT_EXTENSION: u32 = 0xe279_2aca;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

/// A delta's bytes and the fields of its header.
pub(super) struct Qcow2<'a> {
    pub(super) raw: &'a [u8],
    pub(super) cluster: u64,
    pub(super) virtual_bytes: u64,
    pub(super) l1_entries: u64,
    pub(super) l1_offset: u64,
    pub(super) table_offset: u64,
    pub(super) table_clusters: u64,
    pub(super) incompatible: u64,
    pub(super) backing: Option<String>,
    pub(super) backing_format: Option<String>,
    /// Header, extensions and backing file name end here.
    pub(super) head_end: u64,
    /// Kinds of the extensions.
    pub(super) extensions: Vec<u32>,
}

/// What an L2 entry says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Entry {
    NotHeld,
    Zero,
    Plain(u64),
    /// Offset and length up to the end of the last sector.
    Compressed(u64, u64),
    Wrong(u64),
}

impl<'a> Qcow2<'a> {
    /// Reads a header. The sentence says which field differs from that of a delta.
    pub(super) fn parse(raw: &'a [u8]) -> Result<Self, String> {
        let fixed = [
            ("magic number", u64::from(be_u32(raw, 0)), u64::from(MAGIC)),
            ("version", be_u32(raw, 4).into(), 3),
            ("encryption", be_u32(raw, 32).into(), 0),
            ("snapshots", be_u32(raw, 60).into(), 0),
            ("offset of the snapshot table", be_u64(raw, 64), 0),
            ("compatible features", be_u64(raw, 80), 0),
            ("autoclear features", be_u64(raw, 88), 0),
            ("reference count order", be_u32(raw, 96).into(), 4),
            ("header length", be_u32(raw, 100).into(), 112),
            ("compression type", raw.get(104).copied().unwrap_or(0).into(), 1),
        ];
        for (what, found, expected) in fixed {
            if found != expected {
                return Err(format!("header: {what} {found:#x}, expected {expected:#x}"));
            }
        }
        let bits = be_u32(raw, 20);
        if !(12..=21).contains(&bits) {
            return Err(format!("header: cluster bits {bits}"));
        }
        let text = |at: u64, len: u64| {
            let bytes = raw.get(at as usize..(at + len) as usize).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (name_at, name_len) = (be_u64(raw, 8).min(1 << 40), u64::from(be_u32(raw, 16)));
        let (mut at, mut extensions, mut backing_format) = (112, Vec::new(), None);
        loop {
            let (kind, len) = (be_u32(raw, at as usize), u64::from(be_u32(raw, at as usize + 4)));
            at += 8;
            if kind == 0 || at > 4096 {
                break;
            }
            extensions.push(kind);
            if kind == FORMAT_EXTENSION {
                backing_format = Some(text(at, len));
            }
            at += len.next_multiple_of(8);
        }
        Ok(Qcow2 {
            raw,
            cluster: 1 << bits,
            virtual_bytes: be_u64(raw, 24),
            l1_entries: be_u32(raw, 36).into(),
            l1_offset: be_u64(raw, 40),
            table_offset: be_u64(raw, 48),
            table_clusters: be_u32(raw, 56).into(),
            incompatible: be_u64(raw, 72),
            backing: (name_at != 0).then(|| text(name_at, name_len)),
            backing_format,
            head_end: at.max(name_at + name_len),
            extensions,
        })
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.incompatible & 1 != 0
    }

    pub(super) fn l1_entry(&self, table: u64) -> u64 {
        be_u64(self.raw, (self.l1_offset + 8 * table) as usize)
    }

    pub(super) fn entry(&self, block: u64) -> Entry {
        let per_table = self.cluster / 8;
        let table = self.l1_entry(block / per_table) & OFFSET;
        if table == 0 {
            return Entry::NotHeld;
        }
        let raw = be_u64(self.raw, (table + block % per_table * 8) as usize);
        let shift = 70 - self.cluster.trailing_zeros();
        match raw {
            0 => Entry::NotHeld,
            1 => Entry::Zero,
            _ if raw >> 62 == 1 => {
                let offset = raw & ((1 << shift) - 1);
                let sectors = (raw & !(1 << 62)) >> shift;
                Entry::Compressed(offset, (sectors + 1) * 512 - offset % 512)
            }
            _ if raw & !OFFSET == COPIED && (raw & OFFSET).is_multiple_of(self.cluster) => {
                Entry::Plain(raw & OFFSET)
            }
            _ => Entry::Wrong(raw),
        }
    }

    pub(super) fn refcount_blocks(&self) -> Vec<u64> {
        let entries = (self.table_clusters * self.cluster / 8).min(1 << 20);
        (0..entries).map(|at| be_u64(self.raw, (self.table_offset + 8 * at) as usize)).collect()
    }

    /// The count in a reference count block.
    pub(super) fn refcount(&self, block: u64, at: u64) -> u16 {
        be_u16(self.raw, (block + 2 * at) as usize)
    }

    /// Bytes of the file. None when they are not all there.
    pub(super) fn bytes(&self, offset: u64, len: u64) -> Option<&'a [u8]> {
        self.raw.get(offset as usize..offset.checked_add(len)? as usize)
    }
}
