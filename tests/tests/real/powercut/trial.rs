//! Which moments of a log are tried, and the disk of each.

use std::fs;
use std::path::{Path, PathBuf};

use backy_lib::storage::sim::Random;

use super::log::{Base, Kept};
use super::moment::{Moment, Witnesses};
use super::recorder::{Mounted, Recorded};
use super::workload::{Step, Steps};

/// A power cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Entries of the log that are durable, because a flush came after them.
    durable: usize,
    /// Entries up to the moment, the next flush not among them.
    end: usize,
    kept: Kept,
    /// Which of those in between are kept, and which sectors of them.
    seed: u64,
    /// How many steps had ended.
    ended: usize,
}

/// Chances of a write that was not flushed, in percent.
const KEPT: [Kept; 8] = [
    Kept::All,
    Kept::Some(10),
    Kept::Some(50),
    Kept::Some(50),
    Kept::Some(90),
    Kept::Torn(30),
    Kept::Torn(60),
    Kept::Torn(90),
];

/// A log, what was done, and where it is tried.
pub(crate) struct Trial {
    recorded: Recorded,
    steps: Steps,
    seed: u64,
    /// Entries of the log at the end of each step.
    marks: Vec<usize>,
}

impl Trial {
    pub(crate) fn new(recorded: Recorded, steps: Steps, seed: u64) -> Self {
        let entries = |step: &Step| recorded.log.entries_at(step.log_bytes);
        let marks = steps.steps.iter().map(entries).collect();
        Trial { recorded, steps, seed, marks }
    }

    /// In a few words.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} writes and flushes, {} of them flushes, in {} steps",
            self.recorded.log.len(),
            self.recorded.log.flushes().count(),
            self.steps.steps.len()
        )
    }

    /// Tries `count` moments. Returns how many it has tried.
    pub(crate) fn run(&mut self, count: usize) -> usize {
        let mut cuts = self.choose(count);
        cuts.sort_by_key(|cut| (cut.durable, cut.end));
        let folder = self.recorded.folder.path();
        let witnesses = Witnesses::write(&folder.join("witnesses"), &self.steps.content);
        let mut base = Base::new(&self.recorded.log, &folder.join("start"));
        let disk = folder.join("cut");
        let mut tried = 0;
        for (number, cut) in cuts.iter().enumerate() {
            base.advance(cut.durable);
            base.cut(&disk, cut.end, cut.kept, &mut Random(cut.seed));
            let failing = Failing { trial: self, base: &base, cut };
            self.try_one(cut, number, &disk, &witnesses);
            drop(failing);
            fs::remove_file(&disk).expect("remove the disk");
            tried += 1;
        }
        tried
    }

    fn try_one(&self, cut: &Cut, number: usize, disk: &Path, witnesses: &Witnesses) {
        let folder = self.recorded.folder.path();
        let mounted = Mounted::mount(self.recorded.kind, disk, &folder.join("after"));
        let mounted = mounted.unwrap_or_else(|words| panic!("it cannot be mounted: {words}"));
        // What had ended must be there, and what was under way may be.
        let before = &self.steps.steps[cut.ended - 1];
        let after = self.steps.steps.get(cut.ended).unwrap_or(before);
        let moment = Moment { before, after, steps: &self.steps, witnesses, number };
        moment.check(&mounted.path().join("archive"), &folder.join("source"));
    }

    /// Every flush and every end of a step, with nothing of what came later, and moments in between with a part of
    /// it. Each step gets as many as the others, as far as it has so many.
    fn choose(&self, count: usize) -> Vec<Cut> {
        let mut random = Random(self.seed);
        let mut by_step: Vec<Vec<Cut>> = self.marks.iter().map(|_| Vec::new()).collect();
        let last = self.marks.last().copied().unwrap_or(0);
        let mut flushes: Vec<usize> = vec![0];
        flushes.extend(self.recorded.log.flushes());
        flushes.push(self.recorded.log.len() + 1);
        let mut add = |durable: usize, end: usize, kept: Kept, seed: u64| {
            let ended = self.marks.iter().take_while(|&&mark| mark <= end).count();
            if let Some(cuts) = ended.checked_sub(1).and_then(|step| by_step.get_mut(step)) {
                cuts.push(Cut { durable, end, kept, seed, ended });
            }
        };
        // The first round covers every flush; after that, more in between.
        for round in 0..=count / flushes.len() {
            for pair in flushes.windows(2) {
                let &[durable, next] = pair else { continue };
                let open = next - 1 - durable;
                if round == 0 {
                    add(durable, durable, Kept::None, 0);
                    for &mark in self.marks.iter().filter(|&&mark| durable < mark && mark < next) {
                        add(durable, mark, Kept::None, 0);
                    }
                }
                if open > 0 && durable < last {
                    let end = durable + 1 + random.below(open as u64) as usize;
                    let kept = KEPT[random.below(KEPT.len() as u64) as usize];
                    add(durable, end, kept, random.number());
                }
            }
        }
        let mut chosen = Vec::new();
        while chosen.len() < count && by_step.iter().any(|cuts| !cuts.is_empty()) {
            let mut steps: Vec<&mut Vec<Cut>> =
                by_step.iter_mut().filter(|cuts| !cuts.is_empty()).collect();
            while let Some(number) = (steps.len() as u64).checked_sub(1)
                && chosen.len() < count
            {
                let cuts = steps.swap_remove(random.below(number + 1) as usize);
                chosen.push(cuts.swap_remove(random.below(cuts.len() as u64) as usize));
            }
        }
        chosen
    }

    fn describe_cut(&self, cut: &Cut) -> String {
        let name =
            |number: usize| self.steps.steps.get(number).map_or("the end", |step| &step.name);
        format!(
            "{} with seed {}: power cut {} entries into the log, of which {} are durable and the others \
             kept as {:?}; '{}' had ended, and '{}' had not",
            self.recorded.kind,
            self.seed,
            cut.end,
            cut.durable,
            cut.kept,
            name(cut.ended - 1),
            name(cut.ended),
        )
    }
}

/// Prints where it was when the test panics, and keeps the disk as it was after the power cut.
struct Failing<'a> {
    trial: &'a Trial,
    base: &'a Base<'a>,
    cut: &'a Cut,
}

impl Drop for Failing<'_> {
    #[expect(clippy::print_stderr, reason = "the test's own report")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Cut { end, kept, seed, .. } = *self.cut;
        let name = format!("powercut-{}-{}-{end}.raw", self.trial.recorded.kind, self.trial.seed);
        let kept_as = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        self.base.cut(&kept_as, end, kept, &mut Random(seed));
        eprintln!("at {}", self.trial.describe_cut(self.cut));
        eprintln!("its disk is kept as {}", kept_as.display());
    }
}
