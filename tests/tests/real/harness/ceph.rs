//! A Ceph cluster for tests, on this machine alone: a monitor, a manager, one disk, and a file system with its
//! metadata server or a pool for images. It listens on 127.0.0.1 only, asks for no keys, and ends with its value. If
//! the test is killed, the kernel ends the daemons.

use std::fmt::Write;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use backy_tests::qemu::{self, skipped};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::mounted::{Mountpoint, fuse_available};
use crate::site::{run, text, words, works};

/// Debian has them in `ceph-mon`, `ceph-mgr`, `ceph-osd` and what these depend on.
const PROGRAMS: [&str; 6] = ["ceph", "rbd", "monmaptool", "ceph-mon", "ceph-mgr", "ceph-osd"];

/// What a file system needs besides; in `ceph-mds` and `ceph-fuse`.
const FILE_SYSTEM: [&str; 2] = ["ceph-mds", "ceph-fuse"];

/// The pool for images.
pub(crate) const POOL: &str = "images";

/// How long any state may take to come about. It takes seconds unless the machine has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Space in the cluster, which is memory as far as it is used.
const DISK_BYTES: u64 = 8 << 30;

/// After this time without a sign of life a client loses its locks: the shortest that Ceph allows.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// The lines of a log that a failure shows.
const SHOWN_LINES: usize = 15;

/// A running cluster.
pub(crate) struct Cluster {
    folder: TempDir,
    daemons: Vec<Child>,
}

/// A mounted file system of the cluster, as a client of its own.
pub(crate) struct FsMount {
    on: Mountpoint,
    client: Child,
    socket: PathBuf,
}

impl Cluster {
    /// Starts one, with a file system. Prints `SKIPPED` and returns nothing if a program or FUSE is missing.
    pub(crate) fn start() -> Option<Self> {
        if !fuse_available() || is_missing(&FILE_SYSTEM) {
            return None;
        }
        let mut cluster = Cluster::begin("memstore")?;
        cluster.make_file_system();
        Some(cluster)
    }

    /// Starts one with the pool [`POOL`], whose disk is a sparse file: in memory, Ceph does not know exactly what has
    /// been written. Prints `SKIPPED` and returns nothing if a program or QEMU's driver is missing.
    pub(crate) fn with_images() -> Option<Self> {
        if !qemu::available() {
            return None;
        }
        let mut open = Command::new("qemu-img");
        open.args(["info", "--image-opts", "driver=rbd,pool=x,image=x,conf=/nonexistent"]);
        if words(&run(&mut open)).contains("Unknown driver 'rbd'") {
            skipped("Ceph: qemu-block-extra is not installed, or not of the version of qemu-utils");
            return None;
        }
        let cluster = Cluster::begin("bluestore")?;
        works(&mut cluster.ceph(&["osd", "pool", "create", POOL, "8", "8"]));
        works(&mut cluster.rbd(&["pool", "init", POOL]));
        Some(cluster)
    }

    fn begin(store: &str) -> Option<Self> {
        if is_missing(&PROGRAMS) {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut cluster = Cluster { folder, daemons: Vec::new() };
        cluster.configure(store);
        cluster.start_monitor();
        cluster.start_disk();
        Some(cluster)
    }

    /// `rbd ARGS`
    pub(crate) fn rbd(&self, args: &[&str]) -> Command {
        let mut command = Command::new("rbd");
        command.arg("-c").arg(self.conf()).args(args);
        command
    }

    /// Its configuration, with which any program of Ceph finds it.
    pub(crate) fn conf(&self) -> PathBuf {
        self.path("ceph.conf")
    }

    /// `ceph ARGS`
    pub(crate) fn ceph(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ceph");
        command.arg("-c").arg(self.conf()).args(["--connect-timeout", "10"]).args(args);
        command
    }

    /// Mounts the file system somewhere else each time.
    pub(crate) fn fs_mount(&self) -> FsMount {
        let on = Mountpoint::new();
        let socket = on.path.with_extension("asok");
        let log = self.log("fuse");
        let mut command = attached("ceph-fuse", &self.conf());
        command.args(["-f", "--admin-socket"]).arg(&socket).arg(&on.path);
        command.stdout(log.try_clone().expect("open the log again")).stderr(log);
        let client = command.spawn().expect("start ceph-fuse");
        let mount = FsMount { on, client, socket };
        self.until("the file system is mounted", || mount.on.is_mounted());
        mount
    }

    /// Waits for a state of the cluster.
    ///
    /// # Panics
    /// With what the daemons have logged when it does not come about.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            let waited = began.elapsed();
            assert!(waited < PATIENCE, "{what}: not within {waited:?}\n{}", self.logged());
            sleep(Duration::from_millis(100));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, store: &str) {
        for folder in ["mon", "mgr", "osd", "mds", "run", "log"] {
            fs::create_dir(self.path(folder)).expect("make a folder of the cluster");
        }
        // Whoever takes the port before the monitor does makes it fail with a message.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let template = include_str!("ceph.conf");
        let conf = [
            ("@FOLDER@", text(self.folder.path()).to_owned()),
            ("@FSID@", uuid()),
            ("@PORT@", port.to_string()),
            ("@STORE@", store.to_owned()),
            ("@DISK_BYTES@", DISK_BYTES.to_string()),
        ];
        let conf =
            conf.iter().fold(template.to_owned(), |conf, (name, value)| conf.replace(name, value));
        fs::write(self.conf(), conf).expect("write the configuration");
        let map = self.path("monmap");
        let address = format!("[v2:127.0.0.1:{port}]");
        let mut make = Command::new("monmaptool");
        make.arg("-c").arg(self.conf()).args(["--create", "--addv", "a", &address]).arg(&map);
        works(&mut make);
        let mut make = Command::new("ceph-mon");
        make.arg("-c").arg(self.conf()).args(["--mkfs", "-i", "a", "--monmap"]).arg(&map);
        works(&mut make);
    }

    fn start_monitor(&mut self) {
        self.start_daemon("ceph-mon", "a");
        self.until("the monitor answers", || self.answer(&["quorum_status"]).is_some());
        self.start_daemon("ceph-mgr", "x");
    }

    fn start_disk(&mut self) {
        let id = uuid();
        works(&mut self.ceph(&["osd", "new", &id, "0"]));
        let mut make = Command::new("ceph-osd");
        make.arg("-c").arg(self.conf()).args(["-i", "0", "--mkfs", "--osd-uuid", &id]);
        works(&mut make);
        let place = ["osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost"];
        works(&mut self.ceph(&place));
        self.start_daemon("ceph-osd", "0");
        self.until("the disk is up", || {
            let found = self.answer(&["osd", "stat"]);
            found.is_some_and(|found| found["num_up_osds"] == 1)
        });
    }

    fn make_file_system(&mut self) {
        for pool in ["data", "meta"] {
            works(&mut self.ceph(&["osd", "pool", "create", pool, "8", "8"]));
        }
        works(&mut self.ceph(&["fs", "new", "test", "meta", "data"]));
        let seconds = SESSION_TIMEOUT.as_secs().to_string();
        works(&mut self.ceph(&["fs", "set", "test", "session_timeout", &seconds]));
        self.start_daemon("ceph-mds", "m");
        self.until("the file system is active", || {
            let found = self.answer(&["mds", "stat"]);
            found.is_some_and(|found| found.to_string().contains("up:active"))
        });
        self.until("the monitor knows the space", || {
            let found = self.answer(&["df"]);
            found.is_some_and(|found| found["stats"]["total_bytes"].as_u64() > Some(0))
        });
    }

    /// What the cluster answers to a question; `None` if it does not, yet.
    fn answer(&self, question: &[&str]) -> Option<Value> {
        let mut command = Command::new("timeout");
        command.arg("30").arg("ceph").arg("-c").arg(self.conf());
        command.args(["--connect-timeout", "5", "--format", "json"]).args(question);
        let Output { status, stdout, .. } = command.output().expect("ask the cluster");
        status.success().then(|| serde_json::from_slice(&stdout).ok())?
    }

    fn start_daemon(&mut self, name: &str, id: &str) {
        let log = self.log(name);
        let mut command = attached(name, &self.conf());
        command.args(["-f", "-i", id]);
        command.stdout(log.try_clone().expect("open the log again")).stderr(log);
        let process = command.spawn().expect("start a daemon");
        self.daemons.push(process);
    }

    fn log(&self, name: &str) -> File {
        let path = self.path("log").join(format!("{name}.out"));
        File::options().create(true).append(true).open(path).expect("open a log")
    }

    /// The ends of all logs.
    fn logged(&self) -> String {
        let mut logged = String::new();
        let logs = fs::read_dir(self.path("log")).expect("list the logs").flatten();
        for log in logs {
            let bytes = fs::read(log.path()).unwrap_or_default();
            let content = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = content.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            let _ = writeln!(logged, "--- {:?}\n{}", log.file_name(), shown.join("\n"));
        }
        logged
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            // A test that already panics must not abort. A daemon may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl FsMount {
    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.on.path
    }

    /// Kills the client. The cluster does not notice at once, and keeps the client's locks.
    pub(crate) fn kill(mut self) {
        self.client.kill().expect("kill the client");
        self.client.wait().expect("wait for the client");
    }

    /// Sends the client a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.client), signal).expect("send a signal");
    }

    /// How often the client has asked the disks for a part of an object since it was mounted. An object has up to 4 MiB
    /// of a file.
    pub(crate) fn objects_read(&self) -> u64 {
        let mut ask = Command::new("ceph");
        ask.args(["--admin-daemon", text(&self.socket), "perf", "dump", "objecter"]);
        let counters: Value = serde_json::from_slice(&works(&mut ask)).expect("counters in JSON");
        counters["objecter"]["osdop_read"].as_u64().expect("a counter of reads")
    }
}

impl Drop for FsMount {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = umount.arg("--lazy").arg(&self.on.path).stderr(Stdio::null()).status();
        // It returns what it still has to write, unless somebody has killed it.
        for _ in 0..100 {
            if !matches!(self.client.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(100));
        }
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn is_missing(programs: &[&str]) -> bool {
    let folders = ["/usr/bin", "/usr/sbin"].map(Path::new);
    let is_missing = |name: &&&str| !folders.iter().any(|folder| folder.join(name).exists());
    let missing = programs.iter().find(is_missing);
    if let Some(missing) = missing {
        skipped(&format!("Ceph: {missing} is not installed"));
    }
    missing.is_some()
}

/// A program of Ceph that the kernel kills when this thread ends.
fn attached(program: &str, conf: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program, "-c"]).arg(conf).stdin(Stdio::null());
    command
}

fn uuid() -> String {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random UUID");
    uuid.trim().to_owned()
}
