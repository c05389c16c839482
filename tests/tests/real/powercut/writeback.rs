//! The kernel may write what is in the page cache at any time, one file before another. In the short time of a test
//! it hardly does, which hides a missing sync. So this does it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use backy_lib::storage::sim::Random;

/// Makes random files of a folder durable at random times, until dropped.
pub(crate) struct Writeback {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writeback {
    pub(crate) fn of(folder: &Path, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (folder, stopped, mut random) = (folder.to_owned(), Arc::clone(&stop), Random(seed));
        let thread = spawn(move || {
            while !stopped.load(Relaxed) {
                write_one(&folder, &mut random);
                sleep(Duration::from_micros(random.below(4000)));
            }
        });
        Writeback { stop, thread: Some(thread) }
    }
}

/// A file that is deleted meanwhile does not matter. The image is chosen most often: it must never be the first.
fn write_one(folder: &Path, random: &mut Random) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.extend(vec![folder.join("last.raw"); paths.len()]);
    if !paths.is_empty() {
        let path = &paths[random.below(paths.len() as u64) as usize];
        let _ = File::open(path).and_then(|file| file.sync_data());
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A test that already panics must not abort.
            let _ = thread.join();
        }
    }
}
