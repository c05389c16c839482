//! The `README` of an archive: how to get the data back without backy.

use crate::base::units::BlockSize;

/// The text of the file, for an archive with this block size.
pub fn readme(block_size: BlockSize) -> String {
    TEMPLATE.replace("@BLOCK_SIZE@", &block_size.bytes().to_string())
}

const TEMPLATE: &str = include_str!("readme.txt");

/// The block size of the archive that has this README; `None` if the text is not one of ours.
pub fn block_size_of(text: &[u8]) -> Option<BlockSize> {
    let sizes = BlockSize::MIN.bits()..=BlockSize::MAX.bits();
    let mut sizes = sizes.filter_map(|bits| BlockSize::new(1 << bits));
    sizes.find(|size| readme(*size).as_bytes() == text)
}
