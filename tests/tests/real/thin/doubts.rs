//! What keeps a volume from being backed up, or from being believed: each has its message.

use std::thread;

use serde_json::Value;

use super::{BYTES, PROGRAMS, SOURCE, Scene, UNIT, reason, stand_in};
use crate::site::{Site, run, words, works};
use crate::stand_ins::{StandIns, with};

/// A snapshot that is gone or was made again, another volume under the name, and a volume with an external origin:
/// everything is read, and the revision says why.
#[test]
fn what_is_not_the_same_volume_is_a_doubt() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    let mark = scene.the_snapshot();
    scene.pool(&["lvremove", "--yes", &format!("vg-0/{mark}")]);
    scene.write(1 << 20, 1000, 31);
    scene.doubts("is missing");
    let mark = scene.the_snapshot();
    scene.pool(&["lvremove", "--yes", &format!("vg-0/{mark}")]);
    scene.write(2 << 20, 1000, 32);
    let name = format!("--name={mark}");
    let again = [
        "lvcreate",
        "--snapshot",
        "--setactivationskip=y",
        "--permission=r",
        "--addtag=backy",
        &name,
    ];
    scene.pool(&[&again[..], &["vg-0/mynode"]].concat());
    scene.doubts("was made again");
    scene.pool(&["rename", "mynode", "before"]);
    scene.pool(&["make", "mynode", &BYTES.to_string()]);
    scene.write(2 << 20, 1000, 33);
    let looked = works(&mut scene.command(&["source"]));
    assert!(String::from_utf8_lossy(&looked).contains("it is another volume"), "{looked:?}");
    scene.doubts("it is another volume");

    scene.pool(&["rename", "mynode", "gone"]);
    scene.pool(&["make", "mynode", &BYTES.to_string(), "253:9"]);
    for round in 0..2 {
        scene.write(3 << 20, 1000, round);
        let (hints, read) = scene.backup();
        assert!(reason(&hints).contains("it has an external origin"), "{hints}");
        assert_eq!(read, BYTES, "what is not mapped is read");
        assert!(scene.snapshots().is_empty());
    }
    scene.site.check_at_rest_here();
}

/// Metadata that somebody else has reserved stay reserved, and everything is read. What a killed backup has reserved
/// is released by the next backup of any archive, also if that wants no marks.
#[test]
fn only_what_backy_has_reserved_is_released() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    scene.pool(&["reserve"]);
    scene.write(0, 1000, 34);
    let output = run(&mut scene.command(&["backup", "--force", "--json"]));
    assert!(scene.state()["held"].is_number(), "the metadata were released");
    scene.pool(&["release"]);
    let report = scene.taken(&output);
    let why = reason(&report["hints"]);
    assert!(
        why.contains("another program has reserved the metadata of the pool 'pool' (block 17)"),
        "{why}"
    );
    assert!(why.contains("dmsetup message vg--0-pool-tpool 0 release_metadata_snap"), "{why}");

    for mode in ["auto", "off"] {
        scene.site.configure(|config| {
            let config = config.split("[tracking]").next().unwrap_or_default().to_owned();
            format!("{config}[tracking]\nmode = \"{mode}\"\n")
        });
        scene.pool(&["lvchange", "--addtag=backy-reserved", "vg-0/pool"]);
        if mode == "auto" {
            scene.pool(&["reserve"]);
        }
        scene.write(UNIT, 1000, 35);
        let (hints, _) = scene.backup();
        assert_eq!(hints["since"].is_string(), mode == "auto", "{hints}");
    }
}

/// Two archives of volumes of one pool that are backed up at the same time wait for each other: both read only what has
/// changed. Neither removes the snapshots of the other, nor what has not the tag.
#[test]
fn archives_of_one_pool_do_not_disturb_each_other() {
    let Some(mut scene) = Scene::new() else { return };
    let source = scene.site.source.clone();
    let other = Site { folder: scene.folder.path().join("b"), source, expected: Vec::new() };
    let settings = [scene.programs.first()];
    works(&mut with(&settings, &other.backy(&["init", SOURCE])));
    for round in 0..3 {
        scene.write(round * 7 * UNIT, 1000, 40);
        let reports: Vec<Value> = thread::scope(|scope| {
            let start = |site: &Site| {
                let mut command = with(&settings, &site.backy(&["backup", "--force", "--json"]));
                scope.spawn(move || run(&mut command))
            };
            let started = [start(&scene.site), start(&other)];
            started.map(|running| {
                let output = running.join().expect("a backup");
                assert!(output.status.success(), "{}", words(&output));
                serde_json::from_slice(&output.stdout).expect("a report")
            })
        })
        .into();
        let state = scene.disk();
        scene.site.push(reports[0]["revision"]["uuid"].as_str().expect("a UUID"), &state);
        scene.is_tidy();
        assert_eq!(scene.snapshots().len(), 2);
        for report in reports {
            let hints = &report["revision"]["hints"];
            assert_eq!(hints["since"].is_string(), round > 0, "{hints}");
        }
    }
    let kept = scene.snapshots();
    let (archive, _) = kept[0].rsplit_once('.').expect("a name");
    let stranger = format!("{archive}.00000000-0000-7000-8000-000000000000");
    scene.pool(&["make", &stranger, "65536"]);
    scene.pool(&["lvchange", "--activate=n", &format!("vg-0/{stranger}")]);
    let sites = [&scene.site, &other];
    let owner = sites.into_iter().find(|site| {
        let said = works(&mut with(&settings, &site.backy(&["source", "--json"])));
        String::from_utf8_lossy(&said).contains(&stranger)
    });
    let backup = owner.expect("an archive").backy(&["-v", "backup", "--force"]);
    let said = run(&mut with(&settings, &backup));
    let expected = format!("the snapshot {stranger} cannot be removed: it has no tag 'backy'");
    assert!(said.status.success() && words(&said).contains(&expected), "{}", words(&said));
    assert!(scene.snapshots().contains(&stranger));
}

/// Without a snapshot that can be read there is no backup: one line, and nothing is left.
#[test]
fn programs_that_keep_a_volume_from_being_read() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    let marks = scene.snapshots();
    let folder = scene.folder.path().to_owned();
    let only = |program: &str, condition: &str, script: &str| {
        format!(
            "case \" $* \" in {condition}) {script};; esac\nexec {}",
            stand_in(&folder, program)
        )
    };
    let far = "sed 's/4195328/4195329/g'";
    for (program, script, part) in [
        ("lvs", "exit 5".to_owned(), "'lvs' ended with exit status: 5"),
        ("lvs", "echo '{'".to_owned(), "'lvs' printed something else than expected"),
        ("lvs", "yes".to_owned(), "'lvs'"),
        (
            "lvcreate",
            "echo no space >&2; exit 5".to_owned(),
            "without one it is not read: 'lvcreate' ended with exit",
        ),
        ("lvcreate", "exit 0".to_owned(), "cannot be read"),
        (
            "lvchange",
            only("lvchange", "*--activate=y*", "echo no >&2; exit 5"),
            "'lvchange' ended with exit status: 5: no",
        ),
        ("lvs", format!("{} | {far}", stand_in(&folder, "lvs")), "found 4195328 bytes"),
    ] {
        let output = scene.run_with(&["backup", "--force"], program, &script);
        let said = words(&output);
        let lines = said.lines().filter(|line| !line.contains("old marks at the source are left"));
        assert_eq!((output.status.code(), lines.count()), (Some(1), 1), "{part}: {said}");
        assert!(said.contains(part), "{part}: {said}");
        scene.site.check_at_rest_here();
        assert!(scene.snapshots().contains(&marks[0]), "{part}");
    }
    for missing in PROGRAMS {
        scene.backup();
        let here = PROGRAMS.iter().filter(|program| **program != missing);
        let programs = here.fold(StandIns::new(), |all, program| {
            // It needs other programs.
            let command = stand_in(&folder, program);
            all.with(program, &format!("PATH=/usr/bin:/bin:/usr/sbin:/sbin exec {command}"))
        });
        let output = run(&mut with(
            &[programs.only()],
            &scene.site.backy(&["-v", "backup", "--force", "--json"]),
        ));
        let package = match missing {
            "dmsetup" => "dmsetup",
            "thin_delta" => "thin-provisioning-tools",
            _ => "lvm2",
        };
        let expected = format!("{missing} is not installed; install the Debian package {package}");
        if output.status.success() {
            let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
            scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &scene.disk());
            let said = format!("{}{}", words(&output), report["revision"]["hints"]);
            assert!(said.contains(&expected), "{missing}: {said}");
        } else {
            assert!(words(&output).contains(&expected), "{missing}: {}", words(&output));
        }
        scene.site.check_at_rest_here();
    }
    scene.backup();
    assert_eq!(scene.snapshots().len(), 1);
}

/// What is not needed to read the snapshot is a doubt if it cannot be had, and nothing stays reserved.
#[test]
fn programs_that_leave_a_doubt_about_a_volume() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup();
    let folder = scene.folder.path().to_owned();
    let only = |program: &str, condition: &str, script: &str| {
        format!(
            "case \" $* \" in {condition}) {script};; esac\nexec {}",
            stand_in(&folder, program)
        )
    };
    let edited = |command: &str| format!("{} | sed '{command}'", stand_in(&folder, "thin_delta"));
    for (program, script, part) in [
        (
            "thin_delta",
            "echo no >&2; exit 3".to_owned(),
            "'thin_delta' ended with exit status: 3: no",
        ),
        ("thin_delta", "echo '<superblock '".to_owned(), "'thin_delta' printed something else"),
        ("thin_delta", "yes".to_owned(), "'thin_delta' printed something else"),
        ("thin_delta", "exit 0".to_owned(), "it ended too early"),
        (
            "thin_delta",
            format!("{} | head -n 3", stand_in(&folder, "thin_delta")),
            "it ended too early",
        ),
        ("thin_delta", edited("s/left=\"[0-9]*\"/left=\"99\"/"), "found devices 99 and"),
        (
            "thin_delta",
            edited("s/data_block_size=\"128\"/data_block_size=\"256\"/"),
            "found blocks of 256 sectors",
        ),
        (
            "thin_delta",
            edited("s/length=\"[0-9]*\"/length=\"18446744073709551615\"/"),
            "printed something else",
        ),
        ("dmsetup", only("dmsetup", "*table*", "exit 1"), "'dmsetup' ended with exit status: 1"),
        (
            "dmsetup",
            only("dmsetup", "*table*", "echo 0 1 linear 8:0 0; exit"),
            "'dmsetup table' printed something else",
        ),
        (
            "dmsetup",
            only("dmsetup", "*status*", "echo 0 1 thin-pool Fail; exit"),
            "'dmsetup status' printed something",
        ),
        (
            "dmsetup",
            only("dmsetup", "*reserve*", "echo busy >&2; exit 1"),
            "cannot be reserved: 'dmsetup' ended with",
        ),
        (
            "lvchange",
            only("lvchange", "*--addtag*", "echo no >&2; exit 5"),
            "'lvchange' ended with exit status: 5: no",
        ),
    ] {
        scene.write(3 << 20, 1000, 36);
        let output = scene.run_with(&["backup", "--force", "--json"], program, &script);
        let revision = scene.taken(&output);
        let hints = &revision["hints"];
        assert!(reason(hints).contains(part), "{part}: {hints}");
        assert!(scene.snapshots().len() <= 1, "{part}: {:?}", scene.snapshots());
        if part.contains("dmsetup table") || script.contains("table") {
            // Nothing was marked.
            scene.backup();
        }
    }
    // What cannot be released now is released by the next backup.
    scene.write(3 << 20, 1000, 37);
    let script = only("dmsetup", "*release*", "echo no >&2; exit 1");
    let output = scene.run_with(&["backup", "--force", "--json"], "dmsetup", &script);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let hints = &report["revision"]["hints"];
    assert!(reason(hints).contains("the metadata of the pool 'pool' stay reserved"), "{hints}");
    scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &scene.disk());
    assert!(scene.state()["held"].is_number());
    let (hints, read) = scene.backup();
    assert!(hints["since"].is_string() && read == 0, "{hints}");

    scene.site.configure(|config| config + "[tracking]\nmode = \"require\"\n");
    let output = scene.run_with(&["backup", "--force"], "thin_delta", "exit 1");
    let said = words(&output);
    assert!(!output.status.success() && said.contains("mode = \"require\""), "{said}");
    scene.is_tidy();
    scene.site.check_at_rest();
}
