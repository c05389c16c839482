//! backy or QEMU killed at each command that changes something: what is left of the backup is removed by the next one.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use crate::site::{run, text, words};

/// When a process is to be killed.
#[derive(Clone, Copy)]
struct Trap {
    /// Changes that are let through before.
    left: usize,
    /// Whether QEMU makes the change at which it happens.
    is_after: bool,
    /// `None` for the client.
    process: Option<Pid>,
}

/// A monitor that passes on what it is asked, until somebody is killed.
struct Proxy {
    trap: Arc<Mutex<Option<Trap>>>,
}

impl Proxy {
    fn listen(at: &Path, monitor: PathBuf) -> Self {
        let trap = Arc::new(Mutex::new(None));
        let listener = UnixListener::bind(at).expect("listen");
        let shared = Arc::clone(&trap);
        // It ends with the process of the test.
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a client");
                if let Ok(server) = UnixStream::connect(&monitor) {
                    serve(client, server, &shared);
                }
            }
        });
        Proxy { trap }
    }

    fn set(&self, trap: Option<Trap>) {
        *self.trap.lock().expect("a trap") = trap;
    }

    /// Whether somebody was killed.
    fn was_sprung(&self) -> bool {
        self.trap.lock().expect("a trap").is_none()
    }
}

/// Serves one client to its end.
fn serve(client: UnixStream, server: UnixStream, trap: &Mutex<Option<Trap>>) {
    let asker = socket_peercred(&client).expect("who asks").pid;
    let (mut back, mut from) =
        (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
    let is_held = Arc::new(AtomicBool::new(false));
    let holds = Arc::clone(&is_held);
    let answers = thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if holds.load(Ordering::SeqCst) || back.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        if !holds.load(Ordering::SeqCst) {
            let _ = back.shutdown(std::net::Shutdown::Both);
        }
    });
    let mut server_side = &server;
    for line in BufReader::new(&client).lines().map_while(Result::ok) {
        let changes = !line.contains("\"query-") && !line.contains("\"qmp_capabilities\"");
        let mut held = trap.lock().expect("a trap");
        let sprung = match held.as_mut() {
            Some(trap) if changes && trap.left == 0 => held.take(),
            Some(trap) if changes => {
                trap.left -= 1;
                None
            }
            _ => None,
        };
        drop(held);
        // A client that is to be killed waits for the answer.
        is_held.store(sprung.is_some_and(|trap| trap.process.is_none()), Ordering::SeqCst);
        if sprung.is_none_or(|trap| trap.is_after) {
            let _ = server_side.write_all(format!("{line}\n").as_bytes());
        }
        if let Some(trap) = sprung {
            if trap.is_after {
                thread::sleep(Duration::from_millis(40));
            }
            kill_process(trap.process.unwrap_or(asker), Signal::KILL).expect("kill it");
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
    answers.join().expect("pass on the answers");
}

fn scene() -> Option<(Scene, Proxy)> {
    let mut scene = Scene::new("qcow2")?;
    let (proxy, monitor) = (scene.machine.path("proxy"), scene.machine.monitor());
    let passing = Proxy::listen(&proxy, monitor.clone());
    let (real, asked) = (format!("qmp:{}/", text(&monitor)), format!("qmp:{}/", text(&proxy)));
    scene.site.configure(|config| config.replace(&real, &asked));
    scene.backup();
    Some((scene, passing))
}

/// However backy is killed, the next backup reads only what has changed, and then the machine has nothing of the killed
/// one any more.
#[test]
fn a_killed_backup_leaves_a_running_disk_alone_after_the_next() {
    let Some((mut scene, proxy)) = scene() else { return };
    let mut killed = 0;
    for is_after in [false, true] {
        for left in 0.. {
            let place = (left % 15) as u64 * (1 << 20);
            scene.machine.write(place, &[left as u8 + 1; 3000]);
            proxy.set(Some(Trap { left, is_after, process: None }));
            let output = run(&mut scene.site.backy(&["backup", "--force"]));
            let was_killed = proxy.was_sprung();
            proxy.set(None);
            let state = scene.machine.disk();
            scene.site.reconcile(&[], Some(&state));
            if !was_killed {
                assert!(output.status.success(), "{}", words(&output));
                break;
            }
            assert_eq!(output.status.code(), None, "{left} {is_after}: {}", words(&output));
            killed += 1;
            let (hints, read) = scene.backup();
            assert!(hints["since"].is_string(), "{left} {is_after}: {hints}");
            assert!(read <= 256 << 10, "{left} {is_after}: {read} bytes were read");
            assert_eq!(scene.machine.bitmaps().len(), 1, "{left} {is_after}");
        }
    }
    assert!(killed >= 24, "only {killed} moments");
    scene.site.check_at_rest();
}

/// When QEMU is killed, the backup fails with one line unless it was made already. The next one has everything that the
/// guest had written.
#[test]
fn a_backup_of_a_machine_that_is_killed_fails_and_leaves_nothing() {
    let Some((mut scene, proxy)) = scene() else { return };
    let mut killed = 0;
    for left in 0.. {
        let place = (left % 15) as u64 * (1 << 20);
        scene.machine.write(place, &[left as u8 + 1; 3000]);
        let before = scene.machine.disk();
        let process = scene.machine.process.as_ref().expect("a machine").0.id();
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        proxy.set(Some(Trap { left, is_after: false, process }));
        let output = run(&mut scene.site.backy(&["backup", "--force"]));
        let was_killed = proxy.was_sprung();
        proxy.set(None);
        scene.site.reconcile(&[], Some(&before));
        if !was_killed {
            assert!(output.status.success(), "{}", words(&output));
            break;
        }
        killed += 1;
        let said = words(&output);
        // Once everything has been read, the machine is not needed any more.
        if output.status.code() != Some(0) {
            assert_eq!(
                (output.status.code(), said.lines().count()),
                (Some(1), 1),
                "{left}: {said}"
            );
        }
        scene.machine.end(Signal::KILL);
        scene.machine.boot();
        assert!(scene.machine.disk() == before, "{left}: the guest's disk has changed");
        scene.backup();
        assert_eq!(scene.machine.bitmaps().len(), 1, "{left}");
    }
    assert!(killed >= 12, "only {killed} moments");
    let (hints, _) = scene.backup();
    assert!(hints["since"].is_string(), "{hints}");
    scene.site.check_at_rest();
}
