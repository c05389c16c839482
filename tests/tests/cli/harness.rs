//! A folder for each test, and the command run in it with its own environment.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backy_lib::Digest;
use backy_tests::checker;
pub(crate) use backy_tests::command::{Run, is_root, program, tool};
pub(crate) use backy_tests::world::noise;
use serde_json::Value;
use tempfile::TempDir;

/// An odd size, so that the last block is short.
pub(crate) const SOURCE_BYTES: usize = 1_500_003;

/// How long a test waits for another process.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with `source.img` and, mostly, the archive `a` for it.
pub(crate) struct Scene {
    folder: TempDir,
    /// Whether the test has asked for the path of a file in the archive, as it does to damage it.
    may_be_damaged: Cell<bool>,
}

impl Drop for Scene {
    /// Whatever a test has done with the command, the archive matches the format document.
    fn drop(&mut self) {
        if std::thread::panicking() || self.may_be_damaged.get() {
            return;
        }
        if let Ok(Some(problems)) = checker::check_folder(&self.folder.path().join("a")) {
            assert_eq!(problems, Vec::<String>::new(), "the archive against the format");
        }
    }
}

impl Scene {
    /// Only a source.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let scene = Scene { folder, may_be_damaged: Cell::new(false) };
        scene.write("source.img", &noise(1, SOURCE_BYTES));
        scene
    }

    /// With an empty archive.
    pub(crate) fn with_archive() -> Self {
        let scene = Scene::new();
        scene.works(&["-b", "a", "init", "source.img"]);
        scene
    }

    /// With revisions. The returned bytes are what each should be, newest first.
    pub(crate) fn with_revisions(count: u64) -> (Self, Vec<Vec<u8>>) {
        let scene = Scene::with_archive();
        let mut states = Vec::new();
        for number in 0..count {
            let state = scene.change_source(number);
            scene.works(&["-b", "a", "backup", "--force"]);
            states.insert(0, state);
        }
        (scene, states)
    }

    /// Overwrites a part of the source, a different one for each `number`. Returns its new content.
    pub(crate) fn change_source(&self, number: u64) -> Vec<u8> {
        let mut state = self.read("source.img");
        let from = 70_000 * (number as usize + 1);
        state[from..from + 100_000].copy_from_slice(&noise(number + 2, 100_000));
        self.write("source.img", &state);
        state
    }

    /// The test damages the archive by other means.
    pub(crate) fn damages_the_archive(&self) {
        self.may_be_damaged.set(true);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let harmless = ["a/backy.toml", "a/lock", "a/history.jsonl"];
        if name.starts_with("a/") && !harmless.contains(&name) {
            self.may_be_damaged.set(true);
        }
        self.folder.path().join(name)
    }

    pub(crate) fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path of text").to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).expect("write a file");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).expect("read a file")
    }

    pub(crate) fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("a file of text")
    }

    /// The one file of the archive whose name ends so.
    pub(crate) fn file_of_archive(&self, suffix: &str) -> String {
        let entries = self.path("a").read_dir().expect("list the archive").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| format!("a/{}", entry.file_name().to_string_lossy()))
            .filter(|name| name.ends_with(suffix))
            .collect();
        assert_eq!(names.len(), 1, "{suffix}: {names:?}");
        names.remove(0)
    }

    /// `backy` with `args`, ready to run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_under(&[], args)
    }

    /// The same, started by another program such as `setpriv`.
    pub(crate) fn command_under(&self, starter: &[&str], args: &[&str]) -> Command {
        let words: Vec<&str> =
            starter.iter().copied().chain([program()]).chain(args.iter().copied()).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TZ", "UTC")
            .env("TERM", "xterm-256color")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.command(args).output().expect("run backy").into()
    }

    /// Runs a command that has to work.
    pub(crate) fn works(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.status, Some(0), "{args:?}: {run:?}");
        run
    }

    /// Runs a command that has to be refused: exit status 1, nothing on standard output, one line on standard error
    /// with each of `words` and with what to do, and no file changed. Returns the line.
    pub(crate) fn refuses(&self, args: &[&str], words: &[&str]) -> String {
        self.refuses_run(self.command(args), words)
    }

    pub(crate) fn refuses_run(&self, command: Command, words: &[&str]) -> String {
        let before = self.state();
        let message = self.fails_run(command, words);
        assert_eq!(before, self.state(), "it changed something: {message}");
        message
    }

    /// A command that fails with a line that has these words. What it did before stays.
    pub(crate) fn fails(&self, args: &[&str], words: &[&str]) -> String {
        self.fails_run(self.command(args), words)
    }

    fn fails_run(&self, mut command: Command, words: &[&str]) -> String {
        let run: Run = command.output().expect("run backy").into();
        assert_eq!(run.status, Some(1), "{command:?}: {run:?}");
        assert_eq!(run.text(), "", "{command:?}");
        let line = run.stderr.strip_suffix('\n').expect("a line");
        assert!(!line.contains('\n'), "more than one line: {}", run.stderr);
        let message = line.strip_prefix("backy: error: ").expect("it says who and that it is one");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
        assert!(message.contains("; "), "no advice: {message}");
        message.to_owned()
    }

    /// Every file in the scene with its kind, permissions, size and digest.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        list(self.folder.path(), &mut found);
        found
    }

    /// The same without the log of operations, which also has the failed ones.
    pub(crate) fn state(&self) -> BTreeMap<PathBuf, String> {
        let mut found = self.listing();
        found.retain(|path, _| !path.ends_with("history.jsonl"));
        found
    }

    /// Checks that the archive has exactly these revisions, newest first, to the byte.
    pub(crate) fn holds(&self, states: &[impl AsRef<[u8]>]) {
        let status = self.works(&["-b", "a", "status", "--json"]).json();
        assert_eq!(status["revisions"].as_array().map(Vec::len), Some(states.len()), "{status}");
        for (number, state) in states.iter().enumerate() {
            let restored = self.works(&["-b", "a", "restore", "-r", &number.to_string(), "-"]);
            assert!(restored.stdout == state.as_ref(), "revision {number} is not what it was");
        }
    }

    /// Waits until an archive's status is as expected.
    pub(crate) fn await_status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.works(&["-b", "a", "status", "--json"]).json();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited in vain: {status}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn list(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in folder.read_dir().expect("list a folder").flatten() {
        let path = entry.path();
        let metadata = path.symlink_metadata().expect("metadata");
        let content = if metadata.is_dir() {
            list(&path, found);
            String::new()
        } else if metadata.is_symlink() {
            format!("{:?}", fs::read_link(&path).expect("a link"))
        } else if metadata.is_file() {
            Digest::of(&fs::read(&path).expect("read a file")).to_string()
        } else {
            String::new()
        };
        let what = format!("{:o} {} {content}", metadata.mode(), metadata.nlink());
        found.insert(path, what);
    }
}
