//! What happens to the archive while the device is logged, and what has to be there after each step.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use backy_tests::world::Expected;
use serde_json::Value;

use super::recorder::Recorder;
use super::writeback::Writeback;
use crate::site::{BLOCK_BYTES, Site, noise, run, states, text, words, works};

/// Odd sizes that grow and shrink. One is long, so that its backups have several batches.
const SIZES: [usize; 10] = [
    20 * BLOCK_BYTES,
    33 * BLOCK_BYTES + 4099,
    12 * BLOCK_BYTES - 1,
    320 * BLOCK_BYTES + 700,
    25 * BLOCK_BYTES - 512,
    30 * BLOCK_BYTES + 5,
    22 * BLOCK_BYTES,
    28 * BLOCK_BYTES - 100,
    16 * BLOCK_BYTES + 1,
    24 * BLOCK_BYTES,
];
/// Which of them is long.
const LONG: usize = 3;

/// Equal blocks of every state, so that one can be repaired from the other.
const TWINS: [usize; 2] = [3, 8];

/// A step that has ended.
pub(crate) struct Step {
    pub(crate) name: String,
    /// The revisions that have to be there from its end on, newest first; none before there is an archive.
    pub(crate) revisions: Option<Vec<String>>,
    /// The revision from which on they read right or not at all, because something was damaged on purpose.
    pub(crate) damaged_from: Option<usize>,
    /// How long the log was at its end.
    pub(crate) log_bytes: u64,
}

/// All steps, and the content of each revision that ever existed.
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    pub(crate) content: BTreeMap<String, Expected>,
    /// For the backup after a power cut.
    pub(crate) next: Vec<u8>,
}

/// Runs all steps.
pub(crate) fn run_all(recorder: &Recorder, seed: u64) -> Steps {
    let mut states = states(seed, &SIZES);
    let twin = noise(seed ^ 0x7417, BLOCK_BYTES);
    for state in &mut states {
        for number in TWINS {
            state[number * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&twin);
        }
    }
    let long = noise(seed ^ 0x1017, states[LONG].len());
    let kept = (TWINS[1] + 1) * BLOCK_BYTES;
    states[LONG][kept..].copy_from_slice(&long[kept..]);
    let next = states.pop().expect("a state for the next backup");
    let source = recorder.folder().join("source");
    fs::write(&source, &states[0]).expect("write the source");
    let folder = recorder.path().join("archive");
    let mut work = Work {
        recorder,
        site: Site { folder, source, expected: Vec::new() },
        steps: Steps { steps: Vec::new(), content: BTreeMap::new(), next },
        damaged_from: None,
        seed,
    };
    work.ended("mount", false);
    work.init();
    work.all(&states);
    work.steps
}

struct Work<'a> {
    recorder: &'a Recorder,
    site: Site,
    steps: Steps,
    damaged_from: Option<usize>,
    seed: u64,
}

impl Work<'_> {
    fn all(&mut self, states: &[Vec<u8>]) {
        for state in &states[..4] {
            self.backup(state);
        }
        self.command(&["tag", "1", "+kept"]);
        self.backup(&states[4]);
        // The long one is deleted, so that its blocks move to its older neighbour.
        self.command(&["rm", "1"]);
        self.backup(&states[5]);
        self.command(&["rm", "0"]);
        self.zero_a_header();
        self.scrub();
        self.backup(&states[6]);
        self.flip_a_byte();
        self.scrub();
        self.configure("max_chain = 3");
        self.backup(&states[7]);
        self.command(&["maintenance"]);
        self.command(&["maintenance", "-k", "3"]);
        self.backup(&states[8]);
    }

    /// Remembers what has to be there from now on. Nothing is synced here: what a command reports as durable has to
    /// be.
    fn ended(&mut self, name: &str, has_archive: bool) {
        let log_bytes = self.recorder.log_bytes();
        let revisions = has_archive.then(|| self.site.committed());
        self.steps.steps.push(Step {
            name: name.to_owned(),
            revisions,
            damaged_from: self.damaged_from,
            log_bytes,
        });
    }

    fn init(&mut self) {
        works(&mut self.site.backy(&["init", text(&self.site.source)]));
        self.ended("init", true);
    }

    fn backup(&mut self, state: &[u8]) {
        self.site.write_source(state);
        let _writeback = self.writeback();
        let report = works(&mut self.site.backy(&["backup", "--force", "--json"]));
        let report: Value = serde_json::from_slice(&report).expect("a report in JSON");
        let name = report["revision"]["uuid"].as_str().expect("a revision");
        let uuid = name.parse().expect("a UUID");
        self.ended(&format!("backup of {} bytes", state.len()), true);
        let expected = Expected { uuid, bytes: state.to_vec() };
        self.steps.content.insert(name.to_owned(), expected);
    }

    fn command(&mut self, args: &[&str]) {
        let before = self.site.committed();
        let _writeback = self.writeback();
        works(&mut self.site.backy(args));
        self.ended(&args.join(" "), true);
        assert!(
            args[0] != "rm" || self.site.committed().len() < before.len(),
            "{args:?} removes nothing"
        );
    }

    /// Beside every other step, that of the long backup among them. Without it more is lost, with it more comes in
    /// another order.
    fn writeback(&self) -> Option<Writeback> {
        let number = self.steps.steps.len();
        let seed = self.seed ^ number as u64;
        (!number.is_multiple_of(2)).then(|| Writeback::of(&self.site.folder, seed))
    }

    /// Finds something, which is exit status 1, and repairs it.
    fn scrub(&mut self) {
        let writeback = self.writeback();
        let output = run(&mut self.site.backy(&["scrub"]));
        drop(writeback);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        self.damaged_from = None;
        self.ended("scrub", true);
        works(&mut self.site.backy(&["scrub", "-n"]));
    }

    fn zero_a_header(&mut self) {
        const NUMBER: usize = 2;
        let name = self.site.committed()[NUMBER].clone();
        self.damage(&format!("{name}.qcow2"), &[0; 512], 0);
        self.damaged_from = Some(NUMBER);
        self.ended("a header is zeroed", true);
    }

    fn flip_a_byte(&mut self) {
        let offset = (TWINS[0] * BLOCK_BYTES + 1000) as u64;
        let image = File::open(self.site.folder.join("last.raw")).expect("open last.raw");
        let mut byte = [0];
        image.read_exact_at(&mut byte, offset).expect("read a byte");
        self.damage("last.raw", &[!byte[0]], offset);
        self.damaged_from = Some(0);
        self.ended("a byte is flipped", true);
    }

    fn damage(&self, name: &str, bytes: &[u8], offset: u64) {
        let path = self.site.folder.join(name);
        let file = File::options().write(true).open(path).expect("open a file of the archive");
        file.write_all_at(bytes, offset).expect("damage it");
        file.sync_all().expect("sync the damage");
    }

    /// Adds a line to the config, in front of its tables, as a careful editor does.
    fn configure(&mut self, line: &str) {
        let config = self.site.folder.join("backy.toml");
        let text = fs::read_to_string(&config).expect("read backy.toml");
        // Not in the archive's folder, where a power cut would leave it as an unknown file.
        let aside = self.recorder.path().join("config");
        let mut file = File::create(&aside).expect("write the config aside");
        file.write_all(format!("{line}\n{text}").as_bytes()).expect("write the config");
        file.sync_all().expect("sync the config");
        fs::rename(&aside, &config).expect("put the config in place");
        File::open(&self.site.folder)
            .and_then(|folder| folder.sync_all())
            .expect("sync the folder");
        self.ended(line, true);
    }
}
