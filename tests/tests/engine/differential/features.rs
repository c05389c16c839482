//! One image for each QEMU feature: it reads right, or our reader refuses it with a word that says why.

use std::fs;
use std::path::Path;

use backy_lib::image::delta::Delta;
use backy_lib::storage::dir::DirStorage;
use backy_lib::units::BlockSize;

use super::tools::{Case, converted, file, qemu_img, qemu_io, read_delta, revision};

const SIZE: &str = "1000448";

/// Makes an image with these options, writes to it, and returns what our reader makes of it.
fn made(folder: &Path, options: &str) -> Result<Vec<u8>, String> {
    let name = file(0);
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "-o", options, &name, SIZE]);
    qemu_io(folder, &name, "qcow2", &writes());
    read(folder)
}

/// Plain data, zeros over it, and compressed data.
fn writes() -> Vec<String> {
    let writes = ["-P 1 0 300000", "-z 65536 65536", "-c -P 2 524288 65536"];
    writes.iter().map(|write| format!("write -q {write}")).collect()
}

fn read(folder: &Path) -> Result<Vec<u8>, String> {
    read_delta(folder, revision(0), BlockSize::DEFAULT).map_err(|error| error.to_string())
}

fn fresh() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A plain image, with some bytes of its header changed.
fn patched(changes: &[(usize, &[u8])]) -> (tempfile::TempDir, Result<Vec<u8>, String>) {
    let folder = fresh();
    made(folder.path(), "compression_type=zstd").expect("a plain image");
    let path = folder.path().join(file(0));
    let mut bytes = fs::read(&path).expect("read the image");
    for (offset, change) in changes {
        bytes[*offset..][..change.len()].copy_from_slice(change);
    }
    fs::write(&path, bytes).expect("write the image");
    let found = read(folder.path());
    (folder, found)
}

fn is_refused(what: &str, found: Result<Vec<u8>, String>, word: &str) {
    let error = found.err().unwrap_or_else(|| panic!("{what} is read, expected an error"));
    assert!(error.contains(word), "{what}: found '{error}', expected '{word}'");
    assert_eq!(error.lines().count(), 1, "{what}: {error}");
}

fn is_read(what: &str, folder: &Path, found: Result<Vec<u8>, String>) {
    let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(found == converted(folder, &file(0), "qcow2"), "{what}: wrong bytes");
}

/// Whatever `qemu-img create` can make is read right or refused by name.
#[test]
fn what_qemu_can_create_is_read_or_refused() {
    if !backy_tests::qemu::available() {
        return;
    }
    for options in [
        "compression_type=zlib",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
    ] {
        let _case = Case(options.to_owned());
        let folder = fresh();
        is_read(options, folder.path(), made(folder.path(), options));
    }
    for (options, word) in [
        ("compat=0.10", "version: found 0x2"),
        ("cluster_size=512", "cluster bits: found 9"),
        ("cluster_size=2k", "cluster bits: found 11"),
        ("refcount_bits=1", "reference count order: found 0x0"),
        ("refcount_bits=8", "reference count order: found 0x3"),
        ("refcount_bits=64", "reference count order: found 0x6"),
        ("extended_l2=on,cluster_size=64k", "extended L2"),
        ("data_file=data", "external data file"),
        ("data_file=data,data_file_raw=on", "external data file"),
    ] {
        let _case = Case(options.to_owned());
        let folder = fresh();
        if options.starts_with("data_file") {
            fs::write(folder.path().join("data"), []).expect("make the data file");
        }
        is_refused(options, made(folder.path(), options), word);
    }
    // An image of another cluster size than the archive's is no delta of it.
    let folder = fresh();
    is_refused("cluster_size=4k", made(folder.path(), "cluster_size=4k"), "cluster size");
}

/// Encrypted images and ones with snapshots in them are refused by name; bitmaps do no harm.
#[test]
fn what_qemu_can_put_into_an_image_is_read_or_refused() {
    if !backy_tests::qemu::available() {
        return;
    }
    let folder = fresh();
    let secret = "secret,id=key,data=abc123";
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let args = ["create", "-q", "--object", secret, "-f", "qcow2", "-o", options, &file(0), SIZE];
    qemu_img(folder.path(), &args);
    is_refused("LUKS", read(folder.path()), "encryption method: found 0x2");

    let folder = fresh();
    made(folder.path(), "compression_type=zstd").expect("a plain image");
    qemu_img(folder.path(), &["snapshot", "-c", "before", &file(0)]);
    is_refused("a snapshot", read(folder.path()), "internal snapshots: found 0x1");
    qemu_img(folder.path(), &["snapshot", "-d", "before", &file(0)]);
    is_read("a snapshot that has gone", folder.path(), read(folder.path()));

    qemu_img(folder.path(), &["bitmap", "--add", &file(0), "changes"]);
    qemu_io(folder.path(), &file(0), "qcow2", &["write -q -P 7 700000 5000".to_owned()]);
    is_read("a bitmap", folder.path(), read(folder.path()));
}

/// The reader obeys the bits of the header: it reads a dirty image, and refuses one that is marked corrupt or has
/// unknown bits. It skips unknown extensions.
#[test]
fn header_bits_are_respected() {
    if !backy_tests::qemu::available() {
        return;
    }
    let (folder, found) = patched(&[(79, &[0x09])]);
    is_read("dirty", folder.path(), found);
    is_refused("corrupt", patched(&[(79, &[0x0a])]).1, "marked corrupt");
    is_refused("unknown bits", patched(&[(72, &[0x80])]).1, "unknown bits");
    is_refused(
        "a compression type that nobody knows",
        patched(&[(104, &[2])]).1,
        "compression type",
    );
    is_refused("no image", patched(&[(0, b"KDMV")]).1, "magic");
    // The first extension of an image without a backing file is the table of feature names.
    let (folder, found) = patched(&[(112, &[0x12, 0x34, 0x56, 0x78])]);
    is_read("an unknown extension", folder.path(), found);
    is_refused("an extension without end", patched(&[(116, &[0xff; 4])]).1, "header extension");
}

/// A backing file that is not one of the archive is never opened.
#[test]
fn other_backing_files_are_refused() {
    if !backy_tests::qemu::available() {
        return;
    }
    for backing in ["../last.raw", "/etc/passwd", "other.raw", "json:{\"driver\":\"null-co\"}"] {
        let folder = fresh();
        let name = file(0);
        qemu_img(
            folder.path(),
            &["create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", &name, SIZE],
        );
        is_refused(backing, read(folder.path()), "backing file name: found");
    }
    let folder = fresh();
    let format = ["-b", "last.raw", "-F", "qcow2", &file(0), SIZE];
    qemu_img(folder.path(), &[&["create", "-q", "-u", "-f", "qcow2"][..], &format[..]].concat());
    is_refused("last.raw as qcow2", read(folder.path()), "backing file format: found 'qcow2'");
}

/// A delta that QEMU has resized is no longer that of its revision.
#[test]
fn a_resized_delta_is_refused() {
    if !backy_tests::qemu::available() {
        return;
    }
    let folder = fresh();
    made(folder.path(), "compression_type=zstd").expect("a plain image");
    for size in ["2M", "512K"] {
        qemu_img(folder.path(), &["resize", "-q", "--shrink", &file(0), size]);
        is_read(size, folder.path(), read(folder.path()));
        let storage = DirStorage::open(folder.path()).expect("the folder");
        let size_bytes = SIZE.parse().expect("a number");
        let opened = Delta::open(&storage, revision(0), BlockSize::DEFAULT, size_bytes);
        let error = opened.err().expect("an error").to_string();
        assert!(error.contains("virtual size: found"), "{error}");
    }
}
