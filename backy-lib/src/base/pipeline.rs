//! Ordered work on many items, on several cores, with bounded memory.
//!
//! Items are made one at a time, and any thread works on them. The calling thread takes the outcomes in the
//! order of the items, and works on items itself when there is none to take: there are no more threads than
//! workers. The number of items in flight is bounded. An item is only made when there is a free slot for its
//! outcome, so the one that everybody waits for always has one. With one worker, everything happens in a
//! fixed order, which the tests with simulated disks need.
//!
//! If the system starts no more threads, the existing ones do the work; if it does not start a single one,
//! that is an error. A panic becomes an error too, so that nobody waits for an outcome that never comes.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::bounded;

use crate::base::error::{Error, Result};

/// Items in flight per thread.
const ITEMS_PER_THREAD: usize = 4;

/// Runs `work` on every item of `next`, with one of `workers` on each thread, and hands the outcomes to
/// `sink`. The first error, in the order of the items, ends the run.
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
    let (give_slot, take_slot) = bounded(limit);
    for _ in 0..limit {
        // The channel has space for all of them.
        let _ = give_slot.send(());
    }
    let (give_outcome, take_outcome) = bounded(limit);
    let feed = Mutex::new((0u64, Some(&mut next)));
    thread::scope(|scope| {
        // Moves it into this closure, so that an error drops it: the threads that wait for a slot then end, too.
        let give_slot = give_slot;
        let (feed, work) = (&feed, &work);
        for (started, mut worker) in workers.into_iter().enumerate() {
            let (take_slot, give_outcome) = (take_slot.clone(), give_outcome.clone());
            let run = move || {
                while take_slot.recv().is_ok() {
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
                // Nobody takes it once all threads have finished.
                let _ = give_slot.try_send(());
            }
            let mut arrived = take_outcome.try_recv().ok();
            if arrived.is_none() && take_slot.try_recv().is_ok() {
                match take_item(feed) {
                    Some((number, item)) => {
                        arrived = Some((number, item.and_then(|item| work(&mut own, item))));
                    }
                    // A thread that waits for a slot finds out in its turn that nothing is left.
                    None => {
                        let _ = give_slot.try_send(());
                    }
                }
            }
            // There is nothing to do until a thread finishes its item; at the end there is nothing to wait for.
            let arrived = arrived.or_else(|| take_outcome.recv().ok());
            let Some((number, outcome)) = arrived else { return Ok(()) };
            early.insert(number, outcome);
        }
    })
}

/// Turns a panic into an error. Nothing uses what it leaves behind, because the error ends the whole run.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(Error::Panic { message: panic_message(&*panic) }))
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = literal.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no reason was given".to_owned())
}

type Feed<'a, F> = Mutex<(u64, Option<&'a mut F>)>;

/// The next item with its number; nothing follows an error.
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

/// Buffers for reuse.
pub(crate) struct BufferPool {
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    pub(crate) fn new() -> Self {
        BufferPool { buffers: Mutex::new(Vec::new()) }
    }

    /// A buffer of `len` bytes with arbitrary content.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffers.pop().unwrap_or_default();
        drop(buffers);
        buffer.resize(len, 0);
        buffer
    }

    /// Takes a buffer back, unless it never held anything.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// How many threads the system starts right now, up to `wanted`.
///
/// # Errors
/// If it starts none.
pub(crate) fn startable(wanted: usize) -> io::Result<usize> {
    thread::scope(|scope| {
        // They wait until all of them have started.
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

/// The number of threads asked for, or else the number of cores.
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
                // Later items finish faster, so that outcomes arrive out of order.
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

    /// The calling thread is one of the workers, and all of them work at the same time.
    #[test]
    fn there_are_as_many_threads_as_workers() {
        for threads in [1, 2, 5] {
            let seen = Mutex::new(std::collections::HashSet::new());
            let see = || seen.lock().unwrap().insert(thread::current().id());
            let mut given = 0..300;
            let began = Instant::now();
            let work = |(): &mut (), _| {
                see();
                // No thread finishes before every thread has begun.
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
    fn the_first_error_ends_the_run_after_all_earlier_outcomes() {
        for threads in [1, 2, 5] {
            let (taken, result) = squares(threads, 300, Some(120));
            assert!(matches!(result, Err(Error::Interrupted)));
            assert_eq!(taken.len(), 120, "{threads}");
        }
    }

    #[test]
    fn an_error_of_the_sink_or_the_feed_ends_the_run_without_hanging() {
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
    fn startable_counts_the_wanted_threads() {
        assert_eq!([1, 5].map(|wanted| startable(wanted).unwrap()), [1, 5]);
    }

    /// A panic anywhere becomes an error with its message, and nobody waits for an outcome that never comes.
    #[test]
    fn a_panic_becomes_an_error_without_hanging() {
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

    /// An error also ends the run while every thread waits for a slot, as happens when the sink is slow.
    #[test]
    fn an_error_of_a_slow_sink_ends_the_run_without_hanging() {
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
