//! `pull` and `push` over ssh, `serve` and `receive`, with a program in place of ssh that runs the command here.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_tests::qemu::skipped;

use super::harness::{Run, Scene, is_root, program};

/// A scene with an archive of three revisions, and a program in place of ssh.
struct Far {
    scene: Scene,
    states: Vec<Vec<u8>>,
}

/// What such a program does instead of logging in on the host: it runs the command in the shell here.
const AS_ASKED: &str = "exec sh -c \"$*\"";

fn far(does: &str) -> Far {
    let (scene, states) = Scene::with_revisions(3);
    let far = Far { scene, states };
    far.write_ssh(does);
    far
}

impl Far {
    fn write_ssh(&self, does: &str) {
        let bin = self.scene.text_path("bin");
        let _ = std::fs::create_dir(&bin);
        let _ = symlink(program(), self.scene.path("bin/backy"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" > words\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nhost=$1\nshift\n\
             echo \"note of $host\" >&2\nPATH={bin}:$PATH\n{does}\n"
        );
        self.scene.write("ssh", script.as_bytes());
        let runs = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.scene.path("ssh"), runs).expect("change the mode");
    }

    fn url(&self, name: &str) -> String {
        format!("ssh://me@far:2222{}", self.scene.text_path(name))
    }

    fn run(&self, folder: &str, words: &[&str]) -> Run {
        let ssh = self.scene.text_path("ssh");
        let words = [&["-b", folder], words, &["--ssh", &ssh]].concat();
        self.scene.run(&words)
    }

    /// Each revision of the copy is that of the archive.
    fn assert_copied(&self, copy: &str, states: &[Vec<u8>]) {
        for (number, state) in states.iter().enumerate() {
            let number = number.to_string();
            let run = self.scene.works(&["-b", copy, "restore", "-r", &number, "-"]);
            assert!(run.stdout == *state, "{copy}: revision {number}");
        }
        let uuids = |folder: &str| {
            let json = self.scene.works(&["-b", folder, "status", "--json"]).json();
            let all = json["revisions"].as_array().expect("a list").clone();
            all.iter().map(|one| one["uuid"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(uuids(copy), uuids("a")[..states.len()]);
    }
}

/// A copy is pulled over ssh: ssh gets the port, the user and the host as its own, and the command as one of the other
/// side.
#[test]
fn a_copy_is_pulled_over_ssh() {
    let far = far(AS_ASKED);
    let run = far.run("copy", &["pull", &far.url("a")]);
    assert_eq!((run.status, run.text()), (Some(0), ""), "{run:?}");
    let words = far.scene.read_text("words");
    let path = far.scene.text_path("a");
    assert_eq!(words, format!("-T -oBatchMode=yes -p 2222 -- me@far backy serve --stdio {path}\n"));
    far.assert_copied("copy", &far.states);
    let run = far.run("copy", &["pull", &far.url("a"), "--json"]);
    assert_eq!(run.json()["present"], 3, "{run:?}");
    assert_eq!(run.json()["origin"], far.url("a"));
}

/// A copy is pushed over ssh, made there if it is not there, and the report comes back.
#[test]
fn a_copy_is_pushed_over_ssh() {
    let far = far(AS_ASKED);
    let run = far.run("a", &["push", &far.url("copy"), "--dry-run"]);
    assert!(run.text().contains("3 revisions to pull"), "{run:?}");
    assert!(!far.scene.path("copy").exists(), "a dry run made it");
    let run = far.run("a", &["push", &far.url("copy"), "--json"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(run.json()["pulled"].as_array().map(Vec::len), Some(3));
    far.assert_copied("copy", &far.states);
    let run = far.run("a", &["push", &far.url("copy"), "-v"]);
    assert!(run.stderr.contains("nothing to push to ssh://me@far"), "{run:?}");
    // Without a connection, to a folder.
    let local = far.scene.text_path("local");
    let run = far.run("a", &["push", &local]);
    assert_eq!(run.status, Some(0), "{run:?}");
    far.assert_copied("local", &far.states);
}

/// A push that leaves out what was named exits with 1 and says which.
#[test]
fn a_push_that_leaves_something_out_exits_with_1() {
    let far = far(AS_ASKED);
    let run = far.run("a", &["push", &far.url("copy"), "-r", "0"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    far.assert_copied("copy", &far.states[..1]);
    let run = far.run("a", &["push", &far.url("copy"), "-r", "2"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.stderr.contains("was not pulled"), "{run:?}");
}

/// With a forced command the other side serves only what is below its folder, whatever the caller names.
#[test]
fn a_forced_command_confines_the_caller() {
    let scene = far("").scene;
    let root = scene.text_path("root");
    std::fs::create_dir(&root).expect("a folder");
    let far = Far { states: Vec::new(), scene };
    for (verb, words) in [("serve", "pull"), ("receive", "push")] {
        far.write_ssh(&format!("exec backy {verb} --stdio {root}"));
        let before = far.scene.state();
        let folder = if verb == "serve" { "copy" } else { "a" };
        for name in ["a", "root/../a", "elsewhere"] {
            let run = far.run(folder, &[words, &far.url(name)]);
            assert_eq!(run.status, Some(1), "{run:?}");
            assert!(run.stderr.contains("the only folder that is served here"), "{run:?}");
            assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        }
        let after = far.scene.state();
        let changed: Vec<&PathBuf> =
            after.keys().filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.iter().all(|path| path.ends_with("words")), "{changed:?}");
    }
    let run = far.run("a", &["push", &far.url("root/new")]);
    assert_eq!(run.status, Some(0), "{run:?}");
    far.write_ssh(&format!("exec backy serve --stdio {root}"));
    let run = far.run("copy", &["pull", &far.url("root/new")]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let run = far.run("a", &["push", &far.url("root/new")]);
    assert!(run.stderr.contains("run backy receive instead of backy serve"), "{run:?}");
}

/// The error of a connection that fails has what ssh printed, in one line, and ends with what to do.
#[test]
fn what_ssh_prints_is_part_of_the_error() {
    for (does, words) in [
        ("echo 'Permission denied (publickey).' >&2; exit 255", "Permission denied (publickey)."),
        ("exec sh -c 'no-such-backy serve'", "not found"),
        ("echo Welcome; exec sh -c \"$*\"", "found 'Welcome"),
        ("printf '\\033[31mred' >&2; exit 1", "\\u{1b}[31mred"),
        ("exec sh -c 'kill $$'", "signal: 15"),
        ("exec sleep 0", "ended before backy there answered"),
    ] {
        let far = far(does);
        for command in ["pull", "push"] {
            let folder = if command == "pull" { "copy" } else { "a" };
            let run = far.run(folder, &[command, &far.url("a")]);
            assert_eq!(run.status, Some(1), "{run:?}");
            let line = run.stderr.strip_suffix('\n').expect("a line");
            assert!(line.contains(words) && line.contains("ssh://me@far"), "{words}: {run:?}");
            assert!(!line.contains('\n') && line.contains("; check the address"), "{run:?}");
        }
        assert!(!far.scene.path("copy").exists());
    }
}

/// A pull that fails on the other side of a push is an error here, with the reason, and printed once.
#[test]
fn why_the_other_side_of_a_push_fails_is_reported() {
    let far = far(AS_ASKED);
    far.scene.works(&["-b", "copy", "init", "source.img", "--block-size", "4K"]);
    let run = far.run("a", &["push", &far.url("copy")]);
    assert_eq!(run.status, Some(1), "{run:?}");
    let url = far.url("copy");
    let begins = format!("backy: error: {url}: reports: ");
    let lines: Vec<&str> = run.stderr.lines().filter(|line| !line.contains("note of")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with(&begins), "{run:?}");
    assert!(lines[0].contains("4"), "{run:?}");
}

/// What is no address is refused before anything is done.
#[test]
fn what_is_no_address_is_refused() {
    let far = far(AS_ASKED);
    for address in ["far:/srv/a", "ssh://far", "ssh://-oProxyCommand=x/y", "http://far/x"] {
        let run = far.run("copy", &["pull", address]);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.contains("ssh://"), "{run:?}");
    }
    assert!(!far.scene.path("words").exists(), "ssh was run");
}

/// A called side that hears no backy ends with an error, and writes nothing but the protocol to standard output.
#[test]
fn a_called_side_that_hears_no_backy_ends() {
    let far = far(AS_ASKED);
    for verb in ["serve", "receive"] {
        let run = far.scene.run(&[verb, "--stdio", "."]);
        assert_eq!((run.status, &run.stdout[..8]), (Some(1), &b"\x89backy\r\n"[..]), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        let run = far.scene.run(&[verb, "."]);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.contains("--stdio"), "{run:?}");
    }
}

/// A real sshd with a forced command: a pull and a push work, and neither key reaches anything else.
#[test]
fn forced_commands_of_sshd_pull_and_push() {
    let programs = ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen"];
    if !is_root() || !programs.iter().all(|program| Path::new(program).exists()) {
        skipped("there is no sshd, or no root to run it");
        return;
    }
    let far = far(AS_ASKED);
    let at = |name: &str| far.scene.text_path(name);
    for folder in ["/run/sshd", &at("root")] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    for key in ["host-key", "pull-key", "push-key"] {
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", &at(key)];
        let made = Command::new("ssh-keygen").args(words).status();
        assert!(made.expect("run ssh-keygen").success());
    }
    let forced = |verb: &str, root: &str, key: &str| {
        let (backy, public) = (at("bin/backy"), far.scene.read_text(key));
        format!("command=\"{backy} {verb} --stdio {root}\",restrict {public}")
    };
    let keys =
        forced("serve", &at("a"), "pull-key.pub") + &forced("receive", &at("root"), "push-key.pub");
    far.scene.write("keys", keys.as_bytes());
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n",
        at("host-key"),
        at("keys")
    );
    far.scene.write("sshd.conf", config.as_bytes());
    // Each connection has a server of its own, so that no port is needed.
    let ssh = |key: &str| {
        format!(
            "ssh -F none -i {} -oIdentitiesOnly=yes -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null \
             -oLogLevel=ERROR \"-oProxyCommand=/usr/sbin/sshd -i -f {}\"",
            at(key),
            at("sshd.conf")
        )
    };
    let run = |words: &[&str], key: &str| far.scene.run(&[words, &["--ssh", &ssh(key)]].concat());
    let url = |name: &str| format!("ssh://root@far{}", at(name));
    let pulled = run(&["-b", "copy", "pull", &url("a")], "pull-key");
    assert_eq!((pulled.status, pulled.stderr.as_str()), (Some(0), ""), "{pulled:?}");
    far.assert_copied("copy", &far.states);
    let pushed = run(&["-b", "a", "push", &url("root/new")], "push-key");
    assert_eq!((pushed.status, pushed.stderr.as_str()), (Some(0), ""), "{pushed:?}");
    far.assert_copied("root/new", &far.states);
    for (words, key) in [
        (["-b", "other", "pull", &url("copy")], "pull-key"),
        (["-b", "other", "pull", &url("root/new")], "push-key"),
        (["-b", "a", "push", &url("a")], "pull-key"),
        (["-b", "a", "push", &url("elsewhere")], "push-key"),
    ] {
        let refused = run(&words, key);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("reports: "), "{refused:?}");
    }
    assert!(!far.scene.path("other").exists() && !far.scene.path("elsewhere").exists());
}
