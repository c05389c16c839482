//! The note in the file `lock`: its first line describes the holder, and its second identifies the process, so that a
//! process of this machine that has ended is not taken for one at work.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Pid, test_kill_process};

use crate::base::digest::Digest;
use crate::base::escape::is_unsafe;
use crate::storage::{identity, system};

/// How the second line begins.
const MARK: &str = "backy-lock";

/// How the first line begins while the command or the module makes a backup.
const BACKUPS: [&str; 2] = ["'backup' (", "'backup' of Python ("];

/// File systems whose inode numbers and times mean little, and on which only the kernel's own locks count
/// nevertheless: ramfs, overlayfs, JFS, ReiserFS, FAT, exFAT. Source: `linux/magic.h`.
const ALONE: [u32; 6] =
    [0x8584_58f6, 0x794c_7630, 0x3153_464a, 0x5265_4973, 0x0000_4d44, 0x2011_bab0];

/// The word at the end of the second line if the holder's lock keeps out all machines.
const EVERYWHERE: &str = "everywhere";

/// Whom the kernel's locks on a file system keep out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everybody: only this machine uses the file system.
    ThisMachine,
    /// Everybody: the file system passes them on to all machines that use it.
    Everywhere,
    /// Perhaps only processes of this machine, while others use the file system as well.
    Unknown,
}

impl Reach {
    /// Of the file system of a folder. CephFS has locks for all machines; nothing is assumed about others.
    pub(super) fn of(folder: impl AsFd) -> Self {
        let kind = identity::kind(&folder);
        if identity::is_local(&folder) || kind.is_some_and(|kind| ALONE.contains(&kind)) {
            return Reach::ThisMachine;
        }
        let is_ceph = kind == Some(identity::CEPH) || identity::is_fuse(&folder, "fuse.ceph-fuse");
        if is_ceph { Reach::Everywhere } else { Reach::Unknown }
    }
}

/// The name of this machine.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the content of a file `lock` is a note of ours.
pub fn is_note(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    // Earlier versions wrote the first line only.
    let older = text.lines().count() == 1 && (text.starts_with('\'') || text.contains("(process "));
    text.is_empty() || older || text.lines().nth(1).is_some_and(|line| line.starts_with(MARK))
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// The first line.
    pub(super) holder: String,
    process: Option<Process>,
}

/// A process, on whatever machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    /// Changes each time the machine starts, and is the same in all its containers.
    boot: String,
    /// The machine, whatever is running on it.
    machine: String,
    /// The namespace that `pid` is a number of.
    namespace: String,
    pid: i32,
    /// When it began, in ticks since the machine started.
    started: u64,
    /// Whether its lock keeps out all machines.
    reaches_all: bool,
}

impl Note {
    /// The note of this process.
    pub(super) fn own(holder: &str, reach: Reach) -> Self {
        let holder = holder.chars().map(|c| if is_unsafe(c) { ' ' } else { c }).collect();
        let reaches_all = reach == Reach::Everywhere;
        Note { holder, process: Some(Process { reaches_all, ..Process::own() }) }
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let printable = |line: &str| line.chars().filter(|c| !is_unsafe(*c)).collect();
        let holder = lines.next().map(printable).unwrap_or_default();
        Note { holder, process: lines.next().and_then(Process::parse) }
    }

    /// Who is at work according to the note, for a caller that has got the kernel's lock, which reaches so far.
    pub(super) fn held_by(&self, reach: Reach) -> Option<String> {
        let own = Process::own();
        let held = match &self.process {
            Some(process) if process.boot == own.boot && process.namespace == own.namespace => {
                process.pid != own.pid && process.is_alive()
            }
            // Wherever it is: it would hold the lock that the caller has got.
            Some(process) if process.reaches_all && reach == Reach::Everywhere => false,
            // A container: its processes cannot be seen from here.
            Some(process) if process.boot == own.boot => reach != Reach::ThisMachine,
            // The machine has been restarted since.
            Some(process) => process.machine != own.machine,
            // An earlier version: the text contains the name of the machine.
            None => {
                let host = self.holder.rsplit_once(" on ").and_then(|(_, on)| on.split_once(','));
                host.is_some_and(|(host, _)| host != self::host())
            }
        };
        held.then(|| self.holder.clone())
    }
}

impl Note {
    /// The process that this note names as a backup, if it can be seen from here and exists.
    pub(super) fn backup_process(&self) -> Option<i32> {
        let is_backup = BACKUPS.iter().any(|name| self.holder.starts_with(name));
        let own = Process::own();
        let process = self.process.as_ref().filter(|_| is_backup)?;
        let is_seen = process.boot == own.boot && process.namespace == own.namespace;
        (is_seen && process.is_alive()).then_some(process.pid)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.holder)?;
        let Some(Process { boot, machine, namespace, pid, started, reaches_all }) = &self.process
        else {
            return Ok(());
        };
        let reach = if *reaches_all { format!(" {EVERYWHERE}") } else { String::new() };
        writeln!(f, "{MARK} {boot} {machine} {namespace} {pid} {started}{reach}")
    }
}

impl Process {
    fn own() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Process {
            boot: word(&read("/proc/sys/kernel/random/boot_id")),
            // Not the identity itself, which must stay private.
            machine: short_digest(&[read("/etc/machine-id"), host()].concat()),
            namespace: word(&namespace.to_string_lossy()),
            pid,
            started: started(pid).map_or(0, |(started, _)| started),
            reaches_all: false,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let is_ours = words.next()? == MARK;
        let mut next = || words.next().map(str::to_owned);
        let (boot, machine, namespace) = (next()?, next()?, next()?);
        let (pid, started) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let reaches_all = next().is_some_and(|word| word == EVERYWHERE);
        is_ours.then_some(Process { boot, machine, namespace, pid, started, reaches_all })
    }

    /// Whether it still runs, and is not another process with the same number.
    fn is_alive(&self) -> bool {
        let exists = Pid::from_raw(self.pid)
            .is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)));
        // A process that cannot be inspected belongs to somebody else.
        exists
            && started(self.pid).is_none_or(|(started, state)| {
                started == self.started && !matches!(state, 'Z' | 'X')
            })
    }
}

fn read(path: &str) -> String {
    system::read(Path::new(path)).unwrap_or_default()
}

/// One word, also for a value that could not be read.
fn word(text: &str) -> String {
    let word: String = text.chars().filter(|c| c.is_ascii_graphic()).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

fn short_digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string().chars().take(16).collect()
}

/// When a process began, and its state. Source: `proc_pid_stat(5)`, fields 22 and 3.
fn started(pid: i32) -> Option<(u64, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may contain anything, but not after its end.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Process {
        Process::own()
    }

    const REACHES: [Reach; 3] = [Reach::ThisMachine, Reach::Everywhere, Reach::Unknown];

    fn held(process: Process, reach: Reach) -> bool {
        Note { holder: "who".to_owned(), process: Some(process) }.held_by(reach).is_some()
    }

    #[test]
    fn a_note_reads_back() {
        for reach in REACHES {
            let note = Note::own("'backup' (process 7 on a\nb)", reach);
            assert_eq!(note.holder, "'backup' (process 7 on a b)");
            assert_eq!(Note::parse(&note.to_string()), note);
        }
        let note = Note::own("'backup' (process 7 on a b)", Reach::Unknown);
        assert!(is_note(note.to_string().as_bytes()) && is_note(b"") && is_note(b"'init'"));
        assert!(is_note(b"'backup' (process 7 on host, since 2026-11-28 02:00:00Z)"));
        assert!(!is_note(b"shopping:\nmilk\n") && !is_note(b"\xff\xfe"));
    }

    /// A process of this machine is at work as long as it exists; file systems of this machine alone need no note.
    #[test]
    fn a_process_of_this_machine_is_looked_for() {
        let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
        let (ticks, _) = started(parent).expect("the parent is there");
        for reach in REACHES {
            assert!(held(Process { pid: parent, started: ticks, ..own() }, reach));
            assert!(!held(Process { pid: parent, started: ticks + 1, ..own() }, reach));
            assert!(!held(Process { pid: i32::MAX, ..own() }, reach));
            assert!(!held(own(), reach), "this very process");
        }
        let container = Process { namespace: "pid:[1]".to_owned(), ..own() };
        assert!(
            held(container.clone(), Reach::Unknown)
                && held(container.clone(), Reach::Everywhere)
                && !held(container, Reach::ThisMachine)
        );
    }

    /// A lock of another machine counts as held; one of this machine from before a restart does not.
    #[test]
    fn the_note_of_another_machine_counts() {
        let other = Process { boot: "b".to_owned(), machine: "m".to_owned(), ..own() };
        let before = Process { boot: "b".to_owned(), ..own() };
        for reach in REACHES {
            assert!(held(other.clone(), reach));
            assert!(!held(before.clone(), reach));
        }
        let old = |host: &str| {
            Note::parse(&format!("'backup' (process 7 on {host}, since 2026-11-28 02:00:00Z)"))
        };
        assert!(old("elsewhere").held_by(Reach::ThisMachine).is_some());
        assert!(old(&host()).held_by(Reach::Unknown).is_none());
        assert!(Note::parse("'init'").held_by(Reach::Unknown).is_none());
        assert!(Note::parse("").held_by(Reach::Unknown).is_none());
    }

    /// Where locks keep out all machines, whoever gets the lock knows that the holder of before has ended, on whatever
    /// machine, if that one's lock did so, too.
    #[test]
    fn the_note_of_a_lock_that_reaches_everywhere_does_not_outlive_it() {
        let machine = Process { boot: "b".to_owned(), machine: "m".to_owned(), ..own() };
        let container = Process { namespace: "pid:[1]".to_owned(), ..own() };
        for other in [machine, container] {
            let other = Process { reaches_all: true, ..other };
            assert!(held(other.clone(), Reach::Unknown) && !held(other, Reach::Everywhere));
        }
        let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
        let (ticks, _) = started(parent).expect("the parent is there");
        let alive = Process { pid: parent, started: ticks, reaches_all: true, ..own() };
        assert!(held(alive, Reach::Everywhere));
    }
}
