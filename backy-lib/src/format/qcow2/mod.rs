//! qcow2 version 3, as far as our deltas use it.
//!
//! Source: "Qcow2 image file format", `docs/interop/qcow2.txt` in QEMU. backy writes 16-bit reference counts,
//! zstd-compressed clusters with content checksums, plain clusters, zero clusters, and a relative backing file name
//! with its format. It refuses encryption, external data files, extended L2 entries, internal snapshots, unknown
//! incompatible features, and an image marked corrupt. It also reads what only QEMU writes: deflate streams, zero
//! clusters that keep their data, headers of up to 4096 bytes, tables in any place.
//!
//! | file offset | content of a delta as we lay it out |
//! |---|---|
//! | 0 | header, extensions and backing name within the first 512 bytes; padded to a cluster |
//! | cluster 1 | reference count table |
//! | then | L1 table; all its entries are set at creation |
//! | then | L2 tables, one cluster each, in order; all zero (a hole) at creation |
//! | then | data: compressed clusters packed from byte to byte, plain clusters aligned |
//! | last | reference count blocks |

mod compress;
mod entry;
mod header;
mod layout;

pub use compress::{Compressor, Decompressor, MAX_STORED_CLUSTERS, frame_bytes};
pub use entry::{Cluster, ENTRY_BYTES, L1Entry, decode_entry, encode_entry, kept_offset};
pub use header::{Backing, BackingFormat, Compression, HEADER_BYTES, Header, MAX_HEADER_BYTES};
pub use layout::Layout;
