//! The `README` of an archive: how to get the data back without backy.

use crate::units::BlockSize;

/// The text of the file, for an archive with this block size.
pub fn readme(block_size: BlockSize) -> String {
    TEMPLATE.replace("@BLOCK_SIZE@", &block_size.bytes().to_string())
}

const TEMPLATE: &str = include_str!("readme.txt");
