//! Blocks in the form in which a delta stores them.

use super::Delta;
use crate::base::error::Result;
use crate::base::units::BlockIndex;
use crate::format::qcow2::{Cluster, Compression, Compressor, Decompressor, frame_bytes};

/// An old block on its way into a delta.
#[derive(Debug)]
pub struct OldBlock {
    /// Which block.
    pub block: BlockIndex,
    /// Its content in its stored form.
    pub content: StoredBlock,
}

/// The stored form of a block.
#[derive(Debug)]
pub enum StoredBlock {
    /// All zero: no data.
    Zero,
    /// A whole cluster as it is.
    Plain(Vec<u8>),
    /// A zstd frame.
    Compressed(Vec<u8>),
}

impl StoredBlock {
    /// Bytes that it takes in memory and, roughly, in the file.
    pub fn bytes(&self) -> usize {
        match self {
            StoredBlock::Zero => 0,
            StoredBlock::Plain(data) | StoredBlock::Compressed(data) => data.len(),
        }
    }
}

impl Compressor {
    /// The stored form of a whole cluster that is not zero.
    pub fn store(&mut self, cluster: &[u8]) -> StoredBlock {
        match self.frame(cluster) {
            // Many of them are kept until they are written.
            Some(frame) => StoredBlock::Compressed(frame.to_vec()),
            None => StoredBlock::Plain(cluster.to_vec()),
        }
    }
}

impl Delta {
    /// The stored form of a block that the delta holds, as it is, right or not. A block that is not in one of our
    /// forms is converted.
    pub fn read_stored(&self, cluster: Cluster) -> Result<StoredBlock> {
        match cluster {
            Cluster::Unallocated | Cluster::Zero => Ok(StoredBlock::Zero),
            Cluster::Plain { offset } => {
                let mut content = vec![0; self.header.cluster_size.len()];
                self.file.read_exact_at(&mut content, offset)?;
                Ok(StoredBlock::Plain(content))
            }
            Cluster::Compressed { .. } if self.header.compression == Compression::Zlib => {
                let mut content = vec![0; self.header.cluster_size.len()];
                match self.read_cluster(cluster, &mut Decompressor::new()?, &mut content) {
                    Ok(()) => Ok(StoredBlock::Plain(content)),
                    // It is rotten and stays so.
                    Err(error) if error.is_damage() => {
                        let frame = Compressor::new(1)?.compress_as_bad(&content)?;
                        Ok(StoredBlock::Compressed(frame))
                    }
                    Err(error) => Err(error),
                }
            }
            Cluster::Compressed { offset, max_bytes } => {
                let mut frame = self.read_compressed(offset, max_bytes)?;
                // A frame without a known length is rotten; it stays so.
                frame.truncate(frame_bytes(&frame).unwrap_or(frame.len()));
                Ok(StoredBlock::Compressed(frame))
            }
        }
    }
}
