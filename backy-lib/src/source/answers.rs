//! What other programs answer to a source, read as it is: for tests that answer anything.

use super::{libvirt, qcow2, qmp, rbd, running};

/// The size of the image of which `rbd diff` prints something.
const IMAGE_BYTES: u64 = 1 << 30;

/// Reads what a command has printed or answered; returns the message of the error, if it makes one. `None` for an
/// unknown command. One of QEMU's monitor is `query`: an object with the answers to `query-block` and to
/// `query-named-block-nodes`.
///
/// # Panics
/// When the answer has something that the command was not asked for.
pub fn read(command: &str, printed: &[u8]) -> Option<Result<(), String>> {
    let read = match command {
        "qemu-img info" => qcow2::read_answer(printed),
        "query" => qmp::read_answer(printed),
        "rbd diff" => rbd::read_difference(printed, IMAGE_BYTES),
        _ => match command.split_once(' ') {
            Some(("virsh", rest)) => libvirt::read_answer(rest, printed)?,
            Some(("rbd" | "ceph", rest)) => rbd::read_answer(rest, printed)?,
            _ => return None,
        },
    };
    Some(read.map_err(|why| running::error("source".to_owned(), &why).to_string()))
}
