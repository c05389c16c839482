//! The table of problems in doc/scripting.md, row by row: each is raised for real, has its level in every form, and
//! is cleared by what the row says and not before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use backy_lib::Manifest;
use backy_lib::format::manifest::{BlockRange, Hints, InProgress, Operation, Verified};
use backy_lib::health::Cause;
use backy_lib::revision::RevisionId;
use backy_lib::units::BlockIndex;
use backy_tests::qemu::skipped;

use super::harness::{SOURCE_BYTES, Scene, is_root};
use super::verdict::ago;

const HOUR: i64 = 3600;

const SCHEDULE: &str = "[schedule.daily]\ninterval = \"1d\"\nkeep = 2\n";

/// A test for each row.
macro_rules! rows {
    ($($name:ident: $cause:ident,)*) => {
        $(
            #[test]
            fn $name() {
                prove(Cause::$cause);
            }
        )*

        /// Every row has its test.
        #[test]
        fn each_row_has_its_test() {
            assert_eq!([$(Cause::$cause),*], Cause::ALL);
        }
    };
}

rows! {
    what_cannot_be_looked_at_is_unknown: Unreadable,
    a_config_that_cannot_be_used_is_critical: Config,
    no_source_is_critical: NoSource,
    no_backup_is_a_warning: NoBackup,
    an_overdue_backup_is_a_warning: Overdue,
    a_long_overdue_backup_is_critical: LongOverdue,
    an_archive_that_nothing_can_be_written_to_is_a_warning: Unwritable,
    a_date_in_the_future_is_a_warning: Clock,
    a_failed_run_is_a_warning_until_one_works: Failed,
    an_interrupted_operation_is_a_warning: Interrupted,
    a_missing_file_is_critical: MissingFile,
    a_replaced_image_is_critical_until_it_is_compared: ReplacedImage,
    damage_is_critical_until_it_is_right_again: Damage,
    confirmed_damage_is_a_warning_until_it_is_right_again: KnownDamage,
    a_file_that_was_set_aside_is_critical: SetAside,
    a_failed_drill_is_critical_until_that_revision_passes: DrillFailed,
    a_drill_too_long_ago_is_a_warning: DrillMissed,
    unverified_data_is_a_warning: Scrub,
    a_long_chain_is_a_warning: Chain,
    little_space_is_a_warning: Space,
    hardly_any_space_is_critical: LastSpace,
    an_unusual_change_is_a_warning_until_it_is_confirmed: UnusualChange,
    an_exposed_archive_is_a_warning: Exposed,
    a_manifest_of_another_moment_is_critical: Mismatch,
    an_unknown_file_is_a_warning: UnknownFile,
    far_more_revisions_than_the_schedule_keeps_are_a_warning: Excess,
    an_operation_without_progress_is_a_warning: Stuck,
    a_declared_archive_that_is_missing_is_critical: Expected,
    blocks_that_were_not_compared_in_time_are_a_warning: Tracking,
}

/// What a test does to its archive.
type Act = Box<dyn Fn(&Scene)>;

/// An archive with the problem, what does not clear it, and what does.
struct Raised {
    scene: Scene,
    no_cure: Act,
    cure: Act,
}

impl Raised {
    fn new(scene: Scene, cure: impl Fn(&Scene) + 'static) -> Option<Self> {
        Some(Raised { scene, no_cure: Box::new(|_| ()), cure: Box::new(cure) })
    }

    fn and_not_by(mut self, no_cure: impl Fn(&Scene) + 'static) -> Option<Self> {
        self.no_cure = Box::new(no_cure);
        Some(self)
    }
}

fn prove(cause: Cause) {
    let Some(Raised { scene, no_cure, cure }) = raise(cause) else { return };
    let level = serde_json::to_value(cause.level()).expect("JSON");
    let row = (cause.kind().as_str().to_owned(), level.as_str().expect("text").to_owned());
    let has = |scene: &Scene| {
        let problems = match cause {
            Cause::Unreadable => checked(scene, &["host"]),
            Cause::Expected => checked(scene, &["--fleet", "fleet.toml"]),
            _ => scene.problems(),
        };
        if problems.contains(&row) { Ok(()) } else { Err(problems) }
    };
    assert_eq!(has(&scene), Ok(()));
    no_cure(&scene);
    assert_eq!(has(&scene), Ok(()), "cleared by too little");
    cure(&scene);
    assert!(has(&scene).is_err(), "it stays");
}

/// The problems that `check` reports.
fn checked(scene: &Scene, args: &[&str]) -> Vec<(String, String)> {
    let json = scene.run(&[&["check", "--json"][..], args].concat()).json();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let archives = json["archives"].as_array().expect("a list");
    let problems =
        archives.iter().flat_map(|a| a["health"]["problems"].as_array().expect("a list"));
    problems.map(|problem| (text(&problem["kind"]), text(&problem["level"]))).collect()
}

fn rewrite(scene: &Scene, change: impl FnOnce(&mut Vec<u8>)) {
    let mut image = scene.read("a/last.raw");
    change(&mut image);
    scene.write("a/last.raw", &image);
}

fn rot(scene: &Scene) {
    rewrite(scene, |image| image[70_000] ^= 1);
}

fn manifest(scene: &Scene) -> Manifest {
    Manifest::parse(&scene.read("a/manifest.json")).expect("a manifest")
}

/// An archive whose source has `config` more and less of `from`.
fn with_config(scene: Scene, config: &'static str) -> Option<Raised> {
    let before = scene.read("a/backy.toml");
    scene.write("a/backy.toml", config.as_bytes());
    Raised::new(scene, move |scene| scene.write("a/backy.toml", &before))
}

fn raise(cause: Cause) -> Option<Raised> {
    match cause {
        Cause::Unreadable => {
            let (scene, _) = Scene::with_revisions(1);
            fs::create_dir(scene.path("host")).expect("a folder");
            Raised::new(scene, |scene| {
                fs::rename(scene.path("a"), scene.path("host/a")).expect("rename");
            })
        }
        Cause::Config => with_config(Scene::with_archive(), "sauce = 5\n"),
        Cause::NoSource => with_config(Scene::with_archive(), ""),
        Cause::NoBackup => Raised::new(Scene::with_archive(), backup),
        Cause::Overdue | Cause::LongOverdue => {
            let scene = Scene::with_archive();
            scene.backup_made(if cause == Cause::Overdue { 26 } else { 37 } * HOUR, &[]);
            Raised::new(scene, backup)?.and_not_by(|scene| {
                scene.works(&["-b", "a", "scrub"]);
            })
        }
        Cause::Unwritable => unwritable(),
        Cause::Clock => {
            let scene = Scene::with_archive();
            scene.backup_made(-HOUR, &[]);
            Raised::new(scene, backup)
        }
        Cause::Failed => {
            let (scene, _) = Scene::with_revisions(1);
            let source = scene.read("source.img");
            fs::remove_file(scene.path("source.img")).expect("remove");
            scene.fails(&["-b", "a", "backup", "--force"], &["source.img"]);
            let raised = Raised::new(scene, move |scene| {
                scene.write("source.img", &source);
                backup(scene);
            });
            raised?.and_not_by(|scene| {
                scene.works(&["-b", "a", "maintenance"]);
            })
        }
        Cause::Interrupted => {
            let (scene, _) = Scene::with_revisions(2);
            let mut manifest = manifest(&scene);
            let (operation, started) = (Operation::Backup, ago(60));
            let revision = RevisionId::new(started);
            manifest.in_progress = Some(InProgress { operation, revision, started });
            scene.write("a/manifest.json", &manifest.encode().expect("JSON"));
            Raised::new(scene, |scene| drop(scene.works(&["-b", "a", "tag", "0", "+x"])))
        }
        Cause::MissingFile => {
            let (scene, _) = Scene::with_revisions(2);
            let name = scene.file_of_archive(".qcow2");
            let delta = scene.read(&name);
            fs::remove_file(scene.path(&name)).expect("remove");
            let raised = Raised::new(scene, move |scene| scene.write(&name, &delta));
            raised?.and_not_by(|scene| {
                scene.run(&["-b", "a", "scrub"]);
                backup(scene);
            })
        }
        Cause::ReplacedImage => {
            let (scene, _) = Scene::with_revisions(2);
            rewrite(&scene, |_| ());
            Raised::new(scene, |scene| drop(scene.works(&["-b", "a", "scrub"])))?.and_not_by(
                |scene| {
                    scene.works(&["-b", "a", "maintenance", "--confirm"]);
                    scene.works(&["-b", "a", "tag", "0", "+x"]);
                },
            )
        }
        Cause::Damage | Cause::KnownDamage => {
            let (scene, _) = Scene::with_revisions(2);
            rot(&scene);
            scene.run(&["-b", "a", "scrub"]);
            if cause == Cause::KnownDamage {
                scene.works(&["-b", "a", "maintenance", "--confirm"]);
            }
            let raised = Raised::new(scene, |scene| {
                rot(scene);
                scene.works(&["-b", "a", "scrub"]);
            });
            raised?.and_not_by(|scene| {
                scene.run(&["-b", "a", "scrub"]);
                scene.works(&["-b", "a", "maintenance"]);
            })
        }
        Cause::SetAside => {
            let (scene, _) = Scene::with_revisions(2);
            let name = scene.file_of_archive(".qcow2");
            scene.write(&name, &[0x11; 300_000]);
            fs::remove_file(scene.path("a/manifest.json")).expect("remove");
            assert_eq!(scene.run(&["-b", "a", "scrub", "--rebuild"]).status, Some(1));
            let raised = Raised::new(scene, |scene| {
                for name in manifest(scene).set_aside {
                    fs::remove_file(scene.path(&format!("a/{name}"))).expect("remove");
                }
            });
            raised?.and_not_by(|scene| {
                backup(scene);
                scene.run(&["-b", "a", "scrub"]);
                scene.works(&["-b", "a", "maintenance", "--confirm"]);
            })
        }
        Cause::DrillFailed => {
            let (scene, _) = Scene::with_revisions(2);
            let uuid = manifest(&scene).revisions[0].uuid.to_string();
            rot(&scene);
            assert_eq!(scene.run(&["-b", "a", "drill", "-r", &uuid]).status, Some(1));
            rot(&scene);
            let raised = Raised::new(scene, move |scene| {
                scene.works(&["-b", "a", "drill", "-r", &uuid]);
            });
            raised?.and_not_by(|scene| drop(scene.works(&["-b", "a", "drill", "-r", "1"])))
        }
        Cause::DrillMissed => {
            let scene = Scene::with_archive();
            scene.monitor("drill_within = \"8d\"");
            scene.backup_made(9 * 24 * HOUR, &[]);
            Raised::new(scene, |scene| drop(scene.works(&["-b", "a", "drill"])))
        }
        Cause::Scrub => {
            let scene = Scene::with_archive();
            scene.monitor("scrub_within = \"19h\"");
            scene.backup_made(20 * HOUR, &[]);
            Raised::new(scene, |scene| drop(scene.works(&["-b", "a", "scrub"])))?
                .and_not_by(|scene| drop(scene.works(&["-b", "a", "scrub", "-n"])))
        }
        Cause::Chain => {
            let (scene, _) = Scene::with_revisions(3);
            scene.monitor("long_chain = 1");
            Raised::new(scene, |scene| drop(scene.works(&["-b", "a", "rm", "1"])))
        }
        Cause::Space | Cause::LastSpace => {
            let (scene, _) = Scene::with_revisions(1);
            let json = scene.works(&["-b", "a", "status", "--json"]).json();
            let stored = json["space"]["free_bytes"].as_u64().expect("a number") / 10;
            let lines = (0..8).rev().map(|day| {
                let at = ago(day * 24 * HOUR);
                format!(
                    "{{\"operation\":\"backup\",\"started\":\"{at}\",\"finished\":\"{at}\",\"result\":\"ok\",\
                     \"report\":{{\"revision\":{{\"statistics\":{{\"stored_bytes\":{stored}}}}}}}}}\n"
                )
            });
            scene.write("a/history.jsonl", lines.collect::<String>().as_bytes());
            if cause == Cause::LastSpace {
                scene.monitor("full_within = \"60d\"");
            }
            Raised::new(scene, |scene| {
                fs::remove_file(scene.path("a/history.jsonl")).expect("remove");
            })
        }
        Cause::UnusualChange => {
            let (scene, _) = Scene::with_revisions(1);
            scene.write("source.img", &vec![0; SOURCE_BYTES]);
            backup(&scene);
            let raised = Raised::new(scene, |scene| {
                scene.works(&["-b", "a", "maintenance", "--confirm"]);
            });
            raised?.and_not_by(backup)
        }
        Cause::Exposed => {
            let (scene, _) = Scene::with_revisions(1);
            let mode = |scene: &Scene, mode| {
                let permissions = fs::Permissions::from_mode(mode);
                fs::set_permissions(scene.path("a"), permissions).expect("chmod");
            };
            mode(&scene, 0o777);
            Raised::new(scene, move |scene| mode(scene, 0o700))
        }
        Cause::Mismatch => {
            let (scene, _) = Scene::with_revisions(2);
            let old = scene.read("a/manifest.json");
            backup(&scene);
            let right = scene.read("a/manifest.json");
            scene.write("a/manifest.json", &old);
            let raised = Raised::new(scene, move |scene| scene.write("a/manifest.json", &right));
            raised?.and_not_by(|scene| drop(scene.run(&["-b", "a", "backup", "--force"])))
        }
        Cause::UnknownFile => {
            let (scene, _) = Scene::with_revisions(1);
            let name = format!("a/{}.qcow2", RevisionId::new(ago(5)));
            scene.write(&name, b"x");
            Raised::new(scene, move |scene| fs::remove_file(scene.path(&name)).expect("remove"))
        }
        Cause::Excess => {
            let (scene, _) = Scene::with_revisions(1);
            let config = format!("source = {:?}\n{SCHEDULE}", scene.path("source.img"));
            scene.write("a/backy.toml", config.as_bytes());
            for _ in 0..8 {
                scene.works(&["-b", "a", "backup", "--tag", "daily"]);
            }
            let maintenance = |scene: &Scene| drop(scene.works(&["-b", "a", "maintenance"]));
            Raised::new(scene, |scene| drop(scene.works(&["-b", "a", "rm", "--force", "2..7"])))?
                .and_not_by(maintenance)
        }
        Cause::Stuck => stuck(),
        Cause::Expected => {
            let scene = Scene::new();
            fs::create_dir(scene.path("host")).expect("a folder");
            let (path, source) = (scene.text_path("host/new"), scene.text_path("source.img"));
            let text = format!("[[archive]]\npath = {path:?}\nsource = {source:?}\n");
            scene.write("fleet.toml", text.as_bytes());
            let run = |scene: &Scene| drop(scene.works(&["run", "--fleet", "fleet.toml"]));
            // It is still without a backup.
            let make = |scene: &Scene| drop(scene.works(&["-b", "host/new", "init", "source.img"]));
            Raised::new(scene, run)?.and_not_by(make)
        }
        Cause::Tracking => {
            let (scene, _) = Scene::with_revisions(2);
            let bytes = scene.read("a/manifest.json");
            let mut manifest = Manifest::parse(&bytes).expect("a manifest");
            let all = manifest.block_size.count(manifest.revisions[0].size_bytes);
            let older = manifest.revisions[1].uuid;
            let newest = &mut manifest.revisions[0];
            newest.hints = Some(Hints::used(older, 1, 0));
            let blocks = BlockRange { first: BlockIndex(0), count: all };
            newest.compared = vec![Verified::new(blocks, ago(31 * 24 * HOUR))];
            scene.write("a/manifest.json", &manifest.encode().expect("a manifest"));
            Raised::new(scene, backup)
        }
    }
}

/// A backup whose hook does not end, an hour later.
fn stuck() -> Option<Raised> {
    let scene = Scene::with_archive();
    let (begun, go) = (scene.text_path("begun"), scene.text_path("go"));
    let hook = format!("touch {begun}; while [ ! -e {go} ]; do sleep 0.05; done");
    let text = scene.read_text("a/backy.toml") + &format!("\n[hooks]\nbefore = \"{hook}\"\n");
    scene.write("a/backy.toml", text.as_bytes());
    let child = scene.command(&["-b", "a", "backup"]).spawn().expect("run backy");
    while !scene.path("begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let old = Command::new("touch").args(["-d", "1 hour ago"]).arg(scene.path("a/lock")).status();
    assert!(old.expect("run touch").success());
    let child = std::cell::Cell::new(Some(child));
    Raised::new(scene, move |scene| {
        scene.write("go", b"");
        let ended = child.take().map(|mut child| child.wait().expect("wait for backy"));
        assert!(ended.is_some_and(|status| status.success()));
    })
}

fn backup(scene: &Scene) {
    scene.works(&["-b", "a", "backup", "--force"]);
}

/// Unmounts what was mounted over a folder.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// No more writes are possible, as after `errors=remount-ro`: known at once, not when a backup is overdue.
fn unwritable() -> Option<Raised> {
    let (scene, _) = Scene::with_revisions(1);
    let folder = scene.path("a");
    let mount = |args: &[&str]| {
        let output = Command::new("mount").args(args).arg(&folder).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !mount(&["--bind", folder.to_str().expect("text")]) {
        assert!(!is_root(), "root may mount");
        skipped("only root may mount");
        return None;
    }
    let mounted = Mounted(folder.clone());
    assert!(mount(&["-o", "remount,ro,bind"]), "mount it read-only");
    scene.fails(&["-b", "a", "backup", "--force"], &["Read-only"]);
    let mounted = std::cell::Cell::new(Some(mounted));
    Raised::new(scene, move |_| drop(mounted.take()))
}
