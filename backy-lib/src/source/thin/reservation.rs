//! The metadata snapshot of a pool: a pool has one at most, it stays until somebody releases it, and nothing says who
//! has reserved it.
//!
//! So backy locks the device with the metadata, by which another backy on this host knows that it is in use, and gives
//! the pool a tag before it reserves. Where nobody has the lock and the tag is there, a backup was killed: what it has
//! left is released. What is reserved without the tag is somebody else's, and stays.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::lvm::Lvm;
use super::volumes::Pool;
use crate::base::error::describe_io;
use crate::base::fork::Withheld;

/// The tag of a pool whose metadata backy has reserved.
pub(super) const TAG: &str = "backy-reserved";

/// How long to wait for another backup that uses the same pool.
const WITHIN: Duration = Duration::from_secs(10 * 60);

const TICK: Duration = Duration::from_millis(50);

type Answer<T> = std::result::Result<T, String>;

/// Reserved until it is released.
pub(super) struct Reservation<'l> {
    lvm: &'l Lvm,
    pool: Pool,
    is_over: bool,
    /// Others may reserve when this is gone.
    _lock: Withheld<File>,
}

impl<'l> Reservation<'l> {
    /// Reserves the metadata of a pool, as they are now.
    pub(super) fn take(lvm: &'l Lvm, pool: &Pool) -> Answer<Self> {
        let Some(lock) = lock(pool, WITHIN)? else {
            return Err(format!("another backup has used the pool '{}' for too long", pool.name));
        };
        // Another backup may have changed its tags meanwhile.
        let pool = lvm.list()?.pool(&pool.name)?;
        tidy(lvm, &pool)?;
        if let Some(block) = lvm.reserved(&pool)? {
            return Err(format!(
                "another program has reserved the metadata of the pool '{0}' (block {block}); if nothing uses them any \
                 more, release them with 'dmsetup message {1} 0 release_metadata_snap'",
                pool.name, pool.mapped
            ));
        }
        lvm.change(&[&format!("--addtag={TAG}")], &pool.name)?;
        let made = Reservation { lvm, pool, is_over: false, _lock: lock };
        match made.lvm.message(&made.pool, "reserve_metadata_snap") {
            Ok(()) => Ok(made),
            Err(why) => Err(made.failed(why)),
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// It was not reserved, unless the program was stopped after it had done that.
    fn failed(mut self, why: String) -> String {
        self.is_over = true;
        let why =
            format!("the metadata of the pool '{}' cannot be reserved: {why}", self.pool.name);
        match untag(self.lvm, &self.pool) {
            Ok(()) => why,
            Err(more) => format!("{why}; {more}"),
        }
    }

    pub(super) fn release(mut self) -> Answer<()> {
        self.is_over = true;
        end(self.lvm, &self.pool)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // The tag stays if it does not work: the next backup tries again.
            let _ = end(self.lvm, &self.pool);
        }
    }
}

/// Releases what a killed backup has left, unless a backup is using it now.
pub(super) fn tidy_unless_in_use(lvm: &Lvm, pool: &Pool) -> Answer<()> {
    if !is_tagged(pool) {
        return Ok(());
    }
    let Some(_lock) = lock(pool, Duration::ZERO)? else { return Ok(()) };
    tidy(lvm, &lvm.list()?.pool(&pool.name)?)
}

/// The same for who has the lock.
fn tidy(lvm: &Lvm, pool: &Pool) -> Answer<()> {
    match is_tagged(pool) {
        false => Ok(()),
        true if lvm.reserved(pool)?.is_some() => end(lvm, pool),
        true => untag(lvm, pool),
    }
}

fn end(lvm: &Lvm, pool: &Pool) -> Answer<()> {
    lvm.message(pool, "release_metadata_snap")
        .map_err(|why| format!("the metadata of the pool '{}' stay reserved: {why}", pool.name))?;
    untag(lvm, pool)
}

fn untag(lvm: &Lvm, pool: &Pool) -> Answer<()> {
    let removed = lvm.change(&[&format!("--deltag={TAG}")], &pool.name);
    removed.map_err(|why| format!("the pool '{}' keeps its tag '{TAG}': {why}", pool.name))
}

fn is_tagged(pool: &Pool) -> bool {
    pool.tags.iter().any(|tag| tag == TAG)
}

/// Locks the metadata of a pool against other backups; `None` if one of them has used it all the time.
fn lock(pool: &Pool, within: Duration) -> Answer<Option<Withheld<File>>> {
    let path = pool.metadata.display();
    let file = File::open(&pool.metadata)
        .map_err(|error| format!("cannot open {path}: {}", describe_io(&error)))?;
    let file = Withheld::new(file);
    let began = Instant::now();
    loop {
        match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if began.elapsed() >= within => return Ok(None),
            Err(Errno::WOULDBLOCK) => thread::sleep(TICK),
            Err(errno) => {
                return Err(format!("cannot lock {path}: {}", describe_io(&errno.into())));
            }
        }
    }
}
