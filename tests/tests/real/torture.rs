//! Commands killed at random times and at random syncs, over and over, beside a reader and a mount that never stop.
//!
//! `make torture ROUNDS=1000` runs it for long. The seed is printed, and `SEED=` repeats the commands of a run,
//! though not the moments at which the kernel kills them.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::Duration;

use backy_lib::RevisionId;
use backy_lib::storage::sim::Random;
use backy_tests::world::fill_block;

use crate::kill::{KILL, Told};
use crate::mounted::Mount;
use crate::processes::Running;
use crate::readers::{Done, Truth, read_a_mount_on_and_on, restore_on_and_on};
use crate::site::{BLOCK_BYTES, Site, states, works};
use crate::strace;
use crate::ways::{Way, both_ways};

/// Rounds of each of the two tests in a normal run.
const ROUNDS: u64 = 20;
/// Above this number of revisions, some are deleted.
const MAX_REVISIONS: usize = 8;
/// Calls at which a command is killed, and up to which of them: about as many as most commands make. Syncs are
/// the most.
const CALLS: [(&str, u64); 7] = [
    ("fdatasync", 9),
    ("fdatasync", 4),
    ("fsync", 4),
    ("renameat", 2),
    ("pwrite64", 12),
    ("unlinkat", 2),
    ("fallocate", 1),
];

/// A number from the environment.
pub(crate) fn wanted(name: &str) -> Option<u64> {
    let value = std::env::var_os(name)?;
    let number = value.to_str().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{name}: expected a number, found {value:?}")))
}

/// What is done in a round.
#[derive(Debug, Clone)]
enum Operation {
    Backup,
    /// `rm` of revisions, by their numbers.
    Remove(Vec<usize>),
    /// `maintenance -k`, which may delete the revisions with these numbers.
    Maintain(u64, Vec<usize>),
    Scrub,
    /// Pins a revision, or unpins it when `false`.
    Tag(RevisionId, bool),
}

/// The archive, its source, and what is known of it.
struct Torture<'a> {
    place: &'a Path,
    site: Site,
    truth: &'a Truth,
    random: Random,
    source: Vec<u8>,
    pinned: BTreeSet<RevisionId>,
    kills: u64,
    syncs: u64,
}

impl Torture<'_> {
    /// Another operation that fits the current state.
    fn choose(&mut self) -> Operation {
        let count = self.site.expected.len();
        let free = |number: &usize| !self.pinned.contains(&self.site.expected[*number].uuid);
        let free: Vec<usize> = (0..count).filter(free).collect();
        let pick =
            |random: &mut Random, from: &[usize]| from[random.below(from.len() as u64) as usize];
        match self.random.below(10) {
            _ if count > MAX_REVISIONS => self.maintain(MAX_REVISIONS as u64 / 2),
            _ if count < 3 => Operation::Backup,
            0 if free.contains(&0) => Operation::Remove(vec![0]),
            1 | 2 if free.len() > 2 => {
                let mut numbers: Vec<usize> = vec![pick(&mut self.random, &free[1..])];
                let next = numbers[0] + 1;
                if self.random.flip() && free.contains(&next) {
                    numbers.push(next);
                }
                Operation::Remove(numbers)
            }
            3 => {
                let keep = 2 + self.random.below(count as u64 - 1);
                self.maintain(keep)
            }
            4 => Operation::Scrub,
            5 => {
                let uuid = self.site.expected[self.random.below(count as u64) as usize].uuid;
                match (self.pinned.contains(&uuid), self.pinned.first()) {
                    (true, _) => Operation::Tag(uuid, false),
                    (false, Some(first)) if self.pinned.len() == 2 => Operation::Tag(*first, false),
                    _ => Operation::Tag(uuid, true),
                }
            }
            _ => Operation::Backup,
        }
    }

    fn maintain(&self, keep: u64) -> Operation {
        let may_go = |number: &usize| !self.pinned.contains(&self.site.expected[*number].uuid);
        let may_go = (keep as usize..self.site.expected.len()).filter(may_go).collect();
        Operation::Maintain(keep, may_go)
    }

    /// The command. For a backup, the source has another content by then.
    fn command(&mut self, operation: &Operation) -> Command {
        let name = |number: &usize| self.site.expected[*number].uuid.to_string();
        match operation {
            Operation::Backup => {
                self.change_source();
                self.site.write_source(&self.source);
                self.site.backy(&["backup", "--force"])
            }
            Operation::Remove(numbers) => {
                let names: Vec<String> = numbers.iter().map(name).collect();
                self.site.backy(&["rm", &names.join(",")])
            }
            Operation::Maintain(keep, _) => {
                self.site.backy(&["maintenance", "-k", &keep.to_string()])
            }
            Operation::Scrub => self.site.backy(&["scrub"]),
            Operation::Tag(uuid, pin) => {
                let change = if *pin { "+keep" } else { "-keep" };
                self.site.backy(&["tag", &uuid.to_string(), change])
            }
        }
    }

    /// Some blocks change, and in one of four cases the size does.
    fn change_source(&mut self) {
        if self.random.below(4) == 0 {
            let size = BLOCK_BYTES as u64 * 8 + self.random.below(BLOCK_BYTES as u64 * 16);
            self.source.resize(size as usize, 0);
        }
        let most = 1 + self.random.below(4);
        for block in self.source.chunks_mut(BLOCK_BYTES) {
            if self.random.below(5) < most {
                fill_block(&mut self.random, block);
            }
        }
    }

    /// Runs a command and kills it, at a random call or after a random time, unless it has ended by then.
    fn kill(&mut self, mut command: Command) {
        if self.random.flip() {
            let (call, most) = CALLS[self.random.below(CALLS.len() as u64) as usize];
            let what = format!("{KILL}:when={}", 1 + self.random.below(most));
            let outcome = strace::inject(&command, call, &what, self.place);
            if outcome.output.status.signal() == Some(9) {
                self.syncs += 1;
                self.kills += 1;
            } else {
                assert!(outcome.output.status.success(), "{:?}", outcome.output);
            }
            return;
        }
        let mut running = Running::start(&mut command);
        sleep(Duration::from_micros(self.random.below(60_000)));
        running.0.kill().expect("kill it");
        let status = running.0.wait().expect("wait for it");
        assert!(status.success() || status.signal() == Some(9), "{status}");
        self.kills += u64::from(status.signal() == Some(9));
    }

    /// Records what a command may have done. Everything committed reads right, before any repair.
    fn look_after(&mut self, operation: &Operation) {
        let (may_go, maybe): (&[usize], _) = match operation {
            Operation::Backup => (&[], Some(self.source.as_slice())),
            Operation::Remove(numbers) | Operation::Maintain(_, numbers) => (numbers, None),
            Operation::Scrub | Operation::Tag(..) => (&[], None),
        };
        self.site.reconcile(may_go, maybe);
        self.truth.learn(&self.site);
        self.site.check_here();
        if let Operation::Tag(uuid, _) = operation {
            let archive = backy_lib::Archive::open(&self.site.folder).expect("open the archive");
            let mut revisions = archive.revisions().iter();
            let revision = revisions.find(|revision| revision.uuid == *uuid).expect("it is there");
            match revision.pinned_tags.is_empty() {
                true => self.pinned.remove(uuid),
                false => self.pinned.insert(*uuid),
            };
        }
    }

    fn round(&mut self, number: u64) {
        // In one of three cases the next command is killed, too, perhaps in the middle of undoing the first.
        loop {
            let operation = self.choose();
            let told = Told(format!("round {number}: {operation:?} is killed"));
            let command = self.command(&operation);
            self.kill(command);
            self.look_after(&operation);
            drop(told);
            if self.random.below(3) > 0 {
                break;
            }
        }
        let operation = self.choose();
        let told = Told(format!("round {number}: {operation:?} afterwards"));
        let mut command = self.command(&operation);
        works(&mut command);
        self.look_after(&operation);
        match number % 10 {
            0 => self.site.check_at_rest(),
            _ => self.site.check_at_rest_here(),
        }
        drop(told);
    }
}

/// Whatever is killed at any time: every committed revision reads right, a reader and a mount beside it never see a
/// wrong byte, and the next command works.
#[expect(clippy::print_stderr, reason = "the seed has to be known, and the figures are the result")]
fn archive_survives_kills_at_any_time(place: &Path, way: Way) {
    if !strace::available() {
        return;
    }
    let rounds = wanted("BACKY_TORTURE_ROUNDS").map_or(ROUNDS, |all| all.div_ceil(2));
    let by_chance = || RandomState::new().build_hasher().finish() >> 12;
    let seed = wanted("BACKY_TORTURE_SEED").unwrap_or_else(by_chance);
    eprintln!("torture {way:?}: BACKY_TORTURE_SEED={seed}, {rounds} rounds");
    let states = states(seed, &[20 * BLOCK_BYTES - 100, 23 * BLOCK_BYTES, 17 * BLOCK_BYTES + 5]);
    let site = Site::with_backups(place, &states);
    let Some(mount) = Mount::make(&site, &["--cache", "2M"]) else { return };
    let truth = Truth::of(&site);
    let done = AtomicBool::new(false);
    let log = place.join("log");
    fs::create_dir(&log).expect("make a folder");
    std::thread::scope(|scope| {
        let restores = scope.spawn(|| {
            let _done = Done(&done);
            restore_on_and_on(&truth, seed + 1, &done)
        });
        let reads = scope.spawn(|| {
            let _done = Done(&done);
            read_a_mount_on_and_on(&truth, &mount.on.path, seed + 2, &done)
        });
        let source = states[states.len() - 1].clone();
        let mut torture = Torture {
            place: &log,
            site,
            truth: &truth,
            random: Random(seed),
            source,
            pinned: BTreeSet::new(),
            kills: 0,
            syncs: 0,
        };
        let end = Done(&done);
        for number in 1..=rounds {
            torture.round(number);
            assert!(!restores.is_finished() && !reads.is_finished(), "a reader has failed");
        }
        drop(end);
        let restores = restores.join().expect("a reader has failed");
        let reads = reads.join().expect("a reader of the mount has failed");
        torture.site.check_at_rest();
        works(&mut torture.site.backy(&["scrub", "-n"]));
        let Torture { kills, syncs, .. } = torture;
        eprintln!(
            "torture {way:?}: {rounds} rounds, {kills} commands killed, {syncs} of them at a chosen call; \
             {restores} restores and {reads} reads of the mount beside them, all right"
        );
        // Most are. With so few rounds, chance decides by how many it is fewer.
        assert!(kills >= rounds / 4, "only {kills} commands were killed");
        assert!(
            restores >= rounds / 4 && reads >= rounds / 4,
            "{restores} restores, {reads} reads"
        );
    });
    mount.unmount();
}
both_ways!(archive_survives_kills_at_any_time(place, way));
