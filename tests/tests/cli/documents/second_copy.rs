//! The commands of `doc/second-copy.md`, over a real `sshd` with a config, keys and a port of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backy_tests::command::{backy, text, works};
use backy_tests::world::noise;
use serde_json::Value;

use super::guide::{folder_with_backy, run};
use super::{code_blocks, document};

/// A server on the loopback, and what a client needs to reach it as `backup1` and as `offsite`.
struct Sshd {
    process: Child,
}

impl Sshd {
    /// Starts it with keys, config and logs in a folder. The lines of `authorized_keys` get the key of the client whose
    /// name they end with. `None` where there is no server.
    fn start(folder: &Path, commands: &[(&str, String)]) -> Option<Self> {
        let Some(sshd) =
            ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists())
        else {
            backy_tests::qemu::skipped("openssh-server is not installed");
            return None;
        };
        let place = folder.join("ssh");
        fs::create_dir_all(&place).expect("a folder");
        let key = |name: &str| {
            let path = place.join(name);
            works(Command::new("ssh-keygen").args([
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                text(&path),
            ]));
            fs::read_to_string(path.with_extension("pub")).expect("a public key")
        };
        key("host");
        let mut authorized = String::new();
        for (name, options) in commands {
            authorized += &format!("{options} {}", key(name));
        }
        fs::write(place.join("authorized_keys"), authorized).expect("the keys");
        let port = free_port();
        let at = text(&place);
        let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized_keys\n\
             PidFile {at}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nSetEnv PATH={path}\n\
             PermitRootLogin yes\n"
        );
        fs::write(place.join("sshd_config"), config).expect("the config");
        // The server of the system makes it when it starts.
        let _ = fs::create_dir_all("/run/sshd");
        let log = fs::File::create(place.join("log")).expect("a log");
        let process = Command::new(sshd)
            .args(["-D", "-e", "-f", text(&place.join("sshd_config"))])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start sshd");
        client(folder, &place, port, commands);
        let server = Sshd { process };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "sshd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command `ssh` of this folder: that of the system, with a config in which each key has a host of its own.
fn client(folder: &Path, place: &Path, port: u16, commands: &[(&str, String)]) {
    let at = text(place);
    let mut config = String::new();
    for (name, _) in commands {
        config += &format!(
            "Host {name}\n HostName 127.0.0.1\n Port {port}\n IdentityFile {at}/{name}\n IdentitiesOnly yes\n\
             \x20UserKnownHostsFile {at}/known_hosts\n StrictHostKeyChecking accept-new\n LogLevel ERROR\n"
        );
    }
    fs::write(place.join("ssh_config"), config).expect("the config");
    let script = format!("#!/bin/sh\nexec /usr/bin/ssh -F {at}/ssh_config \"$@\"\n");
    let ssh = folder.join("bin/ssh");
    fs::write(&ssh, script).expect("the command");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("make it executable");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

/// The names in the manifest of an archive, newest first.
fn revisions(archive: &Path) -> Vec<String> {
    let manifest = fs::read(archive.join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let revisions = manifest["revisions"].as_array().expect("revisions");
    revisions.iter().map(|revision| revision["uuid"].as_str().expect("a name").to_owned()).collect()
}

/// All commands of the document work: the keys, the pull, the push, the disk in a drawer, `rsync`, and the restore when
/// the origin is gone. Each copy has all revisions, and `backy restore` returns their bytes. With the key of the
/// document, an archive elsewhere cannot be read.
#[test]
fn the_commands_on_second_copies_run() {
    let folder = folder_with_backy();
    let root = folder.path();
    let document = document("doc/second-copy.md").replace("/srv/", &format!("{}/srv/", text(root)));
    let lines = code_blocks(&document, "text authorized_keys");
    let [(_, pull), (_, push)] = lines.as_slice() else { panic!("{lines:?}") };
    let options = |line: &str| line.split_once(" ssh-ed25519 ").expect("a key").0.to_owned();
    let keys = [("backup1", options(pull)), ("offsite", options(push))];
    let Some(_server) = Sshd::start(root, &keys) else { return };
    for place in ["backup", "copy", "copy2", "usb", "rsync"] {
        fs::create_dir_all(root.join("srv").join(place)).expect("a folder");
    }
    let (source, origin) = (root.join("source"), root.join("srv/backup/mynode"));
    let states = [noise(1, 700_000), noise(2, 900_123), noise(3, 500_000)];
    fs::write(&source, &states[0]).expect("the source");
    works(&mut backy(&origin, &["init", text(&source)]));
    for state in &states {
        fs::write(&source, state).expect("the source");
        works(&mut backy(&origin, &["backup", "--force"]));
    }
    for (_, script) in code_blocks(&document, "sh run") {
        let output = run(root, script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{errors}");
    }
    for copy in ["copy", "copy2", "usb", "rsync"] {
        let copy = root.join("srv").join(copy).join("mynode");
        assert_eq!(revisions(&copy), revisions(&origin));
        for (number, state) in states.iter().rev().enumerate() {
            let target = root.join("target");
            works(&mut backy(&copy, &["restore", "-r", &number.to_string(), text(&target)]));
            assert!(
                fs::read(&target).expect("the target") == *state,
                "{}: {number}",
                copy.display()
            );
            fs::remove_file(target).expect("remove it");
        }
    }
    assert!(fs::read(root.join("srv/restored.img")).expect("the restored image") == states[2]);
    let refused = run(root, "backy -b other pull ssh://backup1/etc");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("/etc"), "{errors}");
    assert!(!root.join("other/manifest.json").exists());
}
