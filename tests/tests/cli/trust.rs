//! An archive, a link or a config that other users can change: backy does nothing that they could decide, unless
//! somebody says so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use backy_tests::legacy::OldArchive;
use backy_tests::qemu::skipped;

use super::harness::{Scene, is_root, noise, program, tool};

/// A user and a group that nobody has.
pub(crate) const STRANGER: u32 = 4711;

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

pub(crate) fn give_away(path: &Path) {
    lchown(path, Some(STRANGER), Some(STRANGER)).unwrap();
}

/// Whether this is root, who can change owners. Prints `SKIPPED` when not.
pub(crate) fn can_give() -> bool {
    if !is_root() {
        skipped("only root can give files to another user");
    }
    is_root()
}

/// All that changes an archive or acts on what its config says.
const ACTING: [&[&str]; 9] = [
    &["backup", "--force"],
    &["tag", "0", "+x"],
    &["scrub"],
    &["scrub", "--rebuild", "--force"],
    &["maintenance"],
    &["rm", "--force", "1"],
    &["drill"],
    &["restore"],
    &["restore", "--dry-run"],
];

/// All that only reads it.
const READING: [&[&str]; 10] = [
    &["status"],
    &["check", "a"],
    &["find"],
    &["tag", "0"],
    &["scrub", "-n"],
    &["maintenance", "-n"],
    &["rm", "-n", "--force", "1"],
    &["backup", "--force", "--dry-run"],
    &["restore", "-"],
    &["report", "-o", "-", "a"],
];

fn of_archive(args: &[&'static str]) -> Vec<&'static str> {
    [&["-b", "a"], args].concat()
}

/// Every command that acts on the archive is refused with these words. All that only reads works.
pub(crate) fn is_not_trusted(scene: &Scene, words: &[&str]) {
    let words = [&["not trusted: ", "expected only root", "--trust"], words].concat();
    for args in ACTING {
        scene.refuses(&of_archive(args), &words);
    }
    for args in READING {
        let run = scene.run(&of_archive(args));
        assert!(run.stderr.is_empty(), "{args:?}: {run:?}");
    }
}

/// Everything works, without a word about trust.
fn is_trusted(scene: &Scene) {
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "");
    assert_eq!(scene.works(&["-b", "a", "tag", "0", "+y"]).stderr, "");
    assert_eq!(warnings(scene), Vec::<String>::new());
}

fn warnings(scene: &Scene) -> Vec<String> {
    let status = scene.works(&["-b", "a", "status"]);
    let lines = status.text().lines().filter(|line| line.starts_with("WARNING: "));
    lines.map(str::to_owned).collect()
}

/// Whoever can write to the folder, a folder above it or the config decides what happens: no command that acts on the
/// archive does anything, `status` reports it, and reading works. In a sticky folder names are safe, but not in a
/// sticky archive.
#[test]
fn archives_that_others_can_write_to_are_not_acted_on() {
    let (scene, states) = Scene::with_revisions(2);
    let above = scene.path("a").parent().unwrap().to_owned();
    is_trusted(&scene);
    let states = [&states[..1], &states[..]].concat();
    for (path, mode, good) in [
        (scene.path("a"), 0o702, 0o700),
        (scene.path("a"), 0o1777, 0o755),
        (scene.path("a/backy.toml"), 0o606, 0o600),
        (above.clone(), 0o777, 0o1777),
    ] {
        set_mode(&path, mode);
        let words = [path.to_str().unwrap(), "every user may write to it"];
        is_not_trusted(&scene, &words);
        let warnings = warnings(&scene);
        assert!(warnings.len() == 1, "{warnings:?}");
        assert!(words.iter().all(|word| warnings[0].contains(word)), "{warnings:?}");
        scene.works(&["-b", "a", "--trust", "tag", "0", "+y"]);
        set_mode(&path, good);
        assert_eq!(self::warnings(&scene), Vec::<String>::new(), "{good:o}");
        scene.works(&["-b", "a", "tag", "0", "+y"]);
    }
    scene.holds(&states);
}

/// The owner of the folder, one above it, or the config can change it, whatever its permissions.
#[test]
fn archives_of_another_user_are_not_acted_on() {
    if !can_give() {
        return;
    }
    let (scene, _) = Scene::with_revisions(2);
    let above = scene.path("a").parent().unwrap().to_owned();
    for path in [scene.path("a"), scene.path("a/backy.toml"), above] {
        give_away(&path);
        is_not_trusted(&scene, &[path.to_str().unwrap(), "it belongs to user 4711"]);
        lchown(&path, Some(0), Some(0)).unwrap();
        scene.works(&["-b", "a", "tag", "0", "+y"]);
    }
    is_trusted(&scene);
}

/// A symbolic link on the way to the archive counts like a folder: one of root's is followed, one of somebody
/// else's is not.
#[test]
fn links_to_the_archive_need_a_trusted_owner() {
    if !can_give() {
        return;
    }
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("links")).unwrap();
    symlink("..", scene.path("links/up")).unwrap();
    let tag = ["-b", "links/up/a", "tag", "0", "+x"];
    scene.works(&tag);
    give_away(&scene.path("links/up"));
    scene.refuses(&tag, &["links/up: not trusted: it belongs to user 4711"]);
    lchown(scene.path("links/up"), Some(0), Some(0)).unwrap();
    // Its folder is passed only on the way to the link.
    give_away(&scene.path("links"));
    scene.refuses(&tag, &["links: not trusted: it belongs to user 4711"]);
    scene.works(&["-b", "links/up/a", "status"]);
}

/// A group that may write counts, unless it is root's. So does whoever an access control list names, of which the
/// permissions only show that somebody may write.
#[test]
fn groups_and_access_control_lists_count() {
    if !can_give() {
        return;
    }
    let (scene, _) = Scene::with_revisions(2);
    let folder = scene.path("a");
    set_mode(&folder, 0o770);
    is_trusted(&scene);
    lchown(&folder, None, Some(STRANGER)).unwrap();
    is_not_trusted(&scene, &["a: not trusted: group 4711 may write to it"]);
    set_mode(&folder, 0o755);
    is_trusted(&scene);
    lchown(&folder, None, Some(0)).unwrap();
    for (name, who, tag, id) in
        [("a", "user 4711", 0x02, STRANGER), ("a/backy.toml", "group 50", 0x08, 50)]
    {
        let path = scene.path(name);
        let none = u32::MAX;
        let mut list = 2u32.to_le_bytes().to_vec();
        let mut entries =
            [(0x01, 7, none), (0x04, 5, none), (0x10, 7, none), (0x20, 0, none), (tag, 7, id)];
        // The kernel takes them in this order only.
        entries.sort();
        for (tag, rights, id) in entries {
            list.extend(u16::to_le_bytes(tag).into_iter().chain(u16::to_le_bytes(rights)));
            list.extend(u32::to_le_bytes(id));
        }
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(&path, "system.posix_acl_access", &list, flags).is_err() {
            return skipped("this file system has no access control lists");
        }
        is_not_trusted(&scene, &[&format!("{name}: not trusted: {who} may write to it")]);
        rustix::fs::removexattr(&path, "system.posix_acl_access").unwrap();
        set_mode(&path, 0o700);
        is_trusted(&scene);
    }
}

/// backy does not run hooks of somebody else, write his text file, or read his source. With --trust it does all
/// three.
#[test]
fn a_config_of_another_user_decides_nothing() {
    if !can_give() {
        return;
    }
    let (scene, states) = Scene::with_revisions(1);
    let (proof, figures) = (scene.text_path("proof"), scene.text_path("figures.prom"));
    let config = scene.read_text("a/backy.toml");
    let more =
        format!("[hooks]\nbefore = \"touch {proof}\"\n[monitoring]\ntextfile = \"{figures}\"\n");
    scene.write("a/backy.toml", format!("{config}\n{more}").as_bytes());
    scene.write("figures.prom", b"important 1\n");
    give_away(&scene.path("a/backy.toml"));
    scene.change_source(5);
    let before = scene.read("source.img");
    for args in ACTING.into_iter().chain(READING) {
        scene.run(&of_archive(args));
        assert!(!scene.path("proof").exists(), "{args:?} ran a hook");
        assert_eq!(scene.read("figures.prom"), b"important 1\n", "{args:?}");
        assert!(scene.read("source.img") == before, "{args:?} wrote to the source");
    }
    scene.holds(&states);
    scene.works(&["-b", "a", "--trust", "backup", "--force"]);
    assert!(scene.path("proof").exists());
    assert_eq!(scene.read("figures.prom"), b"important 1\n", "backy did not write that");
    std::fs::remove_file(scene.path("figures.prom")).unwrap();
    scene.works(&["-b", "a", "--trust", "backup", "--force"]);
    assert!(scene.read_text("figures.prom").starts_with("# HELP backy_"));
}

/// A source file that somebody else's config names may not be overwritten for that reason.
#[test]
fn a_source_of_another_users_config_is_overwritten_only_by_force() {
    if !can_give() {
        return;
    }
    let (scene, _) = Scene::with_revisions(1);
    scene.change_source(3);
    give_away(&scene.path("a/backy.toml"));
    let restore = ["-b", "a", "restore", "source.img"];
    scene.refuses(&restore, &["it exists already and is not the source", "--force"]);
    lchown(scene.path("a/backy.toml"), Some(0), Some(0)).unwrap();
    scene.works(&restore);
}

/// backy does not even open the source that somebody else's config names to find its size.
#[test]
fn a_dry_run_opens_no_source_of_another_users_config() {
    if !can_give() {
        return;
    }
    let (scene, _) = Scene::with_revisions(1);
    fs::remove_file(scene.path("source.img")).unwrap();
    let dry_run = ["-b", "a", "backup", "--force", "--dry-run"];
    scene.refuses(&dry_run, &["source.img: cannot open it: No such file"]);
    give_away(&scene.path("a/backy.toml"));
    assert!(scene.works(&dry_run).text().contains("A backup is due"));
}

/// No archive is made where others could change it: not in their folder, nor below one that they can write to. A
/// sticky folder such as /tmp is fine.
#[test]
fn init_refuses_folders_that_others_can_write_to() {
    let scene = Scene::new();
    OldArchive::write(&scene.path("old"), 4096, 0, &[noise(4, 100_000)]);
    fs::create_dir(scene.path("place")).unwrap();
    set_mode(&scene.path("place"), 0o777);
    let making: [&[&str]; 3] = [
        &["-b", "place/a", "init", "source.img"],
        &["-b", "place/b/c", "init", "source.img"],
        &["-b", "place/d", "import", "old"],
    ];
    for args in making {
        scene.refuses(args, &["place: not trusted: every user may write to it", "--trust"]);
    }
    scene.refuses(&["-b", "place", "init", "source.img"], &["place: not trusted"]);
    scene.works(&["-b", "place/trusted", "--trust", "init", "source.img"]);
    set_mode(&scene.path("place"), 0o1777);
    for args in making {
        scene.works(args);
    }
    scene.refuses(&["-b", "place", "init", "source.img"], &["place: not trusted"]);
    if can_give() {
        fs::create_dir(scene.path("theirs")).unwrap();
        give_away(&scene.path("theirs"));
        let init = ["-b", "theirs/a", "init", "source.img"];
        scene.refuses(&init, &["theirs: not trusted: it belongs to user 4711"]);
    }
}

/// A restore saves what it overwrites only where nobody else can change that.
#[test]
fn restore_saves_no_undo_where_others_can_write() {
    let (scene, _) = Scene::with_revisions(1);
    scene.change_source(3);
    fs::create_dir(scene.path("place")).unwrap();
    set_mode(&scene.path("place"), 0o777);
    let restore = ["-b", "a", "restore", "--undo", "place/undo"];
    scene.refuses(&restore, &["place: not trusted: every user may write to it"]);
    set_mode(&scene.path("place"), 0o1777);
    scene.works(&restore);
}

/// An old archive that belongs to somebody else is imported, but does not determine the source of later backups.
#[test]
fn an_import_takes_no_source_from_another_user() {
    if !can_give() {
        return;
    }
    let scene = Scene::new();
    OldArchive::write(&scene.path("old"), 4096, 0, &[noise(4, 100_000)]);
    scene.works(&["-b", "a", "import", "old"]);
    assert!(scene.read_text("a/backy.toml").contains("\nsource = \"/dev/vg0/old\""));
    give_away(&scene.path("old/config"));
    scene.works(&["-b", "of-config", "import", "old"]);
    assert!(!scene.read_text("of-config/backy.toml").contains("/dev/vg0/old"));
    lchown(scene.path("old/config"), Some(0), Some(0)).unwrap();
    give_away(&scene.path("old"));
    scene.works(&["-b", "b", "import", "old"]);
    assert!(!scene.read_text("b/backy.toml").contains("/dev/vg0/old"));
    scene.works(&["-b", "c", "--trust", "import", "old"]);
    assert!(scene.read_text("c/backy.toml").contains("\nsource = \"/dev/vg0/old\""));
}

/// A source or a target behind a symbolic link is followed if the link belongs to root or to the caller,
/// wherever in the path it is.
#[test]
fn links_of_other_users_are_not_followed_to_a_source_or_target() {
    if !can_give() {
        return;
    }
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("disks")).unwrap();
    scene.write("disks/disk.img", &noise(7, 100_000));
    symlink("disks/disk.img", scene.path("link")).unwrap();
    symlink("disks", scene.path("middle")).unwrap();
    for (link, path) in [("link", "link"), ("middle", "middle/disk.img")] {
        let config = scene.read_text("a/backy.toml");
        let source = format!("source = \"{}\"", scene.text_path(path));
        let own = format!("source = \"{}\"", scene.text_path("source.img"));
        scene.write("a/backy.toml", config.replace(&own, &source).as_bytes());
        give_away(&scene.path(link));
        let words = ["this symbolic link belongs to user 4711", link, "name its target"];
        scene.refuses(&["-b", "a", "backup", "--force"], &words);
        scene.refuses(&["-b", "a", "restore", "--force"], &words);
        scene.refuses(&["-b", "b", "init", path], &words);
        scene.refuses(&["-b", "a", "restore", "--force", path], &words);
        lchown(scene.path(link), Some(0), Some(0)).unwrap();
        scene.works(&["-b", "a", "backup", "--force"]);
        scene.works(&["-b", "a", "restore", "-r", "1", "--force", path]);
        scene.write("a/backy.toml", config.as_bytes());
    }
    // A file that does not exist yet, in a folder behind such a link.
    give_away(&scene.path("middle"));
    let words = ["this symbolic link belongs to user 4711", "middle"];
    scene.refuses(&["-b", "a", "restore", "middle/new.img"], &words);
    scene.refuses(&["-b", "a", "export", "middle/new.qcow2"], &words);
    scene.works(&["-b", "a", "restore", "disks/new.img"]);
}

/// A user trusts root, himself and his private group, but not a group that others share.
#[test]
fn a_user_trusts_root_and_himself() {
    if !can_give() || tool("setpriv", &["--version"]).is_none() {
        return;
    }
    let scene = Scene::new();
    let home = scene.path("home");
    let command = scene.path("backy");
    fs::copy(program(), &command).unwrap();
    set_mode(scene.path("home").parent().unwrap(), 0o755);
    fs::create_dir(&home).unwrap();
    give_away(&home);
    set_mode(&scene.path("source.img"), 0o644);
    let archive = scene.text_path("home/a");
    let source = scene.text_path("source.img");
    let run = |group: u32, args: &[&str]| {
        let group = format!("--regid={group}");
        let starter = ["--reuid=4711", &group, "--clear-groups", command.to_str().unwrap()];
        tool("setpriv", &[&starter[..], &["-b", &archive], args].concat()).unwrap()
    };
    let works = |group, args: &[&str]| {
        let run = run(group, args);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{args:?}");
    };
    let backup = ["backup", "--force"];
    works(STRANGER, &["init", &source]);
    works(STRANGER, &backup);
    for path in ["home", "home/a"] {
        set_mode(&scene.path(path), 0o775);
        works(STRANGER, &backup);
        let refused = run(100, &backup);
        assert!(refused.stderr.contains("group 4711 may write to it"), "{refused:?}");
        lchown(scene.path(path), None, Some(100)).unwrap();
        let refused = run(STRANGER, &backup);
        assert!(refused.stderr.contains("group 100 may write to it"), "{refused:?}");
        assert!(refused.stderr.contains("expected only root and user 4711"), "{refused:?}");
        lchown(scene.path(path), None, Some(STRANGER)).unwrap();
        set_mode(&scene.path(path), 0o755);
    }
    lchown(&home, Some(0), Some(0)).unwrap();
    works(STRANGER, &backup);
}

/// Where there are permissions, accepting that there are none changes nothing.
#[test]
fn permissions_that_are_there_count() {
    let (scene, _) = Scene::with_revisions(1);
    let config = scene.read_text("a/backy.toml");
    let accepted = format!("{config}\n[monitoring]\naccept_no_permissions = true\n");
    scene.write("a/backy.toml", accepted.as_bytes());
    set_mode(&scene.path("a"), 0o777);
    scene.refuses(&["-b", "a", "tag", "0", "+x"], &["every user may write to it"]);
    assert_eq!(warnings(&scene).len(), 1);
}
