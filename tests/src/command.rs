//! Running the command under test, and other programs: what the tests of `cli`, `real` and `engine` share.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The result of a command.
#[derive(Debug)]
pub struct Run {
    /// The exit status. `None` after a signal.
    pub status: Option<i32>,
    /// What it printed as its result.
    pub stdout: Vec<u8>,
    /// What it printed on standard error.
    pub stderr: String,
}

impl Run {
    /// Its result as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("standard output is text")
    }

    /// Its result as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).expect("standard output is JSON")
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("standard error is text");
        Run { status: output.status.code(), stdout: output.stdout, stderr }
    }
}

/// The binary under test. Cargo builds it beside the folder of the tests' own programs, which may run without cargo.
pub fn program() -> &'static str {
    built("backy-under-test")
}

/// Another binary of this package.
pub fn built(name: &str) -> &'static str {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("the path of this program");
        test.ancestors().nth(2).expect("target/PROFILE/deps").to_owned()
    });
    let path = FOLDER.join(name);
    assert!(path.exists(), "{}: cargo has not built it", path.display());
    text(&path).to_owned().leak()
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// `backy -b FOLDER ARGS`
pub fn backy(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("-b").arg(folder).args(args).stdin(Stdio::null());
    command
}

/// Runs a command to its end, of which only the program and the arguments count. Kills one that hangs.
pub fn run(command: &mut Command) -> Output {
    let mut limited = Command::new("timeout");
    limited.args(["--signal=KILL", "120"]).arg(command.get_program()).args(command.get_args());
    limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: io::Error| -> Output { panic!("{command:?}: {error}") };
    let child = match limited.spawn() {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    // A process that it leaves in the background may keep its output open forever.
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(Duration::from_secs(130)) {
        Ok(output) => output.unwrap_or_else(failed),
        Err(_) => panic!("{command:?}: its output does not end"),
    }
}

/// Runs a command that has to work. Returns what it prints.
pub fn works(command: &mut Command) -> Vec<u8> {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, all_words(&output));
    output.stdout
}

/// Runs a command that unmounts something until it works, a minute at most. A file that a test has closed stays in use
/// for as long as a process that another test starts in the same moment has not executed its program yet: it has all
/// files of the tests until then. The kernel may also still be detaching a loop device.
pub fn unmounts(command: &mut Command) {
    let began = Instant::now();
    loop {
        let output = run(command);
        if output.status.success() {
            return;
        }
        let words = all_words(&output);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{command:?}: {}: {words}",
            output.status
        );
        sleep(Duration::from_millis(10));
    }
}

/// Runs a command that has to fail with exit status 1 and one line, which this returns.
pub fn fails(command: &mut Command) -> String {
    let output = run(command);
    failed(&output);
    words(&output)
}

/// Checks that a command failed with exit status 1 and one line.
pub fn failed(output: &Output) {
    let words = words(output);
    assert_eq!(output.status.code(), Some(1), "{}: {words}", output.status);
    assert_eq!(words.lines().count(), 1, "expected one line, found: {words}");
}

/// What a command printed on standard error.
pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The same, and what it printed as its result, if that is not an image.
fn all_words(output: &Output) -> String {
    let result = String::from_utf8_lossy(&output.stdout);
    words(output) + if result.len() < 10_000 { &result } else { "" }
}

/// Runs another program that the test relies on. `None` when it is not installed.
pub fn tool(program: &str, args: &[&str]) -> Option<Run> {
    let mut command = Command::new(program);
    command.args(args).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    match command.output() {
        Ok(output) => Some(output.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
