//! Sizes, counts and positions: the arithmetic that everything else relies on.
//!
//! A position in an image is either a byte offset (`u64`, always named `…offset` or `…_bytes`) or a
//! [`BlockIndex`]; [`BlockSize`] converts between them. Nothing here does I/O or panics.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::extent::Extent;

/// Number of a block in an image, counted from 0.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The block `count` blocks later; saturates, so that a hostile number cannot wrap around.
    pub fn plus(self, count: u64) -> Self {
        BlockIndex(self.0.saturating_add(count))
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Size of a block in bytes: a power of two from 4 KiB to 2 MiB. Also the qcow2 cluster size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct BlockSize {
    bits: u32,
}

impl BlockSize {
    /// 64 KiB, the default of `init`.
    pub const DEFAULT: BlockSize = BlockSize { bits: 16 };
    /// Smallest block size, 4 KiB.
    pub const MIN: BlockSize = BlockSize { bits: 12 };
    /// Largest block size, 2 MiB, which is also the largest cluster that qcow2 allows.
    pub const MAX: BlockSize = BlockSize { bits: 21 };

    /// `None` unless `size_bytes` is a power of two from 4 KiB to 2 MiB.
    pub fn new(size_bytes: u64) -> Option<Self> {
        let bits = size_bytes.trailing_zeros();
        (size_bytes.is_power_of_two() && (Self::MIN.bits..=Self::MAX.bits).contains(&bits))
            .then_some(BlockSize { bits })
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.bits
    }

    /// Size in bytes, for buffers.
    pub fn len(self) -> usize {
        1 << self.bits
    }

    /// Binary logarithm of the size: qcow2's `cluster_bits`.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// How many blocks an image of `image_bytes` has; the last one may be short.
    pub fn count(self, image_bytes: u64) -> u64 {
        image_bytes.div_ceil(self.bytes())
    }

    /// The block that holds byte `offset`.
    pub fn index(self, offset: u64) -> BlockIndex {
        BlockIndex(offset >> self.bits)
    }

    /// Byte offset of the block's first byte; saturates.
    pub fn offset(self, block: BlockIndex) -> u64 {
        block.0.saturating_mul(self.bytes())
    }

    /// The end of the blocks that have the same length in images of these sizes.
    pub fn same_length_end(self, one_bytes: u64, other_bytes: u64) -> BlockIndex {
        match one_bytes == other_bytes {
            true => BlockIndex(self.count(one_bytes)),
            false => self.index(one_bytes.min(other_bytes)),
        }
    }

    /// Where `block` lies in an image of `image_bytes`: short for the last block, of length 0 past the end.
    pub fn extent(self, block: BlockIndex, image_bytes: u64) -> Extent {
        let offset = self.offset(block).min(image_bytes);
        Extent::new(offset, (image_bytes - offset).min(self.bytes()))
    }
}

impl TryFrom<u64> for BlockSize {
    type Error = String;

    fn try_from(size_bytes: u64) -> Result<Self, String> {
        BlockSize::new(size_bytes).ok_or_else(|| {
            format!("block size {size_bytes} is not a power of two from 4096 to 2097152")
        })
    }
}

impl From<BlockSize> for u64 {
    fn from(size: BlockSize) -> u64 {
        size.bytes()
    }
}

/// A size as people write it (`65536`, `64K`, `64KiB`, `1.5G`): binary units, upper or lower case.
///
/// # Errors
/// A sentence with what was found and what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; expected a number with K, M, G or T, like 64K");
    let lower = text.trim().to_ascii_lowercase();
    let unit_at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at_checked(unit_at).ok_or_else(wrong)?;
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * f64::from(2).powi(shift);
    if (0.0..9e15).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Bytes per second, as people write it (`100M`, `100M/s`). Zero is an error, because nothing could be read.
///
/// # Errors
/// A sentence with what was found and what is expected.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.trim_end_matches("/s"))? {
        0 => {
            Err("nothing could be read; expected a number of bytes a second, like 100M".to_owned())
        }
        bytes => Ok(bytes),
    }
}

/// A size for people: `0 B`, `512 B`, `1.5 MiB`, `4.0 GiB`.
pub fn display_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_powers_of_two_in_bounds() {
        assert_eq!(BlockSize::new(65536), Some(BlockSize::DEFAULT));
        for bad in [0, 1, 2048, 4097, 65535, 4 << 20] {
            assert_eq!(BlockSize::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_block_is_short_and_blocks_past_the_end_have_no_length() {
        let size = BlockSize::MIN;
        assert_eq!(size.count(0), 0);
        assert_eq!(size.count(4097), 2);
        assert_eq!(size.extent(BlockIndex(1), 4097), Extent::new(4096, 1));
        assert_eq!(size.extent(BlockIndex(2), 4097), Extent::new(4097, 0));
        assert_eq!(size.extent(BlockIndex(u64::MAX), 4097).len, 0);
    }

    #[test]
    fn sizes_are_parsed_as_people_write_them() {
        assert_eq!(parse_size("65536"), Ok(65536));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("64 KiB"), Ok(65536));
        assert_eq!(parse_size("1.5g"), Ok(3 << 29));
        for bad in ["", "K", "64X", "-1", "1e9", "99999999999999999999", "NaN"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_must_not_be_zero() {
        assert_eq!(parse_rate("100M"), Ok(100 << 20));
        assert_eq!(parse_rate("1.5M/s"), Ok(3 << 19));
        for bad in ["0", "fast", "", "-1"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_binary_units() {
        assert_eq!(display_size(0), "0 B");
        assert_eq!(display_size(1536), "1.5 KiB");
        assert_eq!(display_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(display_size(4 << 30), "4.0 GiB");
        assert_eq!(display_size(u64::MAX), "16.0 EiB");
    }
}
