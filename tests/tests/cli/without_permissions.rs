//! An archive on a disk without permissions: NTFS, exFAT, FAT.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_tests::qemu::skipped;
use tempfile::TempDir;

use super::harness::{Scene, is_root, tool};
use super::trust::set_mode;

/// A file system whose files all have mode 0777 and on which `chmod` changes nothing, until the value is dropped.
struct Ntfs {
    on: PathBuf,
}

impl Ntfs {
    fn mount(scene: &Scene, disk: &TempDir, options: &[&str]) -> Option<Self> {
        if !is_root()
            || tool("mkntfs", &["--version"]).is_none()
            || !Path::new("/dev/fuse").exists()
        {
            skipped("mounting NTFS needs root, FUSE and ntfs-3g");
            return None;
        }
        let (image, on) = (disk.path().join("ntfs.img"), scene.path("ntfs"));
        let on_again = on.exists();
        if !on_again {
            fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).unwrap();
            let made =
                Command::new("mkntfs").args(["-F", "-q", "-Q"]).arg(&image).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            fs::create_dir(&on).unwrap();
        }
        let mounted = Command::new("ntfs-3g").args(options).arg(&image).arg(&on).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        Some(Ntfs { on })
    }
}

impl Drop for Ntfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.on).status();
    }
}

/// On a file system without permissions backups work, without a line in cron's mail. The verdict is a warning, until
/// somebody accepts that or the mount excludes everybody else. backy runs or writes nothing outside of the archive
/// because it says so.
#[test]
fn without_file_permissions_backups_still_work() {
    let (scene, disk) = (Scene::new(), TempDir::new().unwrap());
    let Some(mounted) = Ntfs::mount(&scene, &disk, &[]) else { return };
    scene.works(&["-b", "ntfs/a", "init", "source.img"]);
    set_mode(&scene.path("ntfs/a"), 0o700);
    assert_eq!(scene.works(&["-b", "ntfs/a", "backup", "--force"]).stderr, "");
    assert_eq!(scene.works(&["-b", "ntfs/a", "scrub"]).stderr, "");
    let status = || scene.works(&["-b", "ntfs/a", "status"]).text().to_owned();
    assert!(status().contains("every user may write to it"), "{}", status());
    scene.refuses(&["-b", "ntfs/a", "restore"], &["every user may write to it", "--trust"]);
    scene.works(&["-b", "ntfs/a", "restore", "copy.img"]);

    let config = scene.read_text("ntfs/a/backy.toml");
    let proof = scene.text_path("proof.prom");
    for outside in [
        format!("[hooks]\nbefore = \"touch {proof}\"\n"),
        format!("[monitoring]\ntextfile = \"{proof}\"\n"),
    ] {
        scene.write("ntfs/a/backy.toml", format!("{config}\n{outside}").as_bytes());
        for args in [&["backup", "--force"][..], &["tag", "0", "+x"], &["drill"]] {
            let args = [&["-b", "ntfs/a"], args].concat();
            scene.refuses(&args, &["every user may write to it", "umask=077", "--trust"]);
        }
        assert!(!scene.path("proof.prom").exists());
        scene.works(&["-b", "ntfs/a", "--trust", "backup", "--force"]);
        assert!(scene.path("proof.prom").exists());
        fs::remove_file(scene.path("proof.prom")).unwrap();
    }

    let accepted = format!("{config}\n[monitoring]\naccept_no_permissions = true\n");
    scene.write("ntfs/a/backy.toml", accepted.as_bytes());
    assert!(!status().contains("every user"), "{}", status());
    scene.works(&["-b", "ntfs/a", "backup", "--force"]);
    scene.write("ntfs/a/backy.toml", config.as_bytes());
    drop(mounted);
    let _mounted = Ntfs::mount(&scene, &disk, &["-o", "umask=077"]);
    assert!(!status().contains("every user"), "{}", status());
    scene.works(&["-b", "ntfs/a", "restore"]);
}

/// The same holds for a file on such a disk that a config includes: it may have a schedule, but no hooks, no textfile
/// and no source that a restore goes back to.
#[test]
fn an_include_without_file_permissions_runs_nothing() {
    let (scene, disk) = (Scene::with_archive(), TempDir::new().unwrap());
    let Some(_mounted) = Ntfs::mount(&scene, &disk, &[]) else { return };
    let source = format!("source = {:?}\n", scene.text_path("source.img"));
    let include = |own: &str, shared: &str| {
        scene.write("ntfs/standard.toml", shared.as_bytes());
        scene.write(
            "a/backy.toml",
            format!("include = \"../ntfs/standard.toml\"\n{own}").as_bytes(),
        );
    };
    include(&source, "[schedule.daily]\ninterval = \"1d\"\nkeep = 9\n");
    assert_eq!(scene.works(&["-b", "a", "backup", "--force"]).stderr, "");
    let status = scene.works(&["-b", "a", "status"]);
    assert!(status.text().contains("/ntfs: not trusted: every user"), "{}", status.text());
    let hook = format!("[hooks]\nbefore = \"touch {}\"\n", scene.text_path("proof"));
    let words = ["/ntfs: not trusted: every user may write to it"];
    include(&source, &hook);
    scene.refuses(&["-b", "a", "backup", "--force"], &words);
    assert!(!scene.path("proof").exists());
    include("", &source);
    scene.works(&["-b", "a", "backup", "--force"]);
    scene.refuses(&["-b", "a", "restore"], &words);
}
