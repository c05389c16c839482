//! `plain-digest FILE`: reads the data of a file and computes the digests of its blocks of 64 KiB, on all cores, and
//! nothing else. It is the minimum for a backup of a source that has not changed, and the benchmark compares with it.

use std::iter;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use backy_lib::BlockSize;
use backy_lib::digest::is_zero;
use backy_lib::source::{DeviceSource, Source};

/// As a backup reads.
const PIECE_BYTES: u64 = 1 << 20;
const BLOCK: BlockSize = BlockSize::DEFAULT;

fn main() {
    let path: PathBuf = std::env::args_os().nth(1).expect("plain-digest FILE").into();
    let source = DeviceSource::open(&path).expect("open the file");
    let mut offset = 0;
    let extents = iter::from_fn(|| {
        let data = source.next_data(offset).expect("look for data")?;
        offset = data.end();
        Some(data)
    });
    let pieces = extents.flat_map(|data| {
        let start = BLOCK.offset(BLOCK.index(data.offset));
        let end = data.end().next_multiple_of(BLOCK.bytes());
        (start..end).step_by(PIECE_BYTES as usize).map(move |at| (at, PIECE_BYTES.min(end - at)))
    });
    let pieces = Mutex::new(pieces);
    let next = || pieces.lock().expect("nobody panics with it").next();
    let work = || {
        let (mut buffer, mut blocks) = (vec![0; PIECE_BYTES as usize], 0);
        while let Some((at, len)) = next() {
            let count = source.read_at(&mut buffer[..len as usize], at).expect("read");
            let data: Vec<&[u8]> =
                buffer[..count].chunks(BLOCK.len()).filter(|block| !is_zero(block)).collect();
            let mut digests = vec![[0; 32]; data.len()];
            // Uses the library's digest function, without the repeated computations.
            tape_sha256::hash_many(&data, &mut digests);
            blocks += digests.len();
        }
        blocks
    };
    let blocks: usize = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    });
    assert!(blocks > 0, "there is no data in it");
}
