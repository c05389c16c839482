//! Which archives a caller can name: those below the root, and nothing else, whatever the path or the links say.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use backy_lib::Archive;
use backy_lib::origin::wire::serve;
use backy_tests::canary;

use super::*;

struct Scene {
    temp: tempfile::TempDir,
    root: PathBuf,
}

/// A root with an archive, a folder with one, and links that lead in and out; and an archive outside.
fn scene() -> Scene {
    canary::plant();
    let temp = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| temp.path().join(name);
    for name in ["outside", "root/archive", "root/group/inner", "root-2"] {
        std::fs::create_dir_all(at(name)).expect("a folder");
        Archive::init(&at(name), None, BlockSize::MIN).expect("an archive");
    }
    for (target, name) in [
        ("archive", "root/link"),
        ("../outside", "root/out"),
        ("..", "root/up"),
        ("nowhere", "root/dangling"),
        ("../new", "root/to-new"),
        ("loop", "root/loop"),
        ("root", "root-link"),
    ] {
        symlink(target, at(name)).expect("a link");
    }
    symlink(at("outside"), at("root/absolute-out")).expect("a link");
    let root = at("root");
    Scene { temp, root }
}

fn named(role: Role, root: &Path, archive: &str) -> (Result<()>, Result<PathBuf>) {
    let laid = Link::default().lay();
    let hello = hello(role, archive);
    let caller = std::thread::spawn(move || call(laid.caller, "far", &hello, patience()).map(drop));
    let called = match role {
        Role::Ask => serve(root, laid.called, &options(patience())).map(|_| PathBuf::new()),
        Role::Answer => accept(root, laid.called, &options(patience())).and_then(|accepted| {
            let folder = accepted.folder.clone();
            accepted.begin()?;
            Ok(folder)
        }),
    };
    (caller.join().expect("no panic"), called)
}

/// What is below the root can be named by a relative or an absolute path, and through links that stay inside.
#[test]
fn archives_below_the_root_can_be_named() {
    let Scene { temp, root } = scene();
    let real = root.canonicalize().expect("the root");
    let absolute = |name: &str| root.join(name).display().to_string();
    for (name, folder) in [
        ("archive", "archive"),
        ("./group//inner/", "group/inner"),
        ("link", "archive"),
        ("up/root/archive", "archive"),
        (&absolute("archive"), "archive"),
        (&absolute("group/inner"), "group/inner"),
    ] {
        let (asked, served) = named(Role::Ask, &root, name);
        assert!(asked.is_ok() && served.is_ok(), "{name}: {asked:?} {served:?}");
        let (answered, accepted) = named(Role::Answer, &root, name);
        assert!(answered.is_ok(), "{name}: {answered:?}");
        assert_eq!(accepted.expect("a folder"), real.join(folder));
    }
    // The root itself, and one that is a link.
    for (root, name) in [
        (root.join("archive"), absolute("archive")),
        (root.join("archive"), ".".to_owned()),
        (temp.path().join("root-link"), "archive".to_owned()),
        (temp.path().join("root-link"), absolute("archive")),
        (
            temp.path().join("root-link"),
            temp.path().join("root-link/archive").display().to_string(),
        ),
    ] {
        let (asked, served) = named(Role::Ask, &root, &name);
        assert!(asked.is_ok() && served.is_ok(), "{name}: {asked:?} {served:?}");
    }
}

/// What is elsewhere cannot be named by any path or link, and nothing is made there.
#[test]
fn nothing_outside_of_the_root_can_be_named() {
    let Scene { temp, root } = scene();
    let outside = temp.path().join("outside").display().to_string();
    let sibling = temp.path().join("root-2").display().to_string();
    let up = root.join("../outside").display().to_string();
    for name in [
        "..",
        "../outside",
        "archive/../../outside",
        "archive/..",
        "out",
        "absolute-out",
        "up",
        "up/outside",
        "up/root-2",
        "/",
        "/etc",
        "//",
        &outside,
        &sibling,
        &up,
        "up/new",
        "out/new",
        "to-new",
        "dangling",
        "loop",
        "a\0b",
        &"x/".repeat(3000),
        "archive/manifest.json",
    ] {
        for role in [Role::Ask, Role::Answer] {
            let (caller, called) = named(role, &root, name);
            let (caller, called) = (caller.map(drop), called.map(drop));
            assert!(caller.is_err() && called.is_err(), "{role:?} {name}");
            assert!(!called.unwrap_err().to_string().contains('\n'), "{name}");
        }
    }
    assert!(!temp.path().join("new").exists() && !temp.path().join("outside/new").exists());
}

/// A new archive can be named where the folder above it is inside, or where it is the root itself.
#[test]
fn a_new_archive_can_be_named_below_the_root() {
    let Scene { temp, root } = scene();
    let real = root.canonicalize().expect("the root");
    let absolute = root.join("new").display().to_string();
    for (name, folder) in [("new", "new"), ("group/new", "group/new"), (absolute.as_str(), "new")] {
        let (caller, called) = named(Role::Answer, &root, name);
        assert!(caller.is_ok(), "{name}: {caller:?}");
        assert_eq!(called.expect("a folder"), real.join(folder));
        // Only a pull makes it.
        assert!(!real.join(folder).exists());
    }
    let new_root = temp.path().join("new-root");
    let (caller, called) = named(Role::Answer, &new_root, &new_root.display().to_string());
    assert!(caller.is_ok() && called.is_ok_and(|folder| folder.ends_with("new-root")));
    for name in ["none/new", "archive/README/new"] {
        let (caller, called) = named(Role::Answer, &root, name);
        assert!(caller.is_err() && called.is_err(), "{name}");
    }
    // As without a forced command, where the root is the archive itself.
    for (root, name) in [(&root, "new"), (&new_root, "")] {
        let (caller, _) = named(Role::Ask, root, name);
        assert_eq!(caller.expect_err("nothing there").kind(), ErrorKind::NoArchive);
    }
}
