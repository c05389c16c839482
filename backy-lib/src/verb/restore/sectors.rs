//! Whether the partition table of a revision fits a device: positions in a GPT are in sectors, and its backup
//! is in the last one.

use std::path::Path;

use super::{FileTarget, Target};
use crate::base::error::Result;
use crate::base::extent::Extent;
use crate::base::progress::{Event, Observer};
use crate::base::units::{BlockIndex, display_size};
use crate::format::qcow2::Decompressor;
use crate::image::chain::Chain;

/// The first bytes of the second sector of a disk with a GPT. Source: UEFI specification, "GPT Header".
const SIGNATURE: &[u8] = b"EFI PART";

/// Possible sector sizes.
const SIZES: [u64; 2] = [512, 4096];

/// Reports a partition table that does not fit a device. Read errors are reported later.
pub(super) fn tell(chain: &Chain, target: &FileTarget, observer: &dyn Observer) {
    let Some(sector_bytes) = target.sector_bytes() else { return };
    let path = target.path();
    let wrong = mismatch(chain, sector_bytes);
    let short = larger(chain, &path, target.size_bytes());
    // With the wrong sector size, the whole table has to be rewritten.
    let note = wrong.ok().flatten().or_else(|| short.ok().flatten());
    if let Some(note) = note {
        observer.event(&Event::Finding(format!("{}: {note}", path.display())));
    }
}

/// The problem of restoring to a device with this sector size, in one sentence, if any.
fn mismatch(chain: &Chain, sector_bytes: u64) -> Result<Option<String>> {
    let Some(own) = of_revision(chain)?.filter(|own| *own != sector_bytes) else {
        return Ok(None);
    };
    Ok(Some(format!(
        "its sectors have {sector_bytes} bytes, and the partition table of the revision is for sectors of \
         {own}: systems will not \
         find the partitions; restore to a disk with sectors of {own} bytes, or create the table again, with each \
         partition at the same byte"
    )))
}

/// That the backup of the GPT will not be at the end of a larger device, in one sentence, if the revision has a GPT.
fn larger(chain: &Chain, device: &Path, device_bytes: u64) -> Result<Option<String>> {
    let more = device_bytes.saturating_sub(chain.revision().size_bytes);
    if more == 0 || of_revision(chain)?.is_none() {
        return Ok(None);
    }
    Ok(Some(format!(
        "it is {} larger than the revision, so the backup of the partition table does not lie at its end, \
         where systems look for it; after the restore 'sgdisk --move-second-header {}' moves it there",
        display_size(more),
        device.display()
    )))
}

/// The sector size that a revision's GPT uses; `None` if it has no GPT.
fn of_revision(chain: &Chain) -> Result<Option<u64>> {
    for sector_bytes in SIZES {
        if starts_with(chain, sector_bytes, SIGNATURE)? {
            return Ok(Some(sector_bytes));
        }
    }
    Ok(None)
}

/// Whether the revision has these bytes at an offset. They are in one block, as a sector is.
fn starts_with(chain: &Chain, offset: u64, bytes: &[u8]) -> Result<bool> {
    let size = chain.block_size();
    let block = size.index(offset);
    let wanted = Extent::new(offset, bytes.len() as u64);
    if wanted.end() > chain.revision().size_bytes {
        return Ok(false);
    }
    let located = chain.locate(block, 1)?;
    let extent = size.extent(block, chain.revision().size_bytes);
    let mut content = vec![0; extent.len as usize];
    chain.read(BlockIndex(block.0), &located, &mut Decompressor::new()?, &mut content)?;
    let start = (offset - extent.offset) as usize;
    Ok(content.get(start..start + bytes.len()) == Some(bytes))
}
