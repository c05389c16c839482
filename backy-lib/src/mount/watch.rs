//! A thread that notices when the archive's manifest is replaced, and makes the tree follow.
//!
//! The system reports changes in a folder at once, but not those that another machine makes in a network file
//! system. So the thread also checks once a second, which costs a few system calls.

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

/// How often to check, in addition to reported changes.
const INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How soon to retry if the archive could not be followed: it is probably being changed right now.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How many failures in a row are normal; more are reported.
const PATIENCE: u32 = 60;

/// Dropping it ends the thread and waits for that.
#[derive(Debug)]
pub(super) struct Watch {
    /// Closing this end of a pipe makes the thread end.
    alive: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread cannot be reported here.
            let _ = thread.join();
        }
    }
}

/// Starts to watch a tree's archive.
pub(super) fn start(tree: Arc<Tree>) -> io::Result<Watch> {
    let (end, alive) = pipe_with(PipeFlags::CLOEXEC)?;
    // Without change notifications, checking once a second is enough.
    let notices = notices(tree.archive_folder()).ok();
    let thread = std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch(&tree, &end, notices.as_ref()))?;
    Ok(Watch { alive: Some(alive), thread: Some(thread) })
}

fn notices(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // Publishing a manifest means renaming it into place.
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

/// Waits until there may be a change; returns whether to end.
fn wait(end: &OwnedFd, notices: Option<&OwnedFd>, pause: &Timespec) -> bool {
    let mut fds = vec![PollFd::new(end, PollFlags::IN)];
    fds.extend(notices.map(|notices| PollFd::new(notices, PollFlags::IN)));
    // An interruption only makes the check come early.
    let _ = poll(&mut fds, Some(pause));
    let ended = fds.first().is_some_and(|end| !end.revents().is_empty());
    if let Some(notices) = notices {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(notices, &mut buffer);
        // Only consumes them; their content does not matter.
        while reader.next().is_ok() {}
    }
    ended
}
