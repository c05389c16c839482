//! Which of several threads makes the next call to a simulated disk.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Random;

/// Lets several threads make calls one at a time, in an order that depends on a seed.
#[derive(Clone)]
pub struct Schedule {
    turn: Arc<(Mutex<Turn>, Condvar)>,
}

struct Turn {
    random: Random,
    running: Vec<usize>,
    now: usize,
    /// Whether a thread that was picked may make many calls before another is picked: much happens between two calls
    /// of another thread.
    bursts: bool,
    /// Calls that the thread may still make before another is picked.
    stays: u64,
}

impl Schedule {
    /// For threads 0 to `threads - 1`. Every third seed lets them make many calls in a row.
    pub fn new(seed: u64, threads: usize) -> Self {
        let mut random = Random(seed);
        let running: Vec<usize> = (0..threads).collect();
        let now = random.below(threads as u64) as usize;
        let turn = Turn { random, running, now, bursts: seed.is_multiple_of(3), stays: 0 };
        Schedule { turn: Arc::new((Mutex::new(turn), Condvar::new())) }
    }

    /// The thread makes no more calls. Every thread has to call this, or the others wait forever.
    pub fn leave(&self, thread: usize) {
        let (turn, changed) = &*self.turn;
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.running.retain(|&other| other != thread);
        turn.pick();
        changed.notify_all();
    }

    pub(super) fn wait_for_turn(&self, thread: usize) {
        let (turn, changed) = &*self.turn;
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turn = changed
            .wait_while(turn, |turn| turn.now != thread)
            .unwrap_or_else(PoisonError::into_inner);
        turn.pick();
        changed.notify_all();
    }
}

impl Turn {
    fn pick(&mut self) {
        if self.stays > 0 && self.running.contains(&self.now) {
            self.stays -= 1;
        } else if !self.running.is_empty() {
            let next = self.random.below(self.running.len() as u64) as usize;
            self.now = self.running[next];
            if self.bursts {
                let longest = 1 << self.random.below(7);
                self.stays = self.random.below(longest);
            }
        }
    }
}
