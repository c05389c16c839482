//! QEMU's programs, our reader without an archive around it, and a guard that says which case failed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use backy_lib::format::qcow2::{BackingFormat, Decompressor};
use backy_lib::image::delta::Delta;
use backy_lib::storage::FileName;
use backy_lib::storage::dir::DirStorage;
use backy_lib::units::{BlockIndex, BlockSize};
use backy_lib::{Error, RevisionId};

/// Runs one of QEMU's programs in a folder.
pub(crate) fn output(program: &str, folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder);
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// The same, which has to work. Returns what it prints.
pub(crate) fn works(program: &str, folder: &Path, args: &[&str]) -> String {
    let output = output(program, folder, args);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}: {words}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn qemu_img(folder: &Path, args: &[&str]) -> String {
    works("qemu-img", folder, args)
}

/// Runs `qemu-io` commands one after the other on one image. Those that QEMU cannot do, such as a compressed write
/// over existing data, change nothing.
pub(crate) fn qemu_io(folder: &Path, file: &str, format: &str, commands: &[String]) {
    if commands.is_empty() {
        return;
    }
    let mut args = vec!["-f", format];
    args.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    args.push(file);
    let output = output("qemu-io", folder, &args);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let misunderstood = ["nvalid", "not found", "missing", "usage", "not a ", "open"];
    assert!(!misunderstood.iter().any(|word| said.contains(word)), "qemu-io {args:?}: {said}");
}

/// The content of an image as `qemu-img convert` returns it.
pub(crate) fn converted(folder: &Path, file: &str, format: &str) -> Vec<u8> {
    qemu_img(folder, &["convert", "-f", format, "-O", "raw", file, "converted"]);
    let bytes = fs::read(folder.join("converted")).expect("read what was converted");
    fs::remove_file(folder.join("converted")).expect("remove it");
    bytes
}

/// The content of a delta as our reader reads it, through its backing files, which are cut off or continue with zeros
/// as in QEMU.
pub(crate) fn read_delta(
    folder: &Path,
    revision: RevisionId,
    cluster_size: BlockSize,
) -> Result<Vec<u8>, Error> {
    let storage = DirStorage::open(folder)?;
    let delta = Delta::open_any_size(&storage, revision, cluster_size)?;
    let header = delta.header();
    let mut bytes = match header.backing {
        None => Vec::new(),
        Some(backing) => match (backing.format, backing.file) {
            (BackingFormat::Qcow2, FileName::Delta(base)) => {
                read_delta(folder, base, cluster_size)?
            }
            (_, file) => fs::read(folder.join(file.to_string())).expect("read the raw image"),
        },
    };
    bytes.resize(header.virtual_bytes as usize, 0);
    let mut decompressor = Decompressor::new()?;
    let mut cluster = vec![0; cluster_size.len()];
    let blocks = cluster_size.count(header.virtual_bytes);
    let mut next = BlockIndex(0);
    while let Some(held) = delta.next_held_block(next, BlockIndex(blocks))? {
        for place in delta.clusters(held, 1)? {
            if place != backy_lib::format::qcow2::Cluster::Unallocated {
                delta.read_cluster(place, &mut decompressor, &mut cluster)?;
                let part = &mut bytes[cluster_size.offset(held) as usize..];
                let count = part.len().min(cluster.len());
                part[..count].copy_from_slice(&cluster[..count]);
            }
        }
        next = held.plus(1);
    }
    Ok(bytes)
}

/// A revision's name for a number, always the same.
pub(crate) fn revision(number: u64) -> RevisionId {
    format!("01935470-2f5e-7cc0-9d1a-{number:012x}").parse().expect("a UUID")
}

/// The file of the delta with this number.
pub(crate) fn file(number: u64) -> String {
    format!("{}.qcow2", revision(number))
}

/// Prints which case it was when the test panics.
pub(crate) struct Case(pub(crate) String);

impl Drop for Case {
    #[expect(clippy::print_stderr, reason = "the test's own report")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at {}", self.0);
        }
    }
}

/// Bytes that no compression makes smaller.
pub(crate) fn noise(random: &mut backy_lib::storage::sim::Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.number() as u8).collect()
}
