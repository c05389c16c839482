//! `backy drill` and `backy export`

use std::fs;
use std::time::{Duration, Instant};

use backy_tests::qemu;

use super::harness::{Run, SOURCE_BYTES, Scene, tool};

/// A drill of any revision passes and reports how much it read in which time. A random one is one of the existing
/// revisions.
#[test]
fn a_drill_reads_a_revision() {
    let (scene, _) = Scene::with_revisions(2);
    let stored = || {
        let mut state = scene.state();
        // That is where the drill is recorded.
        state.retain(|path, _| !path.ends_with("manifest.json"));
        state
    };
    let before = stored();
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    for number in 0..2 {
        let run = scene.works(&["-b", "a", "drill", "-r", &number.to_string(), "--json"]);
        let report = run.json();
        assert_eq!(report["revision"], status["revisions"][number]["uuid"]);
        assert_eq!(
            (&report["passed"], &report["read_bytes"]),
            (&true.into(), &SOURCE_BYTES.into())
        );
        assert!(report["bytes_per_second"].as_u64() > Some(0));
    }
    let run = scene.works(&["-b", "a", "drill"]);
    assert!(run.text().contains("1.4 MiB") && run.text().contains("all blocks verified"));
    assert_eq!(stored(), before);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["drill"]["passed"], true);
}

/// A drill of a damaged revision does not pass, and still prints a report.
#[test]
fn a_drill_finds_damage() {
    let (scene, _) = Scene::with_revisions(1);
    let mut image = scene.read("a/last.raw");
    image[70_000] ^= 1;
    scene.write("a/last.raw", &image);
    scene.fails(&["-b", "a", "drill"], &["failed", "block 1", "--keep-going"]);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(
        (&status["drill"]["passed"], &status["health"]["level"]),
        (&false.into(), &"critical".into())
    );
    scene.fails(&["-b", "a", "drill", "--", "true"], &["failed", "block 1"]);
    let run = scene.run(&["-b", "a", "drill", "--json"]);
    assert_eq!((run.status, &run.json()["passed"]), (Some(1), &false.into()));
    scene.refuses(&["-b", "a", "drill", "-r", "7"], &["7"]);
    let empty = Scene::with_archive();
    empty.refuses(&["-b", "a", "drill"], &["no revision"]);
}

/// A drill runs a command on the restored revision, which is read-only and deleted afterwards. Its exit status
/// decides.
#[test]
fn a_command_looks_into_the_revision() {
    let (scene, states) = Scene::with_revisions(2);
    fs::create_dir(scene.path("tmp")).unwrap();
    let drill = |options: &[&str], command: &[&str]| {
        let start = ["-b", "a", "drill", "-r", "1", "--dir", "tmp"];
        let args: Vec<&str> =
            start.iter().chain(options).chain(&["--"]).chain(command).copied().collect();
        let run = scene.run(&args);
        assert!(scene.path("tmp").read_dir().unwrap().next().is_none(), "left over: {run:?}");
        run
    };
    scene.write("expected", &states[1]);
    for command in [&["cmp", "expected"][..], &["sh", "-c", "cmp {} expected && echo content"]] {
        let run = drill(&[], command);
        assert_eq!(run.status, Some(0), "{run:?}");
    }
    let run = drill(&[], &["sh", "-c", "stat -c %a {}; echo said"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), "400\nsaid\n"));
    assert!(run.text().contains("the command succeeded"), "{}", run.text());
    let run = drill(&["--json"], &["cmp", "source.img"]);
    assert_eq!((run.status, &run.json()["passed"]), (Some(1), &false.into()));
    assert_eq!(run.json()["command"], "cmp");
    let run = drill(&[], &["rm", "-f"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let run = drill(&[], &["no-such-program"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.stderr.contains("no-such-program: cannot run the command"), "{}", run.stderr);
    scene.refuses(&["-b", "a", "drill", "--dir", "gone", "--", "true"], &["gone", "No such file"]);
    scene.refuses(&["-b", "a", "drill", "--dir", "tmp"], &["COMMAND", "--help"]);
}

/// A command that a signal ends has failed, whatever the signal, and the drill records that.
#[test]
fn a_command_that_is_killed_does_not_pass() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("tmp")).unwrap();
    for (signal, number) in [("KILL", "9"), ("TERM", "15"), ("ABRT", "6"), ("SEGV", "11")] {
        let line = format!("kill -s {signal} $$ # {{}}");
        let start = ["-b", "a", "drill", "--dir", "tmp"];
        let args = |more: &[&'static str]| -> Vec<&str> {
            start.iter().copied().chain(more.iter().copied()).collect()
        };
        let mut plain = args(&["--", "sh", "-c"]);
        plain.push(&line);
        scene.fails(&plain, &["failed", "sh", "signal", number]);
        let status = scene.works(&["-b", "a", "status", "--json"]).json();
        assert_eq!(status["drill"]["passed"], false, "{signal}: {status}");
        let said = status["drill"]["message"].as_str().unwrap();
        assert!(said.contains("signal") && !said.contains("every block"), "{said}");
        let mut json = args(&["--json", "--", "sh", "-c"]);
        json.push(&line);
        let run = scene.run(&json);
        assert_eq!((run.status, &run.json()["passed"]), (Some(1), &false.into()), "{run:?}");
        assert!(scene.path("tmp").read_dir().unwrap().next().is_none(), "left over");
    }
}

/// Whether a process exists and has not ended.
fn is_alive(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// Starts two processes in the background, one in a session of its own that TERM does not end, and records which.
const BACKGROUND: &str = "sleep 100 & echo $! >group; \
    setsid sh -c 'trap \"\" TERM; echo $$ >session; while :; do sleep 1; done' & \
    while ! [ -s session ]; do sleep 0.05; done; ";

fn background(scene: &Scene) -> [String; 2] {
    ["group", "session"].map(|name| scene.read_text(name))
}

/// What the command of a drill has started ends with it, including processes that have moved to a session of their
/// own and ignore TERM.
#[test]
fn the_children_of_a_command_end_with_it() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("tmp")).unwrap();
    let line = format!("{BACKGROUND} echo done # {{}}");
    let run = scene.run(&["-b", "a", "drill", "--dir", "tmp", "--", "sh", "-c", &line]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), "done\n"), "{run:?}");
    for process in background(&scene) {
        assert!(!is_alive(&process), "{process} goes on");
    }
    assert!(scene.path("tmp").read_dir().unwrap().next().is_none(), "left over");
}

/// A command that exceeds its time is ended, with its children, and has failed. The time comes from the option, or
/// else from the config.
#[test]
fn a_command_has_a_time_limit() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("tmp")).unwrap();
    let line = format!("{BACKGROUND} sleep 100 # {{}}");
    let drill = |options: &[&str]| {
        let began = Instant::now();
        let start = ["-b", "a", "drill", "--dir", "tmp"];
        let args: Vec<&str> =
            start.iter().chain(options).chain(&["--", "sh", "-c", &line]).copied().collect();
        scene.fails(&args, &["failed", "'sh' did not end within 1 s"]);
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        for process in background(&scene) {
            assert!(!is_alive(&process), "{process} goes on");
            fs::write(scene.path("session"), "").unwrap();
        }
        assert!(scene.path("tmp").read_dir().unwrap().next().is_none(), "left over");
    };
    drill(&["--timeout", "1s"]);
    let config = scene.read_text("a/backy.toml");
    scene.write("a/backy.toml", format!("{config}\n[drill]\ntimeout = \"1s\"\n").as_bytes());
    drill(&[]);
    let works =
        ["-b", "a", "drill", "--timeout", "none", "--dir", "tmp", "--", "sh", "-c", "sleep 2 # {}"];
    scene.works(&works);
    scene.refuses(&["-b", "a", "drill", "--timeout", "1s"], &["COMMAND", "--help"]);
    scene.refuses(&["-b", "a", "drill", "--timeout", "soon", "--", "true"], &["soon", "none"]);
}

/// A drill that is killed takes its command with it, and the next one deletes what it has left.
#[test]
fn a_killed_drill_ends_its_command() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("tmp")).unwrap();
    let line = format!("{BACKGROUND} touch began; sleep 100 # {{}}");
    let args = ["-b", "a", "drill", "--dir", "tmp", "--", "sh", "-c", &line];
    let mut child = scene.command(&args).spawn().unwrap();
    while !scene.path("began").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    while background(&scene).iter().any(|process| is_alive(process)) {
        assert!(began.elapsed() < Duration::from_secs(30), "the command goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    let images = || {
        let names = scene.path("tmp").read_dir().unwrap().flatten();
        names.filter(|entry| entry.metadata().is_ok_and(|found| found.len() > 0)).count()
    };
    assert!(images() > 0, "nothing was left to be removed");
    scene.works(&["-b", "a", "drill", "--dir", "tmp", "--", "true"]);
    assert_eq!(images(), 0);
}

/// Ctrl-C, also twice, ends the command and deletes the file.
#[test]
fn ctrl_c_during_a_command() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("tmp")).unwrap();
    for times in [1, 2] {
        let starter = ["env", "--default-signal=INT,TERM,HUP"];
        let args = [
            "-b",
            "a",
            "drill",
            "--dir",
            "tmp",
            "--",
            "sh",
            "-c",
            "touch began; exec sleep 50 # {}",
        ];
        let child = scene.command_under(&starter, &args).spawn().unwrap();
        while !scene.path("began").exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        for _ in 0..times {
            tool("kill", &["-s", "INT", &child.id().to_string()]).unwrap();
        }
        let run: Run = child.wait_with_output().unwrap().into();
        assert_eq!(run.status, Some(130), "{run:?}");
        assert_eq!(run.stderr, "backy: error: interrupted; the temporary file was deleted\n");
        assert!(scene.path("tmp").read_dir().unwrap().next().is_none(), "left over");
        fs::remove_file(scene.path("began")).unwrap();
    }
}

/// An exported revision is one file that QEMU finds intact and equal, whatever its size, blocks and zeros.
#[test]
fn qemu_reads_exported_revisions() {
    if !qemu::available() {
        return;
    }
    let scene = Scene::new();
    for block_size in ["4K", "64K", "2M"] {
        let archive = format!("a{block_size}");
        scene.works(&["-b", &archive, "init", "--block-size", block_size, "source.img"]);
        let mut states = Vec::new();
        for len in [SOURCE_BYTES, 3 << 20, 1, 700] {
            let mut state = super::harness::noise(len as u64, len);
            state.iter_mut().skip(200_000).take(300_000).for_each(|byte| *byte = b'x');
            state.iter_mut().skip(600_000).take(500_000).for_each(|byte| *byte = 0);
            scene.write("source.img", &state);
            scene.works(&["-b", &archive, "backup", "-f"]);
            states.insert(0, state);
        }
        for (number, state) in states.iter().enumerate() {
            let file = format!("{archive}-{number}.qcow2");
            let number = number.to_string();
            let args = ["-b", &archive, "export", "-r", &number, "--level", "3", "--json", &file];
            let report = scene.works(&args).json();
            assert_eq!(report["size_bytes"], state.len());
            let folder = scene.path(".");
            qemu::compare(&folder, &file, "qcow2", state).unwrap();
            let check =
                tool("qemu-img", &["check", "-f", "qcow2", &scene.text_path(&file)]).unwrap();
            assert_eq!(check.status, Some(0), "{file}: {check:?}");
            let info =
                tool("qemu-img", &["info", "--output=json", &scene.text_path(&file)]).unwrap();
            let info = info.json();
            assert_eq!(info["virtual-size"], state.len().next_multiple_of(512));
            assert_eq!(info["format-specific"]["data"]["compression-type"], "zstd");
            assert_eq!(info["dirty-flag"], false);
            assert!(info.get("backing-filename").is_none());
        }
    }
}

/// Commands that only read need no backy.toml: an export, a restore and the others work when it is lost or wrong.
#[test]
fn an_archive_without_a_config_can_be_read() {
    let (scene, states) = Scene::with_revisions(2);
    for config in [None, Some(&b"source = 5"[..])] {
        match config {
            Some(text) => scene.write("a/backy.toml", text),
            None => fs::remove_file(scene.path("a/backy.toml")).unwrap(),
        }
        for level in [&[][..], &["--level", "3"]] {
            scene.works(&[&["-b", "a", "export", "-r", "1"][..], level, &["out.qcow2"]].concat());
            if qemu::available() {
                scene.write("expected", &states[1]);
                let args = ["compare", "-f", "qcow2", "-F", "raw"];
                let paths = [scene.text_path("out.qcow2"), scene.text_path("expected")];
                let run = tool("qemu-img", &[&args[..], &[&paths[0], &paths[1]]].concat()).unwrap();
                assert_eq!(run.status, Some(0), "{run:?}");
            }
            fs::remove_file(scene.path("out.qcow2")).unwrap();
        }
        assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == states[0]);
        for args in [&["find", "-r", "1"][..], &["tag", "1"], &["drill"], &["rm", "-n", "1"]] {
            scene.works(&[&["-b", "a"][..], args].concat());
        }
        let status = scene.run(&["-b", "a", "status", "--json"]);
        assert_eq!(status.json()["revisions"].as_array().map(Vec::len), Some(2), "{status:?}");
    }
}

/// An existing file is not overwritten, and a failed export leaves nothing.
#[test]
fn export_refuses_existing_and_unsafe_targets() {
    let (scene, _) = Scene::with_revisions(1);
    scene.write("there.qcow2", b"precious");
    std::os::unix::fs::symlink("nowhere", scene.path("link")).unwrap();
    for (file, word) in [
        ("there.qcow2", "exists already"),
        ("link", "exists already"),
        ("a/x.qcow2", "in the archive"),
        ("gone/x.qcow2", "No such file"),
        ("-", "standard output"),
    ] {
        scene.refuses(&["-b", "a", "export", file], &[file.split('/').next().unwrap(), word]);
    }
    let mut image = scene.read("a/last.raw");
    image[70_000] ^= 1;
    scene.write("a/last.raw", &image);
    scene.refuses(&["-b", "a", "export", "x.qcow2"], &["block 1", "last.raw"]);
}
