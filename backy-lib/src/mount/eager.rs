//! Threads that serve a mount wait with a high priority and work with that of everybody else.
//!
//! Closing a file takes next to no time, but on a busy machine the thread that does it would first have to wait for its turn.
//! Meanwhile a script may have unmounted the mount and be about to unmount the archive's disk. So whoever waits for requests
//! gets its turn at once. What takes long, such as reading, is done with the priority that the process was started with.

use rustix::process::{getpriority_process, setpriority_process};

/// The highest priority. Source: `setpriority(2)`.
const EAGER: i32 = -20;

/// The priorities of the threads that serve a mount. On Linux each thread has its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eagerness {
    /// What the process was started with; `None` where it may not raise it.
    usual: Option<i32>,
}

impl Eagerness {
    /// Of the calling thread: not raised yet.
    pub(super) fn of_this_thread() -> Self {
        let Ok(usual) = getpriority_process(None) else { return Eagerness { usual: None } };
        let may_raise = setpriority_process(None, EAGER).is_ok();
        let eagerness = Eagerness { usual: may_raise.then_some(usual) };
        eagerness.set(false);
        eagerness
    }

    /// Raises the priority of the calling thread, which those inherit that it starts.
    pub(super) fn begin(self) {
        self.set(true);
    }

    /// Does something that may take long.
    pub(super) fn work<T>(self, what: impl FnOnce() -> T) -> T {
        self.set(false);
        let result = what();
        self.set(true);
        result
    }

    fn set(self, eager: bool) {
        if let Some(usual) = self.usual {
            // It has worked before; where it does not, requests take a little longer.
            let _ = setpriority_process(None, if eager { EAGER } else { usual });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that waits comes first where that is allowed; one that works does not, and nothing else of the process changes.
    #[test]
    fn work_is_done_with_the_usual_priority() {
        let outside = getpriority_process(None).unwrap();
        std::thread::spawn(move || {
            let eagerness = Eagerness::of_this_thread();
            assert_eq!(getpriority_process(None).unwrap(), outside);
            eagerness.begin();
            let waiting = getpriority_process(None).unwrap();
            assert_eq!(waiting, if eagerness.usual.is_some() { EAGER } else { outside });
            let child = std::thread::spawn(|| getpriority_process(None).unwrap());
            assert_eq!(child.join().unwrap(), waiting);
            assert_eq!(eagerness.work(|| getpriority_process(None).unwrap()), outside);
            assert_eq!(getpriority_process(None).unwrap(), waiting);
        })
        .join()
        .unwrap();
        assert_eq!(getpriority_process(None).unwrap(), outside);
    }
}
