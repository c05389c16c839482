//! A thread that notices when the archive's manifest is replaced, and lets the tree follow.
//!
//! The system tells of changes in a folder at once, but not of those that another machine makes in a network file system. So
//! the thread looks each second as well, which costs a few system calls.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::tree::Tree;

/// How often to look, whatever the system tells.
const INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How soon to try again when the archive could not be followed: it is being changed at that moment.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// So often in a row it may fail before that is worth a line.
const PATIENCE: u32 = 60;

/// Ends the thread when dropped, and waits for that.
#[derive(Debug)]
pub(super) struct Watch {
    /// When this end of a pipe is closed, the thread sees it at the other.
    alive: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // If it has failed there is nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Starts to watch a tree's archive.
pub(super) fn start(tree: Arc<Tree>) -> io::Result<Watch> {
    let (end, alive) = pipe_with(PipeFlags::CLOEXEC)?;
    // Where there is nothing that tells, looking has to do.
    let notices = notices(tree.archive_folder()).ok();
    let thread = std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch(&tree, &end, notices.as_ref()))?;
    Ok(Watch { alive: Some(alive), thread: Some(thread) })
}

fn notices(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // A manifest is published by giving it its name.
    inotify::add_watch(&notices, folder, WatchFlags::MOVED_TO | WatchFlags::CREATE)?;
    Ok(notices)
}

fn watch(tree: &Tree, end: &OwnedFd, notices: Option<&OwnedFd>) {
    let mut failures = 0;
    loop {
        let pause = match failures {
            1..PATIENCE => AGAIN,
            _ => INTERVAL,
        };
        if wait(end, notices, &pause) {
            return;
        }
        match tree.refresh() {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures == PATIENCE {
                    tree.findings().note(format!("the mount cannot follow the archive: {error}"));
                }
            }
        }
    }
}

/// Waits until there may be something to see; whether it is time to end.
fn wait(end: &OwnedFd, notices: Option<&OwnedFd>, pause: &Timespec) -> bool {
    let mut fds = vec![PollFd::new(end, PollFlags::IN)];
    fds.extend(notices.map(|notices| PollFd::new(notices, PollFlags::IN)));
    // An interruption only means to look earlier.
    let _ = poll(&mut fds, Some(pause));
    let ended = fds.first().is_some_and(|end| !end.revents().is_empty());
    if let Some(notices) = notices {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(notices, &mut buffer);
        // What they say does not matter, only that they are taken away.
        while reader.next().is_ok() {}
    }
    ended
}
