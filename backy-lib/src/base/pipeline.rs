//! Work on many items in order, on several cores, with bounded memory.
//!
//! Items are made one at a time, worked on by any thread, and their outcomes are taken in the order of the items by
//! the calling thread, which works on items itself when there is nothing to take: there are no more threads than workers. No more
//! than a given number of items are under way: one is only made when there is room for its outcome, so the one that everybody waits
//! for always has room. With one worker everything happens in a fixed order, which is what the tests with simulated disks need.
//!
//! When the system starts no more threads, those that there are do the work; when it does not start a single one, that is an
//! error. A panic is an error like any other, so that nobody waits for an outcome that never comes.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::bounded;

use crate::base::error::{Error, Result};

/// Items under way for each thread.
const ITEMS_PER_THREAD: usize = 4;

/// Runs `work` on everything that `next` gives, with one of `workers` on each thread, and hands the outcomes to `sink`.
/// The first error, in the order of the items, ends it.
pub(crate) fn run<Item, Outcome, Worker>(
    mut workers: Vec<Worker>,
    mut next: impl FnMut() -> Result<Option<Item>> + Send,
    work: impl Fn(&mut Worker, Item) -> Result<Outcome> + Sync,
    mut sink: impl FnMut(Outcome) -> Result<()>,
) -> Result<()>
where
    Item: Send,
    Outcome: Send,
    Worker: Send,
{
    let Some(mut own) = workers.pop() else { return Ok(()) };
    let mut next = || caught(&mut next);
    let work = |worker: &mut Worker, item| caught(|| work(worker, item));
    let mut sink = |outcome| caught(|| sink(outcome));
    if workers.is_empty() {
        while let Some(item) = next()? {
            sink(work(&mut own, item)?)?;
        }
        return Ok(());
    }
    let limit = (workers.len() + 1) * ITEMS_PER_THREAD;
    let (give_room, take_room) = bounded(limit);
    for _ in 0..limit {
        // The channel has room for all of them.
        let _ = give_room.send(());
    }
    let (give_outcome, take_outcome) = bounded(limit);
    let feed = Mutex::new((0u64, Some(&mut next)));
    thread::scope(|scope| {
        // Of this closure, so that it is gone when an error ends it: the threads that wait for room then end, too.
        let give_room = give_room;
        let (feed, work) = (&feed, &work);
        for (started, mut worker) in workers.into_iter().enumerate() {
            let (take_room, give_outcome) = (take_room.clone(), give_outcome.clone());
            let run = move || {
                while take_room.recv().is_ok() {
                    let Some((number, item)) = take_item(feed) else { break };
                    let outcome = item.and_then(|item| work(&mut worker, item));
                    if give_outcome.send((number, outcome)).is_err() {
                        break;
                    }
                }
            };
            match thread::Builder::new().spawn_scoped(scope, run) {
                Ok(_) => {}
                Err(error) if started == 0 => {
                    return Err(Error::io("backy", "start a thread")(error));
                }
                Err(_) => break,
            }
        }
        drop(give_outcome);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        loop {
            while let Some(outcome) = early.remove(&expected) {
                sink(outcome?)?;
                expected += 1;
                // Nobody takes it when all threads have finished.
                let _ = give_room.try_send(());
            }
            let mut arrived = take_outcome.try_recv().ok();
            if arrived.is_none() && take_room.try_recv().is_ok() {
                match take_item(feed) {
                    Some((number, item)) => {
                        arrived = Some((number, item.and_then(|item| work(&mut own, item))));
                    }
                    // A thread that waits for it learns in its turn that there is nothing left.
                    None => {
                        let _ = give_room.try_send(());
                    }
                }
            }
            // There is nothing to do until a thread has finished with what it is at, and at the end nothing at all.
            let arrived = arrived.or_else(|| take_outcome.recv().ok());
            let Some((number, outcome)) = arrived else { return Ok(()) };
            early.insert(number, outcome);
        }
    })
}

/// A panic as an error. What it leaves behind is not used any more, since the error ends everything.
fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(Error::Panic { message: words_of(&*panic) }))
}

/// What somebody who panicked had to say.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = literal.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no reason was given".to_owned())
}

type Feed<'a, F> = Mutex<(u64, Option<&'a mut F>)>;

/// The next item with its number; an error is the last one.
fn take_item<Item>(
    feed: &Feed<'_, impl FnMut() -> Result<Option<Item>>>,
) -> Option<(u64, Result<Item>)> {
    let mut feed = feed.lock().unwrap_or_else(PoisonError::into_inner);
    let (number, next) = &mut *feed;
    let item = next.as_mut()?().transpose();
    if !matches!(item, Some(Ok(_))) {
        *next = None;
    }
    let taken = *number;
    *number += 1;
    item.map(|item| (taken, item))
}

/// Buffers that are used again instead of being allocated anew.
pub(crate) struct BufferPool {
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    pub(crate) fn new() -> Self {
        BufferPool { buffers: Mutex::new(Vec::new()) }
    }

    /// A buffer of `len` bytes with any content.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffers.pop().unwrap_or_default();
        drop(buffers);
        buffer.resize(len, 0);
        buffer
    }

    /// Takes a buffer back; one that never held anything is not worth keeping.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// How many threads the system starts at this moment, up to `wanted`.
///
/// # Errors
/// When it starts none.
pub(crate) fn startable(wanted: usize) -> io::Result<usize> {
    thread::scope(|scope| {
        // They wait until all of them are there.
        let (until_all, all) = bounded::<()>(0);
        let mut started = 0;
        while started < wanted {
            let all = all.clone();
            match thread::Builder::new().spawn_scoped(scope, move || all.recv().is_ok()) {
                Ok(_) => started += 1,
                Err(error) if started == 0 => return Err(error),
                Err(_) => break,
            }
        }
        drop(until_all);
        Ok(started)
    })
}

/// As many threads as were asked for, or as there are cores.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::base::error::Error;

    fn squares(threads: usize, items: u64, fail_at: Option<u64>) -> (Vec<u64>, Result<()>) {
        let mut given = 0..items;
        let mut taken = Vec::new();
        let result = run(
            vec![(); threads],
            || Ok(given.next()),
            |(), item| {
                // The later, the faster: outcomes arrive out of order.
                thread::sleep(std::time::Duration::from_micros((items - item) % 7 * 50));
                if Some(item) == fail_at { Err(Error::Interrupted) } else { Ok(item * item) }
            },
            |outcome| {
                taken.push(outcome);
                Ok(())
            },
        );
        (taken, result)
    }

    #[test]
    fn outcomes_come_in_the_order_of_the_items() {
        for threads in [1, 2, 5] {
            let (taken, result) = squares(threads, 300, None);
            assert!(result.is_ok());
            assert!(taken.iter().copied().eq((0..300).map(|n| n * n)), "{threads}");
        }
    }

    /// The calling thread is one of them, and all are at work at the same time.
    #[test]
    fn there_are_as_many_threads_as_workers() {
        for threads in [1, 2, 5] {
            let seen = Mutex::new(std::collections::HashSet::new());
            let see = || seen.lock().unwrap().insert(thread::current().id());
            let mut given = 0..300;
            let began = Instant::now();
            let work = |(): &mut (), _| {
                see();
                // Nobody finishes anything before everybody has begun.
                while seen.lock().unwrap().len() < threads {
                    assert!(began.elapsed() < Duration::from_secs(60), "not all of them work");
                    thread::yield_now();
                }
                Ok(())
            };
            let sink = |()| {
                see();
                Ok(())
            };
            run(vec![(); threads], || Ok(given.next()), work, sink).unwrap();
            let seen = seen.into_inner().unwrap();
            assert_eq!(seen.len(), threads);
            assert!(seen.contains(&thread::current().id()));
        }
    }

    #[test]
    fn the_first_error_ends_it_after_all_outcomes_before_it() {
        for threads in [1, 2, 5] {
            let (taken, result) = squares(threads, 300, Some(120));
            assert!(matches!(result, Err(Error::Interrupted)));
            assert_eq!(taken.len(), 120, "{threads}");
        }
    }

    #[test]
    fn an_error_of_the_sink_or_the_feed_ends_it_without_hanging() {
        for threads in [1, 3] {
            let mut left = 50;
            let feed = || {
                left -= 1;
                if left == 0 { Err(Error::Interrupted) } else { Ok(Some(left)) }
            };
            assert!(run(vec![(); threads], feed, |(), n| Ok(n), |_| Ok(())).is_err());
            let mut given = 0..1000;
            let sink = |n| if n == 5 { Err(Error::Interrupted) } else { Ok(()) };
            assert!(run(vec![(); threads], || Ok(given.next()), |(), n| Ok(n), sink).is_err());
        }
    }

    #[test]
    fn as_many_threads_can_be_started_as_are_wanted() {
        assert_eq!([1, 5].map(|wanted| startable(wanted).unwrap()), [1, 5]);
    }

    /// A panic, wherever it is, is an error with what was said, and nobody waits for an outcome that does not come.
    #[test]
    fn a_panic_is_an_error_and_no_hang() {
        let unlucky = |place: &str, panics: &str, item: i32| {
            assert!(place != panics || item != 7, "not seven");
            Ok(item)
        };
        for (threads, panics) in [1, 2, 5].into_iter().flat_map(|threads| {
            ["next", "work", "sink"].into_iter().map(move |panics| (threads, panics))
        }) {
            let (give_result, take_result) = mpsc::channel();
            thread::spawn(move || {
                let mut given = 0..100_000;
                let next = || given.next().map(|item| unlucky("next", panics, item)).transpose();
                let work = |(): &mut (), item| unlucky("work", panics, item);
                let sink = |item| unlucky("sink", panics, item).map(|_| ());
                let _ = give_result.send(run(vec![(); threads], next, work, sink));
            });
            let result = take_result.recv_timeout(Duration::from_secs(30));
            let error = result.expect("it hangs").expect_err("a panic");
            assert_eq!(error.to_string(), "a thread of this process failed: not seven", "{panics}");
        }
    }

    /// An error ends it also when every thread waits for room, as all do while the sink is slow.
    #[test]
    fn an_error_of_a_slow_sink_ends_it_without_hanging() {
        let (give_result, take_result) = mpsc::channel();
        thread::spawn(move || {
            let sink = |()| {
                thread::sleep(Duration::from_millis(300));
                Err(Error::Interrupted)
            };
            let _ = give_result.send(run(vec![(); 3], || Ok(Some(())), |(), ()| Ok(()), sink));
        });
        let result = take_result.recv_timeout(Duration::from_secs(30));
        assert!(matches!(result, Ok(Err(Error::Interrupted))), "it hangs");
    }
}
