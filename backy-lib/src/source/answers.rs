//! What other programs answer to a source, read as it is: for tests that answer anything.

use super::{hint_program, libvirt, qcow2, qmp, rbd, reflink, running, thin};
use crate::base::extent::Extent;

/// The size of the image, volume or source that something is printed of.
const SIZE_BYTES: u64 = 1 << 30;

/// Reads what a command has printed or answered; returns the message of the error, if it makes one. `None` for an
/// unknown command. One of QEMU's monitor is `query`: an object with the answers to `query-block` and to
/// `query-named-block-nodes`. Those of a hint program are `hint` and the request.
///
/// # Panics
/// When the answer has something that the command was not asked for.
pub fn read(command: &str, printed: &[u8]) -> Option<Result<(), String>> {
    let read = match command {
        "qemu-img info" => qcow2::read_answer(printed),
        "query" => qmp::read_answer(printed),
        "btrfs send" => {
            reflink::read_differences(printed, SIZE_BYTES).map(|all| check([all, vec![]]))
        }
        "rbd diff" => rbd::read_difference(printed, SIZE_BYTES).map(check),
        "thin_delta" => thin::read_difference(printed, SIZE_BYTES).map(check),
        "lvs" => thin::read_answer(printed),
        _ => match command.split_once(' ') {
            Some(("virsh", rest)) => libvirt::read_answer(rest, printed)?,
            Some(("hint", rest)) => {
                hint_program::read_answer(rest, printed, SIZE_BYTES)?.map(check)
            }
            Some(("rbd" | "ceph", rest)) => rbd::read_answer(rest, printed)?,
            _ => return None,
        },
    };
    Some(read.map_err(|why| running::error("source".to_owned(), &why).to_string()))
}

/// Checks extents of the image, volume or source: ascending, and with gaps between them.
fn check(lists: [Vec<Extent>; 2]) {
    for extents in lists {
        let mut before = None;
        for extent in extents {
            let (offset, end) = (extent.offset, extent.end());
            assert!(extent.len > 0 && end <= SIZE_BYTES, "an extent from {offset} to {end}");
            assert!(before.is_none_or(|before| before < offset), "an extent at {offset} again");
            before = Some(end);
        }
    }
}
