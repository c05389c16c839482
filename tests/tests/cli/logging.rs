//! `--log-format`, the journal, the service manager.

use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use serde_json::Value;

use super::harness::{Run, Scene};

fn lines(run: &Run) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    run.stderr.lines().map(parse).collect()
}

fn last_of_history(scene: &Scene) -> Value {
    let history = scene.read_text("a/history.jsonl");
    serde_json::from_str(history.lines().last().expect("a line")).expect("JSON")
}

/// A log has a beginning, phases and an end, each line with the name of the operation that is in the history as well.
#[test]
fn all_log_lines_of_an_operation_have_one_id() {
    let scene = Scene::with_archive();
    for args in [&["backup"][..], &["backup", "-f"], &["scrub"], &["tag", "0", "+x"], &["drill"]] {
        let args = [&["-v", "--log-format", "json", "-b", "a"], args].concat();
        let lines = lines(&scene.works(&args));
        let history = last_of_history(&scene);
        assert!(lines.iter().all(|line| line["operation"] == history["id"]), "{lines:?} {history}");
        let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!((events[0], events[events.len() - 1]), ("start", "end"), "{events:?}");
        let end = lines.last().unwrap();
        assert_eq!((&end["result"], &end["exit_status"]), (&"ok".into(), &0.into()));
        assert!(lines.iter().all(|line| line["command"] == history["operation"]), "{lines:?}");
        assert_eq!(end["archive"], scene.text_path("a"));
        let id = history["id"].as_str().unwrap();
        assert_eq!(id.as_bytes()[14], b'7', "{id}");
        if args.contains(&"backup") {
            let phase = lines.iter().find(|line| line["event"] == "phase").unwrap();
            assert_eq!(
                (&phase["phase"], &phase["total_bytes"]),
                (&"backup".into(), &1_500_003.into())
            );
            assert!(events.contains(&"note"), "{events:?}");
        }
    }
}

/// In every form, a successful run prints nothing without -v, as cron wants it.
#[test]
fn successful_commands_log_nothing() {
    let scene = Scene::with_archive();
    for format in ["text", "json", "journal"] {
        for args in [&["backup", "-f"][..], &["maintenance"], &["scrub"], &["tag", "0", "+x"]] {
            let run = scene.works(&[&["--log-format", format, "-b", "a"], args].concat());
            assert_eq!((run.text(), run.stderr.as_str()), ("", ""), "{format} {args:?}");
        }
    }
}

/// A failure is one line, in any form, also when the arguments are wrong.
#[test]
fn a_failure_is_one_line() {
    let scene = Scene::with_archive();
    fs::remove_file(scene.path("source.img")).unwrap();
    for args in [&["backup"][..], &["bakcup"], &["-b", "nowhere", "status"]] {
        for (format, begin) in [("text", "20"), ("journal", "<3>"), ("json", "{")] {
            let run = scene.run(&[&["--log-format", format, "-b", "a"], args].concat());
            assert_eq!((run.status, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
            assert!(run.stderr.starts_with(begin), "{run:?}");
            match format {
                "json" => {
                    let line = &lines(&run)[0];
                    assert_eq!(line["level"], "error");
                    assert_eq!(
                        (&line["event"], &line["result"]),
                        (&"end".into(), &"failed".into())
                    );
                    assert_eq!(line["exit_status"], 1);
                }
                _ => assert!(run.stderr.contains(": error: "), "{run:?}"),
            }
        }
    }
}

/// By default, lines have priorities where standard error is the journal, and only there.
#[test]
fn journal_output_has_priorities() {
    let scene = Scene::with_archive();
    scene.works(&["-b", "a", "backup"]);
    let journal = scene.path("journal");
    for (args, is_journal, begin) in [
        (&["-v", "-b", "a", "backup", "-f"][..], true, "<6>"),
        (&["-b", "a", "restore", "source.img/x"], true, "<3>"),
        (&["-v", "--log-format", "json", "-b", "a", "scrub"], true, "<6>{"),
        (&["-v", "-b", "a", "scrub"], false, "backy: "),
    ] {
        let file = File::create(&journal).unwrap();
        let metadata = file.metadata().unwrap();
        let inode = metadata.ino() + u64::from(!is_journal);
        let mut command = scene.command(args);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", metadata.dev())).stderr(file);
        command.status().expect("run backy");
        let said = scene.read_text("journal");
        assert!(!said.is_empty() && said.lines().all(|line| line.starts_with(begin)), "{said}");
    }
}

/// A timer asks often whether a backup is due. The journal has nothing of those that are not; a log in another form has
/// all, and so has a terminal.
#[test]
fn the_journal_has_nothing_of_what_is_not_due() {
    let scene = Scene::with_archive();
    scene.works(&["-b", "a", "backup"]);
    for args in [&["-v", "-b", "a", "backup"][..], &["-v", "run", "a"]] {
        let journal = [&["--log-format", "journal"], args].concat();
        assert_eq!(scene.works(&journal).stderr, "", "{args:?}");
    }
    let json = scene.works(&["--log-format", "json", "-v", "-b", "a", "backup"]);
    assert_eq!(json.stderr.lines().count(), 3, "{}", json.stderr);
    assert!(scene.works(&["-v", "-b", "a", "backup"]).stderr.contains("No backup is due"));
}

/// backy notifies the service manager when it begins, how far it is, and how it ended, by either kind of socket.
#[test]
fn systemd_receives_status_notifications() {
    let scene = Scene::with_archive();
    let path = scene.text_path("notify");
    let in_folder = UnixDatagram::bind(&path).unwrap();
    let name = format!("backy-test-{}", std::process::id());
    let in_none = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (address, manager) in [(path, &in_folder), (format!("@{name}"), &in_none)] {
        let mut command = scene.command(&["-b", "a", "backup", "-f", "--limit-rate", "500K"]);
        let run: Run = command.env("NOTIFY_SOCKET", &address).output().expect("run backy").into();
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
        let told = told(manager);
        assert_eq!(told[0], "READY=1\nSTATUS=backup begins");
        assert_eq!(told[1], "STATUS=backing up");
        let progress = &told[2];
        assert!(
            progress.starts_with("STATUS=backing up: ") && progress.contains(" % of 1.4 MiB, ")
        );
        assert_eq!(told.last().unwrap(), "STATUS=backup finished");
    }
    // A socket without a listener is no reason to fail, and an error is reported.
    drop(in_none);
    let mut command = scene.command(&["-b", "a", "backup", "-f"]);
    assert!(command.env("NOTIFY_SOCKET", format!("@{name}")).status().unwrap().success());
    let mut command = scene.command(&["-b", "a", "restore", "-r", "99", "x"]);
    command.env("NOTIFY_SOCKET", scene.path("notify")).output().unwrap();
    assert!(told(&in_folder).last().unwrap().starts_with("STATUS=there is no revision 99"));
}

/// All notifications so far.
fn told(manager: &UnixDatagram) -> Vec<String> {
    manager.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = [0; 4096];
    let mut received = Vec::new();
    while let Ok(len) = manager.recv(&mut buffer) {
        received.push(String::from_utf8(buffer[..len].to_vec()).expect("text"));
    }
    received
}
