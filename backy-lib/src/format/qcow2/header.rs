//! The header, its extensions and the backing file name: the first 512 bytes of a delta as we write it.
//!
//! QEMU writes longer ones: whenever it changes a header, it adds a table of feature names.
//!
//! Source: qcow2 specification, "Header", "Header extensions". All numbers are big-endian.

#[cfg(test)]
mod tests;

use super::layout::Layout;
use crate::base::units::BlockSize;
use crate::format::name::FileName;

/// A header fits into this many bytes, one sector, so that rewriting it is atomic.
pub const HEADER_BYTES: usize = 512;

/// The bytes in which to look for a header that QEMU has written: the smallest cluster, because a header must not be
/// longer than one.
pub const MAX_HEADER_BYTES: usize = 4096;

const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
const HEADER_LENGTH: u32 = 112;
const MIN_HEADER_LENGTH: u32 = 104;
const REFCOUNT_ORDER_16_BITS: u32 = 4;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const COMPRESSION_ZSTD: u8 = 1;
/// QEMU's own limit for the L1 table, 32 MiB.
const MAX_L1_ENTRIES: u32 = 4 << 20;
/// QEMU's own limit for the reference count table, 8 MiB.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// Format of a backing file, from the header extension; never probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackingFormat {
    /// A raw image.
    Raw,
    /// Another delta.
    Qcow2,
}

impl BackingFormat {
    fn name(self) -> &'static str {
        match self {
            BackingFormat::Raw => "raw",
            BackingFormat::Qcow2 => "qcow2",
        }
    }
}

/// The backing file of a delta: a file of the same archive, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backing {
    /// Its name in the same folder.
    pub file: FileName,
    /// Its format.
    pub format: BackingFormat,
}

impl Backing {
    /// `last.raw`
    pub const IMAGE: Backing = Backing { file: FileName::IMAGE, format: BackingFormat::Raw };

    /// The delta of a revision.
    pub fn delta(revision: crate::base::revision::RevisionId) -> Self {
        Backing { file: FileName::Delta(revision), format: BackingFormat::Qcow2 }
    }

    fn parse(name: &str, format: &str) -> Result<Self, String> {
        let backing = match FileName::parse(name) {
            Some(FileName::IMAGE) => Backing::IMAGE,
            Some(FileName::Delta(id)) => Backing::delta(id),
            _ => {
                return Err(format!(
                    "backing file name: found '{}', expected last.raw or <uuid>.qcow2 in the same folder",
                    name.escape_default()
                ));
            }
        };
        if format != backing.format.name() {
            return Err(format!(
                "backing file format: found '{}', expected {} for {name}",
                format.escape_default(),
                backing.format.name()
            ));
        }
        Ok(backing)
    }
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate streams, qcow2's default. Read, but not written by us.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// A parsed header whose numbers have been checked against each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Size of the image in bytes, a multiple of 512.
    pub virtual_bytes: u64,
    /// Cluster size.
    pub cluster_size: BlockSize,
    /// Offset of the L1 table.
    pub l1_offset: u64,
    /// Entries in the L1 table.
    pub l1_entries: u32,
    /// Offset of the reference count table.
    pub refcount_table_offset: u64,
    /// Length of the reference count table in clusters.
    pub refcount_table_clusters: u32,
    /// Reference counts may be wrong: the image is being written, or writing it was interrupted.
    pub dirty: bool,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The file that unallocated clusters are read from.
    pub backing: Option<Backing>,
}

impl Header {
    /// The header of a new delta, dirty until it is finished.
    pub fn new(layout: &Layout, backing: Option<Backing>) -> Self {
        Header {
            virtual_bytes: layout.virtual_bytes,
            cluster_size: layout.cluster_size,
            l1_offset: layout.l1_offset,
            l1_entries: layout.l1_entries,
            refcount_table_offset: layout.refcount_table_offset,
            refcount_table_clusters: layout.refcount_table_clusters,
            dirty: true,
            compression: Compression::Zstd,
            backing,
        }
    }

    /// Whether all tables are where we put them.
    pub fn is_laid_out_as(&self, layout: &Layout) -> bool {
        let ours = Header::new(layout, self.backing);
        *self == Header { dirty: self.dirty, compression: self.compression, ..ours }
    }

    /// Reads a header from the first bytes of a file, up to [`MAX_HEADER_BYTES`] of them.
    ///
    /// # Errors
    /// One sentence: the field, what was found, what was expected.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let fields = Fields(bytes);
        expect("magic number", fields.u32(0)?, MAGIC)?;
        expect("version", fields.u32(4)?, VERSION)?;
        let header_length = fields.u32(100)?;
        if header_length < MIN_HEADER_LENGTH || header_length % 8 != 0 {
            return Err(format!("header length: found {header_length}, expected {HEADER_LENGTH}"));
        }
        let features = fields.u64(72)?;
        // Older versions of QEMU end the header before the compression type.
        let named = if header_length < HEADER_LENGTH { 0 } else { fields.u8(104)? };
        let compression = check_features(features, named)?;
        expect("encryption method", fields.u32(32)?, 0)?;
        expect("number of internal snapshots", fields.u32(60)?, 0)?;
        expect("reference count order", fields.u32(96)?, REFCOUNT_ORDER_16_BITS)?;
        let cluster_bits = fields.u32(20)?;
        let cluster_size = 1u64
            .checked_shl(cluster_bits)
            .and_then(BlockSize::new)
            .ok_or_else(|| format!("cluster bits: found {cluster_bits}, expected 12 to 21"))?;
        let header = Header {
            virtual_bytes: fields.u64(24)?,
            cluster_size,
            l1_entries: fields.u32(36)?,
            l1_offset: fields.u64(40)?,
            refcount_table_offset: fields.u64(48)?,
            refcount_table_clusters: fields.u32(56)?,
            dirty: features & DIRTY != 0,
            compression,
            backing: parse_backing(&fields, header_length as usize)?,
        };
        header.check_tables()?;
        Ok(header)
    }

    /// The first sector of the file.
    ///
    /// # Panics
    /// Never: the longest name of a file in an archive fits.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        let name = self.backing.map(|backing| backing.file.to_string()).unwrap_or_default();
        let format = self.backing.map(|backing| backing.format.name()).unwrap_or_default();
        let padded_format = format.len().next_multiple_of(8);
        let name_offset = match self.backing {
            Some(_) => HEADER_LENGTH as usize + 8 + padded_format + 8,
            None => 0,
        };
        out.extend(MAGIC.to_be_bytes());
        out.extend(VERSION.to_be_bytes());
        out.extend((name_offset as u64).to_be_bytes());
        out.extend((name.len() as u32).to_be_bytes());
        out.extend(self.cluster_size.bits().to_be_bytes());
        out.extend(self.virtual_bytes.to_be_bytes());
        out.extend(0u32.to_be_bytes()); // no encryption
        out.extend(self.l1_entries.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.refcount_table_offset.to_be_bytes());
        out.extend(self.refcount_table_clusters.to_be_bytes());
        out.extend(0u32.to_be_bytes()); // no snapshots
        out.extend(0u64.to_be_bytes());
        let (feature, compression) = match self.compression {
            Compression::Zlib => (0, 0),
            Compression::Zstd => (COMPRESSION_TYPE, COMPRESSION_ZSTD),
        };
        let features = feature | if self.dirty { DIRTY } else { 0 };
        out.extend(features.to_be_bytes());
        out.extend(0u64.to_be_bytes()); // compatible features
        out.extend(0u64.to_be_bytes()); // autoclear features
        out.extend(REFCOUNT_ORDER_16_BITS.to_be_bytes());
        out.extend(HEADER_LENGTH.to_be_bytes());
        out.push(compression);
        out.resize(HEADER_LENGTH as usize, 0);
        if self.backing.is_some() {
            out.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
            out.extend((format.len() as u32).to_be_bytes());
            out.extend(format.as_bytes());
            out.resize(HEADER_LENGTH as usize + 8 + padded_format, 0);
        }
        out.extend(EXTENSION_END.to_be_bytes());
        out.extend(0u32.to_be_bytes());
        out.extend(name.as_bytes());
        out.resize(HEADER_BYTES, 0);
        let mut sector = [0; HEADER_BYTES];
        sector.copy_from_slice(&out);
        sector
    }

    fn check_tables(&self) -> Result<(), String> {
        let cluster = self.cluster_size.bytes();
        if !self.virtual_bytes.is_multiple_of(512) || self.virtual_bytes > i64::MAX as u64 {
            return Err(format!(
                "virtual size: found {}, expected a multiple of 512 below 2^63",
                self.virtual_bytes
            ));
        }
        let covered_by_entry = cluster * (cluster / ENTRY_BYTES_U64);
        let needed = self.virtual_bytes.div_ceil(covered_by_entry);
        if u64::from(self.l1_entries) < needed || self.l1_entries > MAX_L1_ENTRIES {
            return Err(format!(
                "L1 entries: found {}, expected {needed} to {MAX_L1_ENTRIES}",
                self.l1_entries
            ));
        }
        let refcount_table_bytes = u64::from(self.refcount_table_clusters) * cluster;
        if self.refcount_table_clusters == 0
            || refcount_table_bytes > MAX_REFCOUNT_TABLE_BYTES.max(cluster)
        {
            return Err(format!(
                "clusters of the reference count table: found {}, expected 1 to {}",
                self.refcount_table_clusters,
                MAX_REFCOUNT_TABLE_BYTES / cluster
            ));
        }
        let l1_bytes = u64::from(self.l1_entries) * ENTRY_BYTES_U64;
        let tables = [
            ("L1 table", self.l1_offset, l1_bytes),
            ("reference count table", self.refcount_table_offset, refcount_table_bytes),
        ];
        for (what, offset, bytes) in tables {
            let in_bounds = offset.checked_add(bytes).is_some_and(|end| end < 1 << 56);
            if offset < cluster || offset % cluster != 0 || !in_bounds {
                return Err(format!(
                    "offset of the {what}: found {offset}, expected a cluster boundary after the header"
                ));
            }
        }
        let [(_, a, a_bytes), (_, b, b_bytes)] = tables;
        if a < b + b_bytes && b < a + a_bytes {
            return Err(format!(
                "offset of the L1 table: found {a}, within the reference count table"
            ));
        }
        Ok(())
    }
}

const ENTRY_BYTES_U64: u64 = super::ENTRY_BYTES as u64;

/// Refuses features that backy cannot read; returns how clusters are compressed.
fn check_features(features: u64, compression: u8) -> Result<Compression, String> {
    for (bit, what) in [
        (CORRUPT, "image is marked corrupt"),
        (EXTERNAL_DATA, "external data file"),
        (EXTENDED_L2, "extended L2 entries"),
    ] {
        if features & bit != 0 {
            return Err(format!("incompatible features: found '{what}', which is not supported"));
        }
    }
    let unknown = features & !(DIRTY | COMPRESSION_TYPE);
    if unknown != 0 {
        return Err(format!(
            "incompatible features: found unknown bits {unknown:#x}, expected none"
        ));
    }
    match (features & COMPRESSION_TYPE != 0, compression) {
        (false, 0) => Ok(Compression::Zlib),
        (true, COMPRESSION_ZSTD) => Ok(Compression::Zstd),
        (_, other) => Err(format!("compression type: found {other}, expected 1 (zstd)")),
    }
}

/// Walks the header extensions for the backing format, and reads the backing name.
fn parse_backing(fields: &Fields<'_>, header_length: usize) -> Result<Option<Backing>, String> {
    let name_offset = usize::try_from(fields.u64(8)?).unwrap_or(usize::MAX);
    let name_length = fields.u32(16)? as usize;
    let mut format = None;
    let mut at = header_length;
    loop {
        let (kind, length) = (fields.u32(at)?, fields.u32(at + 4)? as usize);
        if kind == EXTENSION_END {
            break;
        }
        let data = fields.slice(at + 8, length, "header extension")?;
        if kind == EXTENSION_BACKING_FORMAT {
            format = Some(text(data, "backing file format")?);
        }
        at += 8 + length.next_multiple_of(8);
    }
    if name_offset == 0 {
        return Ok(None);
    }
    let name =
        text(fields.slice(name_offset, name_length, "backing file name")?, "backing file name")?;
    let format = format.ok_or("backing file format: found none, expected raw or qcow2")?;
    Backing::parse(name, format).map(Some)
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("{what}: found bytes that are not UTF-8"))
}

fn expect(what: &str, found: u32, expected: u32) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: found {found:#x}, expected {expected:#x}"))
}

/// Big-endian fields at given offsets of the first sector.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&self, offset: usize, length: usize, what: &str) -> Result<&'a [u8], String> {
        offset
            .checked_add(length)
            .filter(|&end| end <= MAX_HEADER_BYTES)
            .and_then(|end| self.0.get(offset..end))
            .ok_or_else(|| {
                format!("{what}: {length} bytes at offset {offset} pass the end of the header")
            })
    }

    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(offset, N, "header field")?);
        Ok(out)
    }

    fn u8(&self, offset: usize) -> Result<u8, String> {
        self.array(offset).map(u8::from_be_bytes)
    }

    fn u32(&self, offset: usize) -> Result<u32, String> {
        self.array(offset).map(u32::from_be_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, String> {
        self.array(offset).map(u64::from_be_bytes)
    }
}
