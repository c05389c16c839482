//! Clusters as zstd frames with a content checksum, which backy writes, and as deflate streams, which only QEMU
//! writes.
//!
//! QEMU checks the frame's checksum when it reads, so rot in a compressed cluster is an I/O error there, too. A
//! deflate stream has none: only the digest of the block shows rot.
//!
//! Source: qcow2 specification, "Compressed Clusters Descriptor" and "compression_type".

use flate2::{Decompress, FlushDecompress};
use zstd::bulk;
use zstd::zstd_safe::{CParameter, DParameter};

use crate::base::error::{Error, Result};

/// Compresses clusters, one after the other, with one working memory.
pub struct Compressor {
    context: bulk::Compressor<'static>,
    frame: Vec<u8>,
}

/// A frame window no larger than the largest cluster keeps the memory for reading bounded.
const MAX_WINDOW_LOG: u32 = 21;

impl Compressor {
    /// `level` as zstd counts: 1 is fast, 19 small.
    pub fn new(level: i32) -> Result<Self> {
        let make = || {
            let mut context = bulk::Compressor::new(level)?;
            context.set_parameter(CParameter::ChecksumFlag(true))?;
            Ok(context)
        };
        Ok(Compressor { context: make().map_err(zstd_error)?, frame: Vec::new() })
    }

    /// The frame of a whole cluster, if it is at least a sector shorter than the cluster.
    pub fn frame(&mut self, cluster: &[u8]) -> Option<&[u8]> {
        self.frame.clear();
        self.frame.reserve(cluster.len());
        let limit = cluster.len().saturating_sub(512);
        // An error means that the frame does not fit: store the cluster as it is.
        let length = self.context.compress_to_buffer(cluster, &mut self.frame).ok()?;
        (length <= limit).then_some(&self.frame)
    }

    /// A frame that every reader refuses: `cluster` with its checksum spoiled.
    ///
    /// For a block that is known to differ from what was backed up: QEMU, which does not know our digests, returns an
    /// I/O error for it instead of wrong bytes, and the bytes are still there for forensics.
    pub fn compress_as_bad(&mut self, cluster: &[u8]) -> Result<Vec<u8>> {
        let mut frame = self.context.compress(cluster).map_err(zstd_error)?;
        if let Some(checksum) = frame.last_chunk_mut::<4>() {
            checksum.iter_mut().for_each(|byte| *byte = !*byte);
        }
        Ok(frame)
    }
}

/// Decompresses clusters, one after the other, with one working memory.
pub struct Decompressor {
    context: bulk::Decompressor<'static>,
    /// Created when it is first needed: hardly any archive has a deflate stream.
    inflate: Option<Decompress>,
}

impl Decompressor {
    /// A new working memory.
    pub fn new() -> Result<Self> {
        let make = || {
            let mut context = bulk::Decompressor::new()?;
            context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
            Ok(context)
        };
        Ok(Decompressor { context: make().map_err(zstd_error)?, inflate: None })
    }

    /// Decompresses the raw deflate stream at the start of `stored` (which may be longer) into all of `cluster`. As
    /// in QEMU, a stream that is longer than the cluster is cut off.
    ///
    /// # Errors
    /// One sentence; also if the stream ends before the cluster does.
    pub fn inflate(
        &mut self,
        stored: &[u8],
        cluster: &mut [u8],
    ) -> std::result::Result<(), String> {
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
        inflate.reset(false);
        match inflate.decompress(stored, cluster, FlushDecompress::Finish) {
            Ok(_) if inflate.total_out() == cluster.len() as u64 => Ok(()),
            Ok(_) => {
                Err(format!("found {} bytes, expected {}", inflate.total_out(), cluster.len()))
            }
            Err(error) => Err(format!("found a bad deflate stream: {error}")),
        }
    }

    /// Decompresses the frame at the start of `stored` (which may be longer) into all of `cluster`.
    ///
    /// # Errors
    /// One sentence; also if the frame's checksum is wrong or its length is not that of the cluster.
    pub fn decompress(
        &mut self,
        stored: &[u8],
        cluster: &mut [u8],
    ) -> std::result::Result<(), String> {
        let frame_bytes =
            frame_bytes(stored).ok_or_else(|| "found no whole zstd frame".to_owned())?;
        let frame = stored.get(..frame_bytes).unwrap_or(stored);
        match self.context.decompress_to_buffer(frame, cluster) {
            Ok(length) if length == cluster.len() => Ok(()),
            Ok(length) => Err(format!("found {length} bytes, expected {}", cluster.len())),
            Err(error) => Err(format!("found a bad zstd frame: {error}")),
        }
    }
}

impl Decompressor {
    /// The cluster in a frame from [`Compressor::compress_as_bad`]: as it was found, right or not.
    ///
    /// # Errors
    /// One sentence, if it is not such a frame.
    pub fn decompress_bad(
        &mut self,
        stored: &[u8],
        cluster: &mut [u8],
    ) -> std::result::Result<(), String> {
        let frame_bytes = frame_bytes(stored).ok_or("found no whole zstd frame")?;
        let mut frame = stored.get(..frame_bytes).unwrap_or(stored).to_vec();
        if let Some(checksum) = frame.last_chunk_mut::<4>() {
            checksum.iter_mut().for_each(|byte| *byte = !*byte);
        }
        self.decompress(&frame, cluster)
    }
}

/// Length of the zstd frame at the start of `stored`; `None` if there is no whole one.
pub fn frame_bytes(stored: &[u8]) -> Option<usize> {
    zstd::zstd_safe::find_frame_compressed_size(stored).ok()
}

/// zstd fails to set itself up only if memory is short.
fn zstd_error(error: std::io::Error) -> Error {
    Error::io("zstd", "set up compression")(error)
}

/// The longest stored form that an L2 entry can describe, in clusters.
pub const MAX_STORED_CLUSTERS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect()
    }

    /// Reading a block that was marked as bad fails, but it can be read as it was found; a good or a rotten block
    /// cannot be read that way.
    #[test]
    fn what_was_marked_as_bad_can_be_had_as_it_was_found() {
        for cluster in [noise(4096), vec![7; 4096]] {
            let mut compressor = Compressor::new(1).unwrap();
            let mut out = vec![0; 4096];
            let mut decompressor = Decompressor::new().unwrap();
            let mut bad = compressor.compress_as_bad(&cluster).unwrap();
            assert!(decompressor.decompress(&bad, &mut out).is_err());
            decompressor.decompress_bad(&bad, &mut out).unwrap();
            assert!(out == cluster);
            bad[10] ^= 1;
            assert!(decompressor.decompress_bad(&bad, &mut out).is_err());
        }
        let good = Compressor::new(1).unwrap().frame(&[7; 4096]).unwrap().to_vec();
        let mut out = vec![0; 4096];
        assert!(Decompressor::new().unwrap().decompress_bad(&good, &mut out).is_err());
    }

    #[test]
    fn clusters_read_back_and_what_follows_the_frame_does_not_matter() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| (i / 100) as u8).collect();
        let mut stored = Compressor::new(1).unwrap().frame(&cluster).unwrap().to_vec();
        assert!(stored.len() < 10_000);
        stored.extend(noise(300));
        let mut out = vec![0; 65536];
        Decompressor::new().unwrap().decompress(&stored, &mut out).unwrap();
        assert!(out == cluster);
    }

    #[test]
    fn a_deflate_stream_gives_a_whole_cluster_or_an_error() {
        let cluster: Vec<u8> = (0..4096u32).map(|i| (i / 100) as u8).collect();
        let mut stored = Vec::new();
        let mut deflate = flate2::Compress::new(flate2::Compression::fast(), false);
        stored.reserve(8192);
        let finish = flate2::FlushCompress::Finish;
        deflate.compress_vec(&cluster, &mut stored, finish).unwrap();
        let whole = stored.len();
        stored.extend(noise(300));
        let mut decompressor = Decompressor::new().unwrap();
        let mut out = vec![0; 4096];
        for _ in 0..2 {
            decompressor.inflate(&stored, &mut out).unwrap();
            assert!(out == cluster);
            out.fill(0);
        }
        for len in 0..whole - 1 {
            assert!(decompressor.inflate(&stored[..len], &mut out).is_err(), "{len} bytes");
        }
        assert!(decompressor.inflate(&stored[..whole], &mut [0; 8192]).is_err());
        // Block type 3 does not exist.
        assert!(decompressor.inflate(&[0xff; 512], &mut out).is_err());
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        assert_eq!(Compressor::new(1).unwrap().frame(&noise(4096)), None);
    }

    #[test]
    fn a_flipped_bit_a_wrong_length_and_a_block_known_as_bad_are_errors() {
        let cluster: Vec<u8> = noise(512).repeat(8);
        let mut compressor = Compressor::new(1).unwrap();
        let stored = compressor.frame(&cluster).unwrap().to_vec();
        let mut decompressor = Decompressor::new().unwrap();
        let mut out = vec![0; 4096];
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 0x10;
            let read = decompressor.decompress(&flipped, &mut out);
            assert!(read.is_err() || out == cluster, "byte {at}");
        }
        assert!(decompressor.decompress(&stored, &mut [0; 2048]).is_err());
        assert!(decompressor.decompress(&stored, &mut [0; 8192]).is_err());
        let bad = compressor.compress_as_bad(&cluster).unwrap();
        assert!(decompressor.decompress(&bad, &mut out).is_err());
    }

    /// A frame is used if it saves a sector, and not if it saves a byte less.
    #[test]
    fn a_frame_has_to_save_a_sector() {
        let mut compressor = Compressor::new(1).unwrap();
        let lengths = |zeros: usize| {
            let mut cluster = noise(4096);
            cluster[..zeros].fill(0);
            let worth_it = compressor.frame(&cluster).is_some();
            (worth_it, compressor.compress_as_bad(&cluster).unwrap().len())
        };
        let found: Vec<(bool, usize)> = (400..700).map(lengths).collect();
        for (worth_it, length) in &found {
            assert_eq!(*worth_it, *length <= 4096 - 512, "{length}");
        }
        assert!(found.iter().any(|(_, length)| *length == 4096 - 512));
    }
}
