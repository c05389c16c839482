//! A libvirtd of the test's own, with a domain whose disks the test writes to in place of a guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use backy_tests::qemu;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::mounted::until;
use crate::processes::Running;
use crate::site::{run, text, words, works};
use crate::stand_ins::with;

const DAEMON: &str = include_str!("libvirtd.sh");

/// Where all daemons find what one has found out about QEMU.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/libvirt");

/// The name of the domain.
pub(crate) const NODE: &str = "mynode";

/// Its disks, and the formats of their images.
const DISKS: [(&str, &str); 3] = [("vda", "qcow2"), ("vdb", "raw"), ("vdc", "qcow2")];

/// Size of each of them.
pub(crate) const DISK_BYTES: u64 = 16 << 20;

pub(crate) struct Libvirt {
    daemon: Option<Running>,
    folder: tempfile::TempDir,
}

impl Libvirt {
    /// `None` if it cannot be had here.
    pub(crate) fn start() -> Option<Self> {
        if !geteuid().is_root() {
            qemu::skipped("only root can start a libvirtd with folders of its own");
            return None;
        }
        for (program, package) in [
            ("libvirtd", "libvirt-daemon"),
            ("virsh", "libvirt-clients"),
            ("qemu-system-x86_64", "qemu-system-x86"),
        ] {
            if Command::new(program).arg("--version").output().is_err() {
                qemu::skipped(&format!("{program} is not installed (package {package})"));
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).expect("let QEMU in");
        let mut libvirt = Libvirt { daemon: None, folder };
        libvirt.boot();
        fs::create_dir(libvirt.path("scratch")).expect("make a folder");
        let everybody = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(libvirt.path("scratch"), everybody).expect("as /var/tmp");
        for (disk, format) in DISKS {
            let create = ["create", "-q", "-f", format];
            let mut qemu_img = Command::new("qemu-img");
            works(qemu_img.args(create).arg(libvirt.path(disk)).arg(DISK_BYTES.to_string()));
        }
        let xml = libvirt.path("domain.xml");
        fs::write(&xml, libvirt.domain()).expect("write the domain");
        works(&mut libvirt.virsh(&["define", text(&xml)]));
        libvirt.run();
        Some(libvirt)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What programs need in their environment to find it.
    pub(crate) fn setting(&self) -> String {
        let socket = self.path("daemon/socket/libvirt-sock");
        format!("LIBVIRT_DEFAULT_URI=qemu+unix:///system?socket={}", text(&socket))
    }

    pub(crate) fn virsh(&self, args: &[&str]) -> Command {
        let mut virsh = Command::new("virsh");
        virsh.arg("--quiet").args(args);
        with(&[self.setting()], &virsh)
    }

    /// What virsh prints.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        String::from_utf8(works(&mut self.virsh(args))).expect("text").trim().to_owned()
    }

    /// Starts the daemon.
    pub(crate) fn boot(&mut self) {
        let folder = self.path("daemon");
        fs::create_dir_all(&folder).expect("make a folder");
        let mut daemon = Command::new("unshare");
        daemon.args(["-m", "--propagation", "private", "sh", "-c", DAEMON, "sh"]);
        self.daemon = Some(Running::start(daemon.arg(folder).arg(CACHE)));
        until("libvirtd answers", || run(&mut self.virsh(&["version"])).status.success());
    }

    /// The process of the daemon.
    pub(crate) fn daemon(&self) -> Pid {
        let id = self.daemon.as_ref().expect("a daemon").0.id();
        i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process")
    }

    /// Whether the daemon still runs.
    pub(crate) fn is_up(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Running::is_running)
    }

    /// Starts the domain. No guest runs in it.
    pub(crate) fn run(&self) {
        works(&mut self.virsh(&["start", NODE, "--paused"]));
    }

    /// Ends the domain in order, so that QEMU closes the images.
    pub(crate) fn stop(&self) {
        works(&mut self.virsh(&["destroy", "--graceful", NODE]));
    }

    /// The process of QEMU.
    pub(crate) fn machine(&self) -> Option<Pid> {
        let file = self.path("daemon/run/qemu").join(format!("{NODE}.pid"));
        Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
    }

    /// As when somebody pulls the mains plug.
    pub(crate) fn crash(&self) {
        kill_process(self.machine().expect("a machine"), Signal::KILL).expect("kill it");
        until("libvirt notices it", || self.ask(&["domstate", NODE]) == "shut off");
    }

    /// A command of `qemu-io`, as the guest.
    pub(crate) fn guest(&self, disk: &str, command: &str) -> Output {
        let number = DISKS.iter().position(|(name, _)| *name == disk).expect("a disk");
        let line = format!(
            "qemu-io -d /machine/peripheral/virtio-disk{number}/virtio-backend \"{command}\""
        );
        run(&mut self.virsh(&["qemu-monitor-command", NODE, "--hmp", &line]))
    }

    /// A disk as it is now: of a domain that does not run by `qemu-img`, else by the guest.
    pub(crate) fn disk(&self, disk: &str) -> Vec<u8> {
        let copy = self.path("copy");
        let (_, format) = DISKS.iter().find(|(name, _)| *name == disk).expect("a disk");
        let convert = ["convert", "-U", "-f", format, "-O", "raw"];
        // What is not flushed is not in the file.
        if self.machine().is_some() {
            let said = self.guest(disk, "flush");
            assert!(said.status.success(), "{}", words(&said));
        }
        works(Command::new("qemu-img").args(convert).arg(self.path(disk)).arg(&copy));
        fs::read(copy).expect("read the copy")
    }

    /// The names of the checkpoints.
    pub(crate) fn checkpoints(&self) -> Vec<String> {
        self.ask(&["checkpoint-list", NODE, "--name"])
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Nothing of a backup is left but checkpoints.
    pub(crate) fn check_quiet(&self) {
        let output = run(&mut self.virsh(&["backup-dumpxml", NODE]));
        assert!(!output.status.success(), "a backup job is left: {}", words(&output));
        let left: Vec<_> = fs::read_dir(self.path("scratch")).expect("list").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn domain(&self) -> String {
        let disk = |name: &str, format: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/>\
                 <source file='{}'/><target dev='{name}' bus='virtio'/></disk>",
                text(&self.path(name))
            )
        };
        format!(
            "<domain type='qemu'><name>{NODE}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>{}</devices></domain>",
            DISKS.map(|(name, format)| disk(name, format)).concat()
        )
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // The daemon does not take QEMU with it.
        if let Some(machine) = self.machine() {
            let _ = kill_process(machine, Signal::KILL);
        }
    }
}
