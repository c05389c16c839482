//! A domain, as `virsh` shows and changes it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use uuid::Uuid;

use super::domain::{self, Domain, Job};
use crate::base::error::describe_io;
use crate::base::mark::{ArchiveId, MarkName};
use crate::source::program::Program;
use crate::source::scratch::{self, Folder};

const VIRSH: Program = Program { name: "virsh", package: "libvirt-clients" };
const SHELL: Program = Program { name: "sh", package: "dash" };

/// How long a command may take. libvirt itself waits half a minute for another one that changes the domain.
const WITHIN: Duration = Duration::from_secs(2 * 60);

/// How long all of [`FREEZE`] may take.
const FREEZE_WITHIN: Duration = Duration::from_secs(8 * 60);

/// Begins a backup while the file systems of the guest are frozen. They are thawed in any case: also if backy is killed
/// meanwhile, if freezing fails half-way, and if libvirt is away for some seconds.
const FREEZE: &str = r#"
trap '' HUP INT TERM PIPE
domain=$1
shift
timeout --foreground -s KILL 60 virsh --quiet domfsfreeze --domain "$domain"
status=$?
case $status in
0)
    timeout --foreground -s KILL 120 virsh --quiet backup-begin --domain "$domain" "$@"
    status=$?
    ;;
137) echo "the file systems of the guest were not frozen: the guest agent did not answer within 60 s" >&2 ;;
*) echo "the file systems of the guest were not frozen" >&2 ;;
esac
for pause in 1 2 4 8 16 0; do
    timeout --foreground -s KILL 30 virsh --quiet domfsthaw --domain "$domain" && exit $status
    sleep $pause
done
echo "the file systems of the guest may still be frozen; run 'virsh domfsthaw $domain'" >&2
exit 1
"#;

/// What that says if no backup was begun, because freezing failed.
const NOT_FROZEN: &str = "the file systems of the guest were not frozen";

/// What virsh says if there is no backup job.
const NO_JOB: &str = "backup job";

/// What it says of a checkpoint whose bitmap is gone, or was not saved.
const NO_BITMAP: [&str; 2] = ["not found in backing chain", "missing or broken bitmap"];

pub(super) type Answer<T> = Result<T, String>;

/// XML for virsh, in memory that it opens as a file: on disk, whoever may write to the folder could put something else
/// in its place.
pub(super) struct Request(File);

impl Request {
    /// # Errors
    /// A sentence.
    pub(super) fn new(xml: &str) -> Answer<Self> {
        let written = memfd_create("backy", MemfdFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .map(File::from)
            .and_then(|mut file| file.write_all(xml.as_bytes()).map(|()| file));
        written
            .map(Request)
            .map_err(|error| format!("cannot write a request for 'virsh': {}", describe_io(&error)))
    }

    /// An option with it.
    fn as_option(&self, option: &str) -> OsString {
        format!("--{option}=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

/// A domain by its UUID.
#[derive(Debug, Clone)]
pub(super) struct Virsh {
    domain: String,
}

impl Job {
    /// The name of the backup point, if backy has begun it.
    pub(super) fn name(&self) -> Option<MarkName> {
        name_of(self.socket.as_deref()?)
    }

    /// Where the disks are served, if backy has begun it: below which folder for scratch files.
    pub(super) fn served_in(&self) -> Option<(&Path, Folder)> {
        let scratch = self.socket.as_deref()?.parent()?.parent()?;
        Some((scratch, Folder::of(scratch, self.name()?)))
    }

    /// Whether backups of backy read from it.
    pub(super) fn is_in_use(&self) -> bool {
        let ours = self.socket.iter().chain(&self.scratch).filter(|path| name_of(path).is_some());
        ours.filter_map(|path| path.parent()).any(scratch::is_in_use)
    }
}

/// The backup point that a path in its folder belongs to.
fn name_of(path: &Path) -> Option<MarkName> {
    path.parent()?.file_name()?.to_str()?.parse().ok()
}

impl Virsh {
    /// Looks for a domain with this name or UUID.
    ///
    /// # Errors
    /// A sentence: what virsh says.
    pub(super) fn find(wanted: &str) -> Answer<(Self, Domain)> {
        let typed = Virsh { domain: wanted.to_owned() };
        let found = Domain::parse(&typed.ask("dumpxml", &[])?)?;
        // A number is also that of a domain that runs.
        if found.name != wanted && wanted.parse::<Uuid>() != Ok(found.uuid) {
            return Err(format!(
                "libvirt finds the domain '{}' by that, which has another name; write its UUID, {}",
                found.name.escape_debug(),
                found.uuid
            ));
        }
        Ok((Virsh { domain: found.uuid.to_string() }, found))
    }

    /// Size of a disk in bytes.
    pub(super) fn size_bytes(&self, target: &str) -> Answer<u64> {
        let printed = self.ask("domblkinfo", &["--device".into(), target.into()])?;
        let capacity = printed.lines().find_map(|line| line.strip_prefix("Capacity:"));
        capacity.and_then(|number| number.trim().parse().ok()).ok_or_else(|| {
            format!(
                "'virsh domblkinfo' printed no capacity of the disk '{}'",
                target.escape_debug()
            )
        })
    }

    /// How the domain is configured, for a checkpoint.
    pub(super) fn configuration(&self) -> Answer<String> {
        self.ask("dumpxml", &["--inactive".into()])
    }

    /// The checkpoints of an archive.
    pub(super) fn checkpoints(&self, archive: ArchiveId) -> Answer<Vec<MarkName>> {
        let printed = self.ask("checkpoint-list", &["--name".into()])?;
        let names = printed.lines().filter_map(|line| line.trim().parse::<MarkName>().ok());
        Ok(names.filter(|name| name.archive == archive).collect())
    }

    /// What distinguishes a checkpoint with the bitmap of a disk from others of its name.
    pub(super) fn checkpoint_id(&self, name: MarkName, target: &str) -> Answer<String> {
        let words = [named("checkpointname", name), "--no-domain".into()];
        domain::checkpoint_id(&self.ask("checkpoint-dumpxml", &words)?, name, target)
    }

    /// Tells libvirt of a checkpoint whose bitmap it did not make.
    pub(super) fn redefine(&self, checkpoint: &Request) -> Answer<()> {
        let words = [checkpoint.as_option("xmlfile"), "--redefine".into()];
        self.ask("checkpoint-create", &words).map(drop)
    }

    /// Makes a checkpoint, with a bitmap that records from now on.
    pub(super) fn create(&self, checkpoint: &Request) -> Answer<()> {
        self.ask("checkpoint-create", &[checkpoint.as_option("xmlfile")]).map(drop)
    }

    /// Deletes a checkpoint with its bitmap; that of a domain without a QEMU, or one whose bitmap is gone, by itself.
    pub(super) fn delete(&self, name: MarkName, is_active: bool) -> Answer<()> {
        let word = named("checkpointname", name);
        if is_active {
            match self.ask("checkpoint-delete", std::slice::from_ref(&word)) {
                Err(why) if NO_BITMAP.iter().any(|words| why.contains(words)) => {}
                deleted => return deleted.map(drop),
            }
        }
        self.ask("checkpoint-delete", &[word, "--metadata".into()]).map(drop)
    }

    /// The backup job of the domain.
    pub(super) fn job(&self) -> Answer<Option<Job>> {
        match self.ask("backup-dumpxml", &[]) {
            Ok(xml) => domain::job(&xml).map(Some),
            Err(why) if why.contains(NO_JOB) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Begins a backup, and makes a checkpoint, as these requests describe. `is_frozen`: with the file systems of the
    /// guest frozen for that moment.
    pub(super) fn begin(
        &self,
        backup: &Request,
        checkpoint: Option<&Request>,
        is_frozen: bool,
    ) -> Answer<()> {
        let mut words = vec![backup.as_option("backupxml")];
        words.extend(checkpoint.map(|request| request.as_option("checkpointxml")));
        if !is_frozen {
            return self.ask("backup-begin", &words).map(drop);
        }
        let mut all: Vec<OsString> = ["-c", FREEZE, "sh", &self.domain].map(Into::into).into();
        all.extend(words);
        let begun = SHELL.run(&all, FREEZE_WITHIN);
        if begun.is_err() {
            // Once more, in case the shell was stopped.
            let _ = self.ask("domfsthaw", &[]);
        }
        // The message is about what the shell ran.
        begun.map(drop).map_err(|why| why.replacen("'sh'", "'virsh'", 1))
    }

    /// Whether [`Virsh::begin`] has failed with this because of the guest, so that another backup would fail as well.
    pub(super) fn is_of_guest(why: &str) -> bool {
        why.contains(NOT_FROZEN)
    }

    /// Ends the backup job.
    pub(super) fn abort(&self) -> Answer<()> {
        self.ask("domjobabort", &[]).map(drop)
    }

    /// Has QEMU serve nothing by NBD any more. libvirt has no command for that.
    pub(super) fn stop_serving(&self) -> Answer<()> {
        let stop = r#"--cmd={"execute":"nbd-server-stop"}"#;
        self.ask("qemu-monitor-command", &[stop.into()]).map(drop)
    }

    fn ask(&self, command: &str, words: &[OsString]) -> Answer<String> {
        let mut all: Vec<OsString> = ["--quiet", command].map(Into::into).into();
        all.push(format!("--domain={}", self.domain).into());
        all.extend(words.iter().cloned());
        String::from_utf8(VIRSH.run(&all, WITHIN)?)
            .map_err(|_| format!("'virsh {command}' printed something that is not UTF-8"))
    }
}

fn named(option: &str, name: MarkName) -> OsString {
    format!("--{option}={name}").into()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::base::revision::RevisionId;

    /// A job is ours if its socket is in a folder with the name of a mark.
    #[test]
    fn a_job_is_known_by_its_socket() {
        let name = MarkName {
            archive: ArchiveId::new(Timestamp::UNIX_EPOCH),
            revision: RevisionId::new(Timestamp::UNIX_EPOCH),
        };
        let job =
            |socket: Option<&str>| Job { socket: socket.map(Into::into), scratch: Vec::new() };
        assert_eq!(job(Some(&format!("/var/tmp/{name}/nbd"))).name(), Some(name));
        for other in [None, Some("/var/tmp/virtnbdbackup.1"), Some("nbd"), Some("/")] {
            assert_eq!(job(other).name(), None, "{other:?}");
        }
    }
}
