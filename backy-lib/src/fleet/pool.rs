//! Looks at archives side by side, and waits for none that does not answer: its disk may be dead, or the server of its
//! file system gone.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::error::{Error, Result, describe_io};

/// How many are looked at at a time. Most of the time is spent waiting for disks.
const WORKERS: usize = 16;
/// How long to wait for an answer when none comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happened to an item.
pub(super) enum Answer<T> {
    /// The result of the work.
    Got(T),
    /// There was no answer, and the work goes on in a thread of its own.
    None,
}

/// Does `work` on all items. The outcomes come in no order.
///
/// # Errors
/// The first error of the work; an error if not a single thread can be started.
pub(super) fn ask<Item, Outcome>(
    items: Vec<Item>,
    work: impl Fn(&Item) -> Result<Outcome> + Send + Sync + 'static,
) -> Result<Vec<(Item, Answer<Outcome>)>>
where
    Item: Clone + Send + 'static,
    Outcome: Send + 'static,
{
    ask_within(items, work, PATIENCE)
}

fn ask_within<Item, Outcome>(
    items: Vec<Item>,
    work: impl Fn(&Item) -> Result<Outcome> + Send + Sync + 'static,
    patience: Duration,
) -> Result<Vec<(Item, Answer<Outcome>)>>
where
    Item: Clone + Send + 'static,
    Outcome: Send + 'static,
{
    let mut left: BTreeMap<usize, Item> = items.iter().cloned().enumerate().collect();
    let answers = start(items, work)?;
    let mut all = Vec::with_capacity(left.len());
    while !left.is_empty() {
        match answers.recv_timeout(patience) {
            Ok((number, outcome)) => {
                if let Some(item) = left.remove(&number) {
                    all.push((item, Answer::Got(outcome?)));
                }
            }
            // A worker that panicked gives no answer.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    all.extend(left.into_values().map(|item| (item, Answer::None)));
    Ok(all)
}

fn start<Item, Outcome>(
    items: Vec<Item>,
    work: impl Fn(&Item) -> Result<Outcome> + Send + Sync + 'static,
) -> Result<Receiver<(usize, Result<Outcome>)>>
where
    Item: Send + 'static,
    Outcome: Send + 'static,
{
    let workers = WORKERS.min(items.len());
    let shared = Arc::new((Mutex::new(items.into_iter().enumerate()), work));
    let (give, take) = channel();
    for started in 0..workers {
        let (shared, give) = (Arc::clone(&shared), give.clone());
        let worker = move || {
            let next = || shared.0.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some((number, item)) = next() {
                // Nobody listens any more after an error.
                if give.send((number, (shared.1)(&item))).is_err() {
                    return;
                }
            }
        };
        match std::thread::Builder::new().spawn(worker) {
            Ok(_) => {}
            Err(_) if started > 0 => break,
            Err(error) => {
                let path = "/proc/self/task".into();
                let message = format!("cannot start a thread: {}", describe_io(&error));
                return Err(Error::Limit { path, message });
            }
        }
    }
    Ok(take)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hangs keeps nothing else waiting, and is named.
    #[test]
    fn one_that_hangs_holds_up_no_other() {
        let work = |item: &u32| {
            if *item == 7 {
                std::thread::sleep(Duration::from_secs(3600));
            }
            Ok(item * 2)
        };
        let answers = ask_within((0..100).collect(), work, Duration::from_millis(300)).unwrap();
        assert_eq!(answers.len(), 100);
        for (item, answer) in answers {
            match answer {
                Answer::Got(double) => assert_eq!(double, item * 2),
                Answer::None => assert_eq!(item, 7),
            }
        }
    }

    #[test]
    fn an_error_of_the_work_is_an_error() {
        let work = |item: &u32| if *item == 3 { Err(Error::Interrupted) } else { Ok(()) };
        assert!(ask((0..9).collect(), work).is_err());
        assert!(ask(Vec::new(), work).unwrap().is_empty());
    }
}
