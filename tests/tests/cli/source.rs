//! What the source turned into: nothing, less, another disk, an image in another format.

use std::fs;

use backy_tests::qemu::skipped;

use super::harness::{SOURCE_BYTES, Scene, noise, tool};

/// Zeros with the superblock of an ext file system at its beginning, and noise.
fn with_file_system(uuid: u8, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; SOURCE_BYTES];
    disk[500_000..600_000].copy_from_slice(&noise(seed, 100_000));
    disk[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
    disk[1024 + 104..1024 + 120].fill(uuid);
    disk
}

fn alarm(scene: &Scene) -> String {
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    status["health"].to_string()
}

/// An empty source makes no revision, and deletes none.
#[test]
fn an_empty_source_is_not_backed_up() {
    let (scene, states) = Scene::with_revisions(2);
    scene.write("source.img", b"");
    for args in
        [&["-b", "a", "backup", "--force"][..], &["-b", "a", "backup", "--dry-run", "--force"]]
    {
        scene.refuses(args, &["source.img", "it is empty"]);
    }
    scene.holds(&states);
    // `init` accepts one that is still to be filled.
    scene.works(&["-b", "b", "init", "source.img"]);
    scene.refuses(&["-b", "b", "backup"], &["it is empty"]);
}

/// If most of the data is gone, behind the new end or now zero, backy warns, and nothing expires until somebody has
/// confirmed it, even with two revisions, which do not show what is usual.
#[test]
fn a_source_that_lost_most_of_its_data_freezes_expiry() {
    let cut = |mut state: Vec<u8>| {
        state.truncate(SOURCE_BYTES / 3);
        state
    };
    let emptied = |mut state: Vec<u8>| {
        state[SOURCE_BYTES / 3..].fill(0);
        state
    };
    for (what, change) in [("cut", cut as fn(Vec<u8>) -> Vec<u8>), ("emptied", emptied)] {
        let (scene, mut states) = Scene::with_revisions(1);
        let after = change(scene.read("source.img"));
        scene.write("source.img", &after);
        let run = scene.works(&["-b", "a", "backup", "--force", "--json"]);
        assert!(
            run.stderr.contains("revision 0 lacks") && run.stderr.contains("confirm"),
            "{what}: {run:?}"
        );
        let statistics = &run.json()["revision"]["statistics"];
        let lost = statistics["lost_bytes"].as_u64().expect("lost_bytes");
        assert!((960_000..=1_000_010).contains(&lost), "{what}: {statistics}");
        assert!(statistics["changed_bytes"].as_u64() >= Some(lost), "{what}: {statistics}");
        states.insert(0, after);
        assert!(alarm(&scene).contains("unusual-change"), "{what}");
        scene.works(&["-b", "a", "maintenance", "--keep", "1"]);
        scene.holds(&states);
        scene.works(&["-b", "a", "maintenance", "--keep", "1", "--confirm"]);
        scene.holds(&states[..1]);
    }
}

/// Less than half of the data may become zeros, and all of it may change, without a warning.
#[test]
fn a_source_that_lost_some_of_its_data_is_backed_up_quietly() {
    let (scene, _) = Scene::with_revisions(1);
    let mut state = scene.read("source.img");
    state[SOURCE_BYTES * 2 / 3..].fill(0);
    scene.write("source.img", &state);
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "");
    scene.write("source.img", &noise(99, SOURCE_BYTES));
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "");
}

/// Another disk under the same name is reported and remembered. A restore to "the source" does not overwrite it.
#[test]
fn another_disk_under_the_same_name_is_reported() {
    let scene = Scene::new();
    let (web, photos) = (with_file_system(1, 7), with_file_system(2, 8));
    scene.write("source.img", &web);
    scene.works(&["-b", "a", "init", "source.img"]);
    assert_eq!(scene.works(&["-b", "a", "backup"]).stderr, "");
    scene.works(&["-b", "a", "restore"]);
    scene.write("source.img", &photos);
    let words = ["not the source that was backed up", "file system", "--force"];
    scene.refuses(&["-b", "a", "restore"], &words);
    scene.refuses(&["-b", "a", "restore", "--dry-run"], &words);
    let run = scene.works(&["-b", "a", "backup", "--force"]);
    assert!(run.stderr.contains("another source") && run.stderr.lines().count() == 1, "{run:?}");
    assert!(alarm(&scene).contains("another source"));
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "", "told once");
    // The disk is not overwritten until somebody has confirmed that it is the right one.
    scene.refuses(&["-b", "a", "restore", "-r", "2"], &["not the source", "--force"]);
    scene.works(&["-b", "a", "restore", "-r", "2", "--force"]);
    assert!(scene.read("source.img") == web);
    scene.write("source.img", &photos);
    scene.works(&["-b", "a", "maintenance", "--confirm"]);
    scene.works(&["-b", "a", "restore"]);
}

/// A replaced file is another source if its content differs. A copy of the same content is not.
#[test]
fn a_copy_of_the_source_file_is_the_same_source() {
    let scene = Scene::with_archive();
    scene.works(&["-b", "a", "backup"]);
    let replace = |content: &[u8]| {
        scene.write("other.img", content);
        fs::rename(scene.path("other.img"), scene.path("source.img")).expect("rename");
    };
    let mut copy = scene.read("source.img");
    copy[100_000..200_000].fill(7);
    replace(&copy);
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "");
    scene.works(&["-b", "a", "restore"]);
    replace(&noise(44, SOURCE_BYTES));
    let knows_birth = scene.read_text("a/manifest.json").contains("\"born\"");
    let run = scene.works(&["-b", "a", "backup", "--force"]);
    assert_eq!(run.stderr.contains("another source"), knows_birth, "{run:?}");
}

/// An image in another format is backed up as the file that it is. backy says so once, with the file that it needs.
#[test]
fn an_image_in_another_format_is_named_as_such() {
    let scene = Scene::new();
    let mut image = noise(5, SOURCE_BYTES);
    image[..4096].fill(0);
    image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    image[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 8]);
    image[512..520].copy_from_slice(b"base.img");
    scene.write("source.img", &image);
    let says = |text: &str| {
        let words = ["qcow2", "'base.img'", "not backed up"];
        words.iter().all(|word| text.contains(word)) && text.lines().count() == 1
    };
    let run = scene.works(&["-b", "a", "init", "source.img"]);
    assert!(says(&run.stderr), "{run:?}");
    let run = scene.works(&["-b", "a", "backup"]);
    assert!(says(&run.stderr), "{run:?}");
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "");
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["last_source"]["container"], "qcow2");
    assert_eq!(status["last_source"]["backing_file"], "base.img");
    assert!(scene.read("a/last.raw") == image);
}

/// What backy records about file systems and partition tables matches what other programs report.
#[test]
fn disk_identifiers_match_those_of_other_programs() {
    for (program, args, probe) in [
        ("mkfs.ext4", &["-q", "-F"][..], "UUID"),
        ("mkfs.xfs", &["-q", "-f"], "UUID"),
        ("mkfs.btrfs", &["-q", "-f"], "UUID"),
        ("sh", &["-c", "echo label: gpt | sfdisk --quiet \"$0\""], "PTUUID"),
    ] {
        let scene = Scene::new();
        scene.write("source.img", b"");
        let file = fs::File::options().write(true).open(scene.path("source.img")).expect("open");
        file.set_len(400 << 20).expect("a sparse file");
        let path = scene.text_path("source.img");
        let made = tool(program, &[args, &[&path]].concat());
        let Some(()) = made.map(|run| assert_eq!(run.status, Some(0), "{run:?}")) else {
            skipped(program);
            continue;
        };
        let Some(found) = tool("blkid", &["-p", "-o", "value", "-s", probe, &path]) else {
            skipped("blkid");
            return;
        };
        scene.works(&["-b", "a", "init", "source.img"]);
        scene.works(&["-b", "a", "backup"]);
        let status = scene.works(&["-b", "a", "status", "--json"]).json();
        let field = if probe == "UUID" { "file_system_uuid" } else { "partition_table_uuid" };
        let recorded = status["last_source"][field].as_str().unwrap_or_default().to_owned();
        assert_eq!(recorded.to_lowercase(), found.text().trim().to_lowercase(), "{program}");
    }
}

/// An export of an NBD server that a hook starts, as the document has it: what the guest of a qcow2 image sees, without
/// holes. A restore back to it is refused, and so is an address that makes no sense.
#[test]
fn an_nbd_export_is_backed_up() {
    if tool("qemu-nbd", &["--version"]).is_none() {
        return skipped("there is no qemu-nbd");
    }
    let scene = Scene::new();
    let mut disk = noise(3, 2_000_000);
    disk[400_000..1_500_000].fill(0);
    disk.resize(2_097_152, 0);
    scene.write("disk.raw", &disk);
    let (raw, image) = (scene.text_path("disk.raw"), scene.text_path("vm.qcow2"));
    let made = ["convert", "-f", "raw", "-O", "qcow2", &raw, &image];
    assert_eq!(tool("qemu-img", &made).map(|run| run.status), Some(Some(0)));
    let socket = scene.text_path("socket");
    let source = format!("nbd+unix:///?socket={socket}");
    scene.works(&["-b", "a", "init", &source]);
    let before = format!("qemu-nbd --read-only --fork --format qcow2 --socket {socket} {image}");
    let config = scene.read_text("a/backy.toml") + &format!("\n[hooks]\nbefore = \"{before}\"\n");
    scene.write("a/backy.toml", config.as_bytes());
    for _ in 0..2 {
        let made = scene.works(&["-b", "a", "backup", "--force", "--json"]).json();
        let read = made["revision"]["statistics"]["read_bytes"].as_u64().expect("a number");
        assert!(read < 1_200_000, "{read}");
        assert!(scene.read("a/last.raw") == disk);
    }
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(
        (&status["source"], &status["last_source"]["kind"]),
        (&source.into(), &"NBD export".into())
    );
    scene.refuses(&["-b", "a", "restore", "--yes"], &["nbd+unix:", "name a target"]);
    scene.works(&["-b", "a", "restore", "back.raw"]);
    assert!(scene.read("back.raw") == disk);
    let looked = scene.run(&["-b", "a", "source"]);
    assert_eq!(looked.status, Some(1));
    assert!(looked.stderr.contains("nbd+unix:"), "{looked:?}");
    for (wrong, part) in [("nbd+unix:///x", "socket"), ("ceph:pool/x", "unknown kind of source")] {
        scene.refuses(&["-b", "b", "init", wrong], &[part]);
        scene.write("a/backy.toml", format!("source = \"{wrong}\"\n").as_bytes());
        scene.refuses(&["-b", "a", "backup"], &["backy.toml:1:10", part]);
    }
}
