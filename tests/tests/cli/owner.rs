//! Root in the archive of a user: backy makes changes as that user, and new files belong to that user.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::process::Command;

use super::harness::{Run, Scene, noise, program};
use super::trust::{STRANGER, can_give, give_away, set_mode};

/// The archive of a user with a revision of his source, below a folder that everybody may pass.
struct UsersArchive {
    scene: Scene,
}

impl UsersArchive {
    fn make() -> Option<Self> {
        if !can_give() {
            return None;
        }
        let scene = Scene::new();
        set_mode(&scene.path("."), 0o755);
        fs::create_dir(scene.path("home")).unwrap();
        fs::rename(scene.path("source.img"), scene.path("home/disk.img")).unwrap();
        give_away(&scene.path("home"));
        give_away(&scene.path("home/disk.img"));
        let archive = UsersArchive { scene };
        archive.owner_does(&["init", "home/disk.img"]);
        archive.owner_does(&["backup", "--force"]);
        archive.owner_does(&["backup", "--force"]);
        Some(archive)
    }

    fn owner_does(&self, args: &[&str]) {
        let run = self.as_owner(args);
        assert_eq!(run.status, Some(0), "{args:?} by the owner: {run:?}");
    }

    fn as_owner(&self, args: &[&str]) -> Run {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}")])
            .arg("--clear-groups")
            .arg(program())
            .args(["-b", "home/a"])
            .args(args)
            .current_dir(self.scene.path("."));
        command.output().expect("run setpriv").into()
    }

    fn root_does(&self, args: &[&str]) -> Run {
        self.scene.run(&[&["-b", "home/a"], args].concat())
    }

    fn has_only_files_of_the_owner(&self, after: &[&str]) {
        for entry in fs::read_dir(self.scene.path("home/a")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().uid(),
                STRANGER,
                "{:?} after {after:?}",
                entry.path()
            );
        }
    }
}

/// Commands that only change the archive work for root in the archive of a user, who can continue afterwards.
/// Commands that read the source or restore are refused, also when they would be harmless.
#[test]
fn root_changes_a_users_archive_as_that_user() {
    let Some(archive) = UsersArchive::make() else { return };
    let changing: [&[&str]; 4] =
        [&["tag", "0", "+keep"], &["scrub"], &["maintenance"], &["rm", "--force", "1"]];
    for args in changing {
        let run = archive.root_does(&[&["-v"], args].concat());
        assert_eq!(run.status, Some(0), "{args:?}: {run:?}");
        assert!(run.stderr.contains("working as that user"), "{args:?}: {run:?}");
        archive.has_only_files_of_the_owner(args);
        archive.owner_does(&["backup", "--force"]);
        archive.owner_does(&["restore", "--force"]);
    }
    for args in [&["backup", "--force"][..], &["drill"], &["restore"]] {
        let run = archive.root_does(args);
        assert_eq!(run.status, Some(1), "{args:?}: {run:?}");
        assert!(run.stderr.contains("it belongs to user 4711"), "{args:?}: {run:?}");
    }
    let trusting = ["--trust", "backup", "--force"];
    assert_eq!(archive.root_does(&trusting).status, Some(0));
    archive.has_only_files_of_the_owner(&trusting);
    archive.owner_does(&["backup", "--force"]);
}

/// With root's rights, backy would copy a hard link in the place of a file of the archive, and give the copy to the
/// owner.
#[test]
fn root_copies_no_hard_links_of_other_users() {
    let Some(archive) = UsersArchive::make() else { return };
    let secret = archive.scene.path("secret");
    fs::write(&secret, noise(9, 100_000)).unwrap();
    set_mode(&secret, 0o600);
    let image = archive.scene.path("home/a/last.raw");
    fs::remove_file(&image).unwrap();
    fs::hard_link(&secret, &image).unwrap();
    for args in [&["scrub"][..], &["maintenance"], &["rm", "--force", "0"], &["tag", "0", "+x"]] {
        archive.root_does(args);
        for entry in fs::read_dir(archive.scene.path("home/a")).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::metadata(&path).unwrap();
            let is_copy = found.uid() == STRANGER && fs::read(&path).unwrap() == noise(9, 100_000);
            assert!(!is_copy, "{} after {args:?}", path.display());
        }
    }
    assert_eq!(fs::read(&secret).unwrap(), noise(9, 100_000));
}

/// Root is the caller, and the archive is root's: backy gives up no rights, and refuses a folder above that is a
/// user's as always.
#[test]
fn root_refuses_an_archive_with_mixed_owners() {
    let Some(archive) = UsersArchive::make() else { return };
    lchown(archive.scene.path("home/a/manifest.json"), Some(0), Some(0)).unwrap();
    let run = archive.root_does(&["tag", "0", "+x"]);
    assert!(run.stderr.contains("home: not trusted: it belongs to user 4711"), "{run:?}");
    lchown(archive.scene.path("home/a/manifest.json"), Some(STRANGER), None).unwrap();
    set_mode(&archive.scene.path("home/a"), 0o777);
    let run = archive.root_does(&["tag", "0", "+x"]);
    assert!(run.stderr.contains("not trusted: "), "{run:?}");
}
