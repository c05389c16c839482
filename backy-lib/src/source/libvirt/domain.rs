//! What libvirt says of a domain, its checkpoints and its backup job, in XML.
//!
//! Source: "Domain XML format", "Checkpoint XML format" and "Backup XML format" of libvirt's documentation. Only types
//! and names are taken from it.

use std::path::PathBuf;

use roxmltree::{Document, Node};
use uuid::Uuid;

use crate::base::escape;
use crate::base::mark::MarkName;
use crate::source::backing;
use crate::source::scratch::Owner;

/// The channel of QEMU's guest agent.
const AGENT: &str = "org.qemu.guest_agent.0";

/// Deepest chain of backing files that is looked at: what identifies a chain knows fewer.
const MOST_FILES: usize = 100;

/// What a message lists at most.
const MOST_LISTED: usize = 10;

/// A domain, as far as a backup needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain {
    pub uuid: Uuid,
    pub name: String,
    /// Whether it has a QEMU at the moment.
    pub is_active: bool,
    /// Who runs that QEMU; `None` if libvirt does not say.
    pub owner: Option<Owner>,
    /// Whether the guest agent has connected.
    pub has_agent: bool,
    disks: Vec<Disk>,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// What the domain calls it.
    pub target: String,
    /// What QEMU takes the image for, such as `qcow2` or `raw`.
    pub format: String,
    /// Where it is; `None` if it has no medium.
    pub place: Option<Place>,
    /// The backing files, the upper ones first; `None` if libvirt does not say.
    backing: Option<Vec<String>>,
    /// Whether its data are in another file than the image.
    has_data_file: bool,
}

/// Where a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A file or a block device.
    Path(PathBuf),
    /// Something else, as libvirt calls it: a protocol, or a type.
    Other(String),
}

impl Domain {
    /// Reads what `virsh dumpxml` has printed.
    ///
    /// # Errors
    /// A sentence: what was found, and what was expected.
    pub(super) fn parse(xml: &str) -> Result<Self, String> {
        let document = parsed(xml, "dumpxml")?;
        let root = document.root_element();
        let uuid = text(root, "uuid").and_then(|uuid| uuid.parse().ok());
        let (Some(uuid), Some(name), "domain") = (uuid, text(root, "name"), root.tag_name().name())
        else {
            return Err("'virsh dumpxml' describes no domain with a name and a UUID".to_owned());
        };
        let labels =
            children(root, "seclabel").filter(|label| label.attribute("model") == Some("dac"));
        let owner = labels.filter_map(|label| owner(text(label, "label")?)).next();
        let devices: Vec<Node> = children(root, "devices").flat_map(|all| all.children()).collect();
        let of = |name: &'static str| devices.iter().filter(move |node| node.has_tag_name(name));
        let has_agent = of("channel").any(|channel| {
            children(*channel, "target").any(|target| {
                target.attribute("name") == Some(AGENT)
                    && target.attribute("state") == Some("connected")
            })
        });
        let disks = of("disk").filter_map(|disk| Disk::of(*disk)).collect();
        let is_active = root.attribute("id").is_some();
        Ok(Domain { uuid, name: name.to_owned(), is_active, owner, has_agent, disks })
    }

    /// The disk with a target.
    ///
    /// # Errors
    /// A sentence: which disks there are.
    pub(super) fn disk(&self, wanted: &str) -> Result<&Disk, String> {
        self.disks.iter().find(|disk| disk.target == wanted).ok_or_else(|| {
            let shown = self.disks.iter().take(MOST_LISTED).map(|disk| escape::line(&disk.target));
            let shown = shown.collect::<Vec<_>>().join(", ");
            format!(
                "the domain has no disk '{}'; it has {}",
                wanted.escape_debug(),
                if shown.is_empty() { "none" } else { &shown }
            )
        })
    }
}

impl Disk {
    /// `None` for what is no disk, such as a CD drive.
    fn of(node: Node) -> Option<Self> {
        if !matches!(node.attribute("device"), None | Some("disk" | "lun")) {
            return None;
        }
        let target = children(node, "target").next()?.attribute("dev")?.to_owned();
        let driver = children(node, "driver").next();
        let format = driver.and_then(|driver| driver.attribute("type")).unwrap_or("raw");
        let encrypted = std::iter::once(node).chain(children(node, "source"));
        let is_encrypted = encrypted.flat_map(|node| children(node, "encryption")).next().is_some();
        // A qcow2 image says itself that it is encrypted.
        let format = if is_encrypted && format == "raw" { "luks" } else { format }.to_owned();
        let has_data_file =
            children(node, "source").any(|source| children(source, "dataStore").next().is_some());
        Some(Disk { target, format, place: place(node), backing: backing(node), has_data_file })
    }

    /// What distinguishes what is below the disk from anything else; or why nothing does.
    pub(super) fn chain(&self) -> Result<String, String> {
        if self.has_data_file {
            return Err(
                "its data are in another file, which can be changed without QEMU".to_owned()
            );
        }
        let Some(files) = &self.backing else {
            return Err("libvirt does not say what is below the disk".to_owned());
        };
        backing::identify(files.iter().map(String::as_str))
    }
}

/// Where a disk, or a part of its chain, is.
fn place(node: Node) -> Option<Place> {
    let source = children(node, "source").next()?;
    let kind = node.attribute("type").unwrap_or_default();
    match (kind, source.attribute("file"), source.attribute("dev")) {
        ("file", Some(path), _) | ("block", _, Some(path)) => Some(Place::Path(path.into())),
        _ => {
            let other = source.attribute("protocol").unwrap_or(kind);
            Some(Place::Other(escape::line(other).into_owned()))
        }
    }
}

/// What is below a disk, if libvirt has described all of it: the last part is an empty element.
fn backing(disk: Node) -> Option<Vec<String>> {
    let mut files = Vec::new();
    let mut part = children(disk, "backingStore").next()?;
    while let Some(place) = place(part) {
        files.push(match place {
            Place::Path(path) => path.display().to_string(),
            Place::Other(kind) => kind,
        });
        if files.len() > MOST_FILES {
            break;
        }
        part = children(part, "backingStore").next()?;
    }
    Some(files)
}

/// `+UID:+GID`, as libvirt writes it.
fn owner(label: &str) -> Option<Owner> {
    let (user, group) = label.split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some(Owner { user: number(user)?, group: number(group)? })
}

/// When a checkpoint was made, if it has the bitmap of a disk: what distinguishes it from another one of its name.
///
/// # Errors
/// A sentence.
pub(super) fn checkpoint_id(xml: &str, name: MarkName, target: &str) -> Result<String, String> {
    let document = parsed(xml, "checkpoint-dumpxml")?;
    let root = document.root_element();
    let Some(time) = text(root, "creationTime").and_then(|time| time.parse::<u64>().ok()) else {
        return Err(format!("the checkpoint {name} has no time"));
    };
    let mut disks = children(root, "disks").flat_map(|all| all.children());
    let name_text = name.to_string();
    let has_bitmap = disks.any(|disk| {
        disk.attribute("name") == Some(target)
            && disk.attribute("checkpoint") == Some("bitmap")
            && disk.attribute("bitmap") == Some(&*name_text)
    });
    match has_bitmap {
        true => Ok(format!("checkpoint made at {time}")),
        false => Err(format!("the checkpoint {name} has no bitmap of the disk")),
    }
}

/// A backup job of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// Where the disks are served; `None` if it has another transport.
    pub socket: Option<PathBuf>,
    /// The scratch files.
    pub scratch: Vec<PathBuf>,
}

/// The backup job, from what `virsh backup-dumpxml` has printed.
///
/// # Errors
/// A sentence.
pub(super) fn job(xml: &str) -> Result<Job, String> {
    let document = parsed(xml, "backup-dumpxml")?;
    let root = document.root_element();
    let server = children(root, "server").next();
    let disks = children(root, "disks").flat_map(|disks| children(disks, "disk"));
    let scratch = disks.flat_map(|disk| children(disk, "scratch"));
    Ok(Job {
        socket: server.and_then(|server| server.attribute("socket")).map(PathBuf::from),
        scratch: scratch.filter_map(|scratch| scratch.attribute("file")).map(Into::into).collect(),
    })
}

/// Text for XML, where it means itself.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            other => out.push(other),
        }
    }
    out
}

fn parsed<'x>(xml: &'x str, command: &str) -> Result<Document<'x>, String> {
    Document::parse(xml)
        .map_err(|error| format!("'virsh {command}' printed something else than expected: {error}"))
}

fn children<'a, 'x: 'a>(node: Node<'a, 'x>, name: &'a str) -> impl Iterator<Item = Node<'a, 'x>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

fn text<'a>(node: Node<'a, '_>, name: &'a str) -> Option<&'a str> {
    children(node, name).next()?.text().map(str::trim)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::base::mark::ArchiveId;
    use crate::base::revision::RevisionId;

    const RUNNING: &str = "<domain type='kvm' id='7'><name>my&amp;node</name>
        <uuid>95b18867-fb8a-44dd-90d0-242e5154d166</uuid><devices>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
          <source file='/srv/a.qcow2' index='2'/>
          <backingStore type='file' index='3'><format type='raw'/><source file='/dev/null'/>
            <backingStore/></backingStore>
          <target dev='vda' bus='virtio'/></disk>
        <disk type='block' device='disk'><source dev='/dev/vg0/b'/><backingStore/>
          <target dev='vdb'/></disk>
        <disk type='network' device='disk'><driver type='raw'/>
          <source protocol='rbd' name='vms/c'/><target dev='vdc'/></disk>
        <disk type='file' device='cdrom'><target dev='sda'/></disk>
        <disk type='file' device='disk'><target dev='vdd'/></disk>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
        </channel></devices>
        <seclabel type='dynamic' model='apparmor'><label>libvirt-95</label></seclabel>
        <seclabel type='dynamic' model='dac'><label>+64055:+103</label></seclabel></domain>";

    fn name() -> MarkName {
        MarkName {
            archive: ArchiveId::new(Timestamp::UNIX_EPOCH),
            revision: RevisionId::new(Timestamp::UNIX_EPOCH),
        }
    }

    /// Disks are found by their targets, with where they are and what is below; a CD drive is none.
    #[test]
    fn a_domain_is_read() {
        let domain = Domain::parse(RUNNING).unwrap();
        assert_eq!(domain.name, "my&node");
        assert!(domain.is_active && domain.has_agent);
        assert_eq!(domain.owner, Some(Owner { user: 64055, group: 103 }));
        let vda = domain.disk("vda").unwrap();
        assert_eq!(
            (&*vda.format, &vda.place),
            ("qcow2", &Some(Place::Path("/srv/a.qcow2".into())))
        );
        assert_eq!(vda.backing, Some(vec!["/dev/null".to_owned()]));
        assert!(vda.chain().unwrap_err().contains("/dev/null is no local file"));
        let vdb = domain.disk("vdb").unwrap();
        assert_eq!((&*vdb.format, &vdb.place), ("raw", &Some(Place::Path("/dev/vg0/b".into()))));
        assert_eq!(vdb.chain(), Ok("no backing file".to_owned()));
        let vdc = domain.disk("vdc").unwrap();
        assert_eq!(vdc.place, Some(Place::Other("rbd".to_owned())));
        assert!(vdc.chain().unwrap_err().contains("does not say"));
        assert_eq!(domain.disk("vdd").unwrap().place, None);
        let missing = domain.disk("sda").unwrap_err();
        assert_eq!(missing, "the domain has no disk 'sda'; it has vda, vdb, vdc, vdd");
        let stopped = RUNNING.replace(" id='7'", "").replace("connected", "disconnected");
        let stopped = Domain::parse(&stopped).unwrap();
        assert!(!stopped.is_active && !stopped.has_agent);
        let data_file = RUNNING.replace(" index='2'/>", "><dataStore type='file'/></source>");
        let chain = Domain::parse(&data_file).unwrap().disk("vda").unwrap().chain().unwrap_err();
        assert!(chain.contains("another file"), "{chain}");
    }

    /// A checkpoint counts if it has the bitmap of the disk, and is known by its time.
    #[test]
    fn a_checkpoint_is_known_by_its_time() {
        let name = name();
        let xml = |disk: &str| {
            format!(
                "<domaincheckpoint><name>{name}</name><creationTime>17</creationTime><disks>
                 <disk name='vda' {disk}/></disks></domaincheckpoint>"
            )
        };
        let good = xml(&format!("checkpoint='bitmap' bitmap='{name}'"));
        assert_eq!(checkpoint_id(&good, name, "vda"), Ok("checkpoint made at 17".to_owned()));
        for (bad, target) in [
            (good.clone(), "vdb"),
            (xml("checkpoint='no'"), "vda"),
            (xml("checkpoint='bitmap' bitmap='other'"), "vda"),
            (good.replace("17", "soon"), "vda"),
        ] {
            checkpoint_id(&bad, name, target).unwrap_err();
        }
    }

    /// A job has the socket that it was given.
    #[test]
    fn a_job_has_a_socket_and_scratch_files() {
        let of = |inner: &str| {
            let job = job(&format!("<domainbackup mode='pull'>{inner}</domainbackup>")).unwrap();
            (job.socket, job.scratch)
        };
        let socket = Some(PathBuf::from("/a/nbd"));
        assert_eq!(of("<server transport='unix' socket='/a/nbd'/>"), (socket, Vec::new()));
        assert_eq!(of("<server name='localhost' port='1'/>"), (None, Vec::new()));
        let disk = |scratch: &str| format!("<disk name='vda'>{scratch}</disk>");
        let (known, other) = (disk("<scratch file='/b'/>"), disk("<scratch dev='/dev/c'/>"));
        let disks = format!("<disks>{known}{other}{}</disks>", disk(""));
        assert_eq!(of(&disks), (None, vec![PathBuf::from("/b")]));
        assert_eq!(of(""), (None, Vec::new()));
    }

    proptest! {
        /// Whatever is printed, the answer is a domain or a sentence.
        #[test]
        fn anything_printed_is_a_domain_or_an_error(
            cut in 0_usize..1800, at in 0_usize..1800, byte: u8, swap in any::<bool>()
        ) {
            let mut bytes = RUNNING.as_bytes().to_vec();
            match bytes.get_mut(at) {
                Some(found) if swap => *found = byte,
                _ => bytes.truncate(cut),
            }
            let text = String::from_utf8_lossy(&bytes);
            for found in [
                Domain::parse(&text).map(|domain| {
                    domain.disks.iter().for_each(|disk| drop(disk.chain()));
                }),
                checkpoint_id(&text, name(), "vda").map(drop),
                job(&text).map(drop),
            ] {
                if let Err(message) = found {
                    prop_assert!(!message.is_empty());
                }
            }
        }

        /// Any text reads back from XML as it was.
        #[test]
        fn text_reads_back_from_xml(text in "[ -~äß✓]{1,40}") {
            let xml = format!("<a b='{0}'>{0}</a>", escaped(&text));
            let document = Document::parse(&xml).unwrap();
            prop_assert_eq!(document.root_element().attribute("b"), Some(&*text));
            prop_assert_eq!(document.root_element().text(), Some(&*text));
        }
    }
}
