//! A view of the file system with installed files that the rest of the machine does not see.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use backy_tests::qemu::skipped;

use crate::mounted::until;
use crate::site::{run, works};

/// A mount namespace, which ends with the value and with its processes.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// A new one. Prints `SKIPPED` and returns nothing where that is impossible.
    pub(crate) fn new() -> Option<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]);
        if !run(Command::new("unshare").args(["--mount", "true"])).status.success() {
            skipped("no mount namespace can be made here: that needs root");
            return None;
        }
        unshare.args(["sleep", "600"]).stdin(Stdio::null());
        let namespace = Namespace { holder: unshare.spawn().expect("start unshare") };
        let own = std::fs::read_link("/proc/self/ns/mnt").expect("our own namespace");
        let theirs = format!("/proc/{}/ns/mnt", namespace.holder.id());
        until("there is another namespace", || {
            std::fs::read_link(&theirs).is_ok_and(|found| found != own)
        });
        Some(namespace)
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.id().to_string(), "--"]).arg(program);
        command
    }

    /// Mounts something over something else.
    pub(crate) fn bind(&self, what: &Path, over: &str) {
        works(self.command("mount").arg("--bind").arg(what).arg(over));
    }

    /// What is mounted there.
    pub(crate) fn mounts(&self) -> String {
        let list = works(self.command("cat").arg("/proc/self/mountinfo"));
        String::from_utf8(list).expect("a list in UTF-8")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It has to end, whatever happens in the test.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
