//! Disks of libvirt domains, with a real libvirtd and QEMU: while a domain runs, a revision is the disk as it was at
//! one moment; otherwise, that of its image. Only what may have changed is read.

mod freeze;
mod killed;
mod refused;
mod together;

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::libvirt::{Libvirt, NODE};
use crate::processes::Running;
use crate::site::{Site, backy, run, text, words, works};
use crate::stand_ins::with;

const MIB: u64 = 1 << 20;

/// A host and an archive of a disk of its domain.
struct Scene {
    host: Libvirt,
    site: Site,
    disk: &'static str,
}

impl Scene {
    fn new(disk: &'static str) -> Option<Self> {
        let host = Libvirt::start()?;
        for (place, bytes) in [("0", "300k"), ("5M", "1M"), ("15M", "70k")] {
            write(&host, disk, place, bytes, 3);
        }
        let site = archive(&host, disk, "archive");
        Some(Scene { host, site, disk })
    }

    /// A command of backy, which finds libvirt.
    fn backy(&self, args: &[&str]) -> Command {
        with(&[self.host.setting()], &self.site.backy(args))
    }

    /// A backup, which has to be of the disk as it is now; what it says about changes, and how much it read.
    fn backup(&mut self) -> (Value, u64) {
        let state = self.host.disk(self.disk);
        let output = run(&mut self.backy(&["backup", "--force", "--json"]));
        assert!(output.status.success(), "{}", words(&output));
        assert_eq!(words(&output), "", "a backup that works says nothing");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let revision = &report["revision"];
        self.site.push(revision["uuid"].as_str().expect("a UUID"), &state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the guest's disk");
        self.host.check_quiet();
        let read = revision["statistics"]["read_bytes"].as_u64().expect("a number");
        (revision["hints"].clone(), read)
    }

    /// A backup that reads everything, for this reason; the one after it does not.
    fn doubts(&mut self, why: &str) {
        let (hints, _) = self.backup();
        let reason = hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"));
        assert!(reason.contains(why), "{why}: {hints}");
        let (hints, read) = self.backup();
        assert!(hints["since"].is_string() && read == 0, "after '{why}': {hints}");
    }

    /// A write of the guest that changes something.
    fn write(&self, place: &str, bytes: &str, pattern: u8) {
        let before = self.host.disk(self.disk);
        write(&self.host, self.disk, place, bytes, pattern);
        assert!(self.host.disk(self.disk) != before, "nothing was written to {place}");
    }
}

fn write(host: &Libvirt, disk: &str, place: &str, bytes: &str, pattern: u8) {
    // What qemu-io says goes to QEMU's own output, so that the disk is looked at.
    let output = host.guest(disk, &format!("write -P {pattern} {place} {bytes}"));
    assert!(output.status.success(), "{}", words(&output));
}

fn archive(host: &Libvirt, disk: &str, name: &str) -> Site {
    let folder = host.path(name);
    works(&mut backy(&folder, &["init", &format!("libvirt:{NODE}/{disk}")]));
    let site = Site { folder, source: host.path("none"), expected: Vec::new() };
    let scratch = format!("[tracking]\nscratch = {:?}\n", host.path("scratch"));
    site.configure(|config| config + &scratch);
    site
}

/// Writes, zeros, discards, growing, the end of the domain, backups while it does not run, and a new start: each is in
/// the next revision, and little more than it is read.
#[test]
fn every_way_to_change_a_disk_of_a_domain_is_noticed() {
    let Some(mut scene) = Scene::new("vda") else { return };
    let (hints, read) = scene.backup();
    assert_eq!(hints["reason"], "this is the first backup");
    assert!(read < 3 * MIB, "{read} bytes of holes were read");
    type Change = Box<dyn Fn(&Scene)>;
    let guest = |command: &'static str| -> Change {
        Box::new(move |scene| {
            let output = scene.host.guest("vda", command);
            assert!(output.status.success(), "{}", words(&output));
        })
    };
    let changes: [(&str, Change); 10] = [
        ("nothing", Box::new(|_| {})),
        ("a write", Box::new(|scene| scene.write("1000000", "5000", 7))),
        ("a discard", guest("discard 5M 128k")),
        ("zeros", guest("write -z 5500k 65k")),
        (
            "longer",
            Box::new(|scene| {
                scene.host.ask(&["blockresize", NODE, "vda", "20M"]);
                scene.write("19M", "3000", 6);
            }),
        ),
        (
            "the end of the domain",
            Box::new(|scene| {
                scene.write("3M", "4000", 8);
                scene.host.stop();
            }),
        ),
        ("nothing while it does not run", Box::new(|_| {})),
        (
            "a change while it does not run",
            Box::new(|scene| {
                let image = scene.host.path("vda");
                let words = ["-f", "qcow2", "-c", "write -P 9 7M 1000"];
                works(Command::new("qemu-io").args(words).arg(&image));
            }),
        ),
        (
            "a start",
            Box::new(|scene| {
                scene.host.run();
                scene.write("4M", "4000", 9);
            }),
        ),
        (
            "a start without a backup before",
            Box::new(|scene| {
                scene.write("8M", "4000", 9);
                scene.host.stop();
                scene.host.run();
                scene.write("9M", "4000", 9);
            }),
        ),
    ];
    for (what, change) in changes {
        change(&scene);
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string(), "{what}: {hints}");
        assert!(read <= 256 << 10, "{what}: {read} bytes were read");
        assert_eq!(scene.host.checkpoints().len(), 1, "{what}");
    }
    scene.site.check_at_rest();
    let looked = works(&mut scene.backy(&["source"]));
    let looked = String::from_utf8_lossy(&looked);
    assert!(looked.contains("disk of libvirt of 20.0 MiB"), "{looked}");
    assert!(looked.contains("reads what has changed since"), "{looked}");
}

/// A disk of which libvirt makes no checkpoint is read whole, as it is at one moment, whether or not the domain runs.
#[test]
fn a_raw_disk_of_a_domain_is_read_whole() {
    let Some(mut scene) = Scene::new("vdb") else { return };
    for (runs, part) in [(true, "only of disks in qcow2"), (false, "keeps no bitmaps")] {
        if !runs {
            scene.host.stop();
        }
        for _ in 0..2 {
            let (hints, read) = scene.backup();
            assert!(hints["since"].is_null() && read > MIB, "{hints}");
            let looked = works(&mut scene.backy(&["source"]));
            let looked = String::from_utf8_lossy(&looked);
            assert!(looked.contains(part), "{looked}");
        }
    }
    assert_eq!(scene.host.checkpoints(), [""; 0]);
    scene.site.check_at_rest();
}

/// A guest that writes all the time, always to the next of some places: a revision has all writes up to some moment,
/// and none after it.
#[test]
fn a_revision_is_a_disk_of_a_domain_at_one_moment() {
    const PLACES: u64 = 100;
    let Some(mut scene) = Scene::new("vda") else { return };
    // 255 is followed by 1, and the first round begins with zeros.
    let pattern = |count: u64| (count % 255 + 1) as u8;
    let output = scene.host.guest("vda", "write -z 0 16M");
    assert!(output.status.success(), "{}", words(&output));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (host, stop) = (&scene.host, &stop);
        scope.spawn(move || {
            for count in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let place = count % PLACES * 128;
                write(host, "vda", &format!("{place}k"), "512", pattern(count));
            }
        });
        for round in 0..6 {
            let output = run(&mut scene.backy(&["backup", "--force", "--json"]));
            let image = fs::read(scene.site.folder.join("last.raw"));
            let report = serde_json::from_slice::<Value>(&output.stdout);
            let (Ok(report), Ok(image)) = (report, image) else {
                stop.store(true, Ordering::Relaxed);
                panic!("{}", words(&output));
            };
            let found = (0..PLACES).map(|at| image[(at * (128 << 10)) as usize]);
            let found: Vec<u8> = found.collect();
            // Some number of writes explains all of it.
            let whole = (0..5000).find(|writes| {
                (0..PLACES).all(|place| {
                    let last = (0..*writes).rev().find(|count| count % PLACES == place);
                    found[place as usize] == last.map_or(0, pattern)
                })
            });
            if whole.is_none() || report["revision"]["hints"]["since"].is_string() != (round > 0) {
                stop.store(true, Ordering::Relaxed);
                panic!("round {round}: {found:?} {report}");
            }
            scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &image);
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.host.check_quiet();
    scene.backup();
    scene.site.check_at_rest();
}

/// What no checkpoint of the disk records makes a doubt, and everything is read: one that was deleted, or made again;
/// a bitmap that was not saved; an overlay; a backing file that has changed.
#[test]
fn what_no_checkpoint_records_is_a_doubt() {
    let Some(mut scene) = Scene::new("vda") else { return };
    scene.backup();
    let mark = |scene: &Scene| {
        let [mark] = scene.host.checkpoints().try_into().expect("one checkpoint");
        mark
    };
    scene.host.ask(&["checkpoint-delete", NODE, &mark(&scene)]);
    scene.write("2M", "1000", 1);
    scene.doubts("is missing");
    let name = mark(&scene);
    scene.host.ask(&["checkpoint-delete", NODE, &name]);
    scene.write("2M", "1000", 2);
    let xml = scene.host.path("checkpoint.xml");
    let again = format!(
        "<domaincheckpoint><name>{name}</name><disks><disk name='vda' checkpoint='bitmap'/></disks>\
         </domaincheckpoint>"
    );
    fs::write(&xml, again).expect("write a checkpoint");
    thread::sleep(Duration::from_millis(1100));
    scene.host.ask(&["checkpoint-create", NODE, text(&xml)]);
    scene.doubts("was made again");
    for runs in [true, false] {
        scene.write("2M", "1000", if runs { 3 } else { 4 });
        let output = scene.host.guest("vda", "flush");
        assert!(output.status.success(), "{}", words(&output));
        scene.host.crash();
        if runs {
            scene.host.run();
        }
        let (hints, _) = scene.backup();
        let reason = hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"));
        assert!(["bitmap", "was not saved"].iter().any(|part| reason.contains(part)), "{hints}");
        if !runs {
            scene.host.run();
        }
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string() && read == 0, "{hints}");
        assert_eq!(scene.host.checkpoints().len(), 1);
    }

    let over = scene.host.path("over");
    let file = format!("vda,file={}", text(&over));
    let overlay = ["snapshot-create-as", NODE, "--disk-only", "--no-metadata", "--atomic"];
    // libvirt may refuse a snapshot while there are checkpoints; then nothing needs to be noticed.
    let words: Vec<&str> = overlay.into_iter().chain(["--diskspec", &file]).collect();
    let output = run(&mut scene.host.virsh(&words));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("checkpoint"), "{said}");
    scene.site.check_at_rest();
}

/// Checkpoints and backup jobs of others stay, and those of another archive, whose backup is waited for. `mode = "off"`
/// removes those of this one, and a revision is the disk at one moment all the same.
#[test]
fn only_checkpoints_of_the_archive_are_removed() {
    let Some(mut scene) = Scene::new("vda") else { return };
    let xml = scene.host.path("foreign.xml");
    let only_vda = "<domaincheckpoint><name>monday</name><disks><disk name='vda' checkpoint='bitmap'/></disks>\
                    </domaincheckpoint>";
    fs::write(&xml, only_vda).expect("write a checkpoint");
    scene.host.ask(&["checkpoint-create", NODE, text(&xml)]);
    let others = [archive(&scene.host, "vda", "other"), archive(&scene.host, "vdb", "second")];
    for round in 0..3 {
        scene.write("1M", "1000", round + 1);
        let running = others.iter().map(|other| {
            let mut backup = with(&[scene.host.setting()], &other.backy(&["backup", "--force"]));
            Running::start(&mut backup)
        });
        let running: Vec<_> = running.collect();
        let output = run(&mut scene.backy(&["backup", "--force", "--json"]));
        assert!(output.status.success(), "{}", words(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!(report["revision"]["hints"]["since"].is_string(), round > 0, "{report}");
        let state = scene.host.disk("vda");
        scene.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &state);
        running.into_iter().for_each(Running::finish);
        assert_eq!(scene.host.checkpoints().len(), 3);
    }
    scene.site.check_at_rest();
    scene.site.configure(|config| config.replace("[tracking]", "[tracking]\nmode = \"off\""));
    let (hints, _) = scene.backup();
    assert!(hints["reason"].as_str().expect("a reason").contains("off"), "{hints}");
    let left = scene.host.checkpoints();
    assert!(left.len() == 2 && left.contains(&"monday".to_owned()), "{left:?}");
}
