//! All disks of a domain in one run: they have one backup point.

use std::fs;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use super::{archive, write};
use crate::harness::libvirt::{Libvirt, NODE};
use crate::mounted::until;
use crate::site::{Site, backy, run, text, words};
use crate::stand_ins::{GRANDPARENT, PARENT, StandIns, real, with};

/// In the order in which the guest writes to them. libvirt makes no checkpoints of the second.
const DISKS: [&str; 3] = ["vda", "vdb", "vdc"];

/// What is read of a disk of which little has changed.
const LITTLE: u64 = 256 << 10;

/// Whether `virsh` is to begin a backup of several disks, for a shell.
const IS_SHARED: &str = r#"for word; do
    case $word in --backupxml=*) grep -q '<disk .*<disk ' "${word#*=}" && shared=1 ;; esac
done
[ "$shared" ] && mkdir "$0.once" 2>/dev/null"#;

/// A host, and an archive of each disk of its domain.
struct Scene {
    host: Libvirt,
    sites: [Site; 3],
}

impl Scene {
    fn new() -> Option<Self> {
        let host = Libvirt::start()?;
        let sites = DISKS.map(|disk| {
            let site = archive(&host, disk, &format!("archive-{disk}"));
            // Without a schedule, a backup is always due.
            let source = format!("source = \"libvirt:{NODE}/{disk}\"\n[tracking]\n");
            site.configure(|_| format!("{source}scratch = {:?}\n", host.path("scratch")));
            site
        });
        Some(Scene { host, sites })
    }

    /// `backy run` for all archives.
    fn run(&self, more: &[&str], settings: &[String]) -> Output {
        let folders = self.sites.iter().map(|site| text(&site.folder));
        let args: Vec<&str> =
            ["run"].into_iter().chain(more.iter().copied()).chain(folders).collect();
        let settings: Vec<String> = [&[self.host.setting()], settings].concat();
        run(&mut with(&settings, &backy(&self.host.path("none"), &args)))
    }

    /// A run that makes a revision of each disk, silently unless the processes may be killed; its jobs, in the order of
    /// the disks.
    fn works(&mut self, settings: &[String]) -> Vec<Value> {
        let output = self.run(&["--json"], settings);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", words(&output));
        });
        assert!(output.status.success(), "{report} {}", words(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "a run that works says nothing");
        let jobs = report["jobs"].as_array().expect("jobs");
        let of = |site: &Site| {
            let made = |job: &&Value| job["archive"] == text(&site.folder);
            jobs.iter().find(made).unwrap_or_else(|| panic!("{report}")).clone()
        };
        let jobs: Vec<Value> = self.sites.iter().map(of).collect();
        for (site, job) in self.sites.iter_mut().zip(&jobs) {
            let image = fs::read(site.folder.join("last.raw")).expect("read last.raw");
            site.push(job["revision"].as_str().expect("a UUID"), &image);
        }
        self.host.check_quiet();
        jobs
    }

    /// The same, of the disks as they are now.
    fn backup(&mut self, settings: &[String]) -> Vec<Value> {
        let jobs = self.works(settings);
        for (site, disk) in self.sites.iter().zip(DISKS) {
            assert!(site.expected[0].bytes == self.host.disk(disk), "{disk} is another");
        }
        assert_eq!(self.host.checkpoints().len(), 2);
        jobs
    }

    fn check_at_rest(&mut self) {
        self.sites.iter_mut().for_each(Site::check_at_rest);
    }
}

fn read_bytes(job: &Value) -> u64 {
    job["read_bytes"].as_u64().expect("a number")
}

/// A guest that writes to one disk after the other, all the time: the revisions of one run have all its writes up to
/// one moment, whichever disk they are of. The next run reads little more than what has changed.
#[test]
fn disks_of_a_domain_are_backed_up_as_at_one_moment() {
    const PLACES: u64 = 100;
    let Some(mut scene) = Scene::new() else { return };
    let pattern = |count: u64| (count % 255 + 1) as u8;
    for disk in DISKS {
        let output = scene.host.guest(disk, "write -z 0 16M");
        assert!(output.status.success(), "{}", words(&output));
    }
    let stop = AtomicBool::new(false);
    let images = thread::scope(|scope| {
        let (host, stop) = (&scene.host, &stop);
        scope.spawn(move || {
            for count in 0.. {
                let place = format!("{}k", count % PLACES * 128);
                for disk in DISKS {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    write(host, disk, &place, "512", pattern(count));
                }
            }
        });
        let mut images = Vec::new();
        let mut failed = None;
        for _ in 0..3 {
            let output = scene.run(&[], &[]);
            let read = |site: &Site| fs::read(site.folder.join("last.raw")).ok();
            images.push(scene.sites.iter().map(read).collect::<Vec<_>>());
            let is_silent = output.stderr.is_empty();
            failed = failed.or((!is_silent).then(|| words(&output)));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, None);
        images
    });
    for (round, images) in images.iter().enumerate() {
        let written: Vec<u64> = images
            .iter()
            .map(|image| {
                let image = image.as_ref().expect("an image");
                let found = |place: u64| image[(place * (128 << 10)) as usize];
                let explains = |writes: &u64| {
                    (0..PLACES).all(|place| {
                        let last = (0..*writes).rev().find(|count| count % PLACES == place);
                        found(place) == last.map_or(0, pattern)
                    })
                };
                (0..5000).find(explains).expect("some number of writes explains all of it")
            })
            .collect();
        let [first, .., last] = written[..] else { unreachable!("three disks") };
        let is_one_moment = written.is_sorted_by(|a, b| a >= b) && first - last <= 1;
        assert!(is_one_moment && first > 0, "round {round}: {written:?}");
    }
    for site in &mut scene.sites {
        let committed = site.committed();
        assert_eq!(committed.len(), 3);
        for (uuid, images) in committed.iter().rev().zip(&images) {
            let disk =
                DISKS.iter().position(|disk| site.folder.ends_with(format!("archive-{disk}")));
            site.push(uuid, images[disk.expect("a disk")].as_ref().expect("an image"));
        }
    }
    let jobs = scene.backup(&[]);
    let plan = scene.run(&["--dry-run", "--json"], &[]);
    let plan: Value = serde_json::from_slice(&plan.stdout).expect("a plan");
    assert_eq!(plan["jobs"][0]["machine"], format!("libvirt:{NODE}"));
    write(&scene.host, "vda", "3M", "1000", 9);
    write(&scene.host, "vdc", "4M", "1000", 9);
    let jobs = [jobs, scene.backup(&[])].concat();
    let [_, _, _, a, b, c] = &jobs[..] else { panic!("{jobs:?}") };
    assert!(read_bytes(a) <= LITTLE && read_bytes(c) <= LITTLE, "{a} {c}");
    assert!(read_bytes(b) > LITTLE, "{b}");
    scene.check_at_rest();
}

/// If the process that begins the point is killed before or after that, or the run with all its processes ends then,
/// each disk has its revision nevertheless, at the latest by the next run, and nothing is left.
#[test]
fn a_killed_process_leaves_the_other_disks_their_backups() {
    let Some(mut scene) = Scene::new() else { return };
    scene.backup(&[]);
    let virsh = real("virsh");
    let virsh = text(&virsh);
    let moments = [
        ("before", format!("kill -9 {PARENT}; exit 1")),
        ("after", format!("{virsh} \"$@\"; kill -9 {PARENT}; exit 1")),
        ("the run", format!("run={GRANDPARENT}; {virsh} \"$@\"; kill -9 $run; exit 1")),
    ];
    for (number, (moment, what)) in (1..).zip(moments) {
        write(&scene.host, "vda", "3M", "1000", number);
        write(&scene.host, "vdb", "3M", "1000", number);
        let script = format!("if {IS_SHARED}; then {what}; fi\nexec {virsh} \"$@\"");
        let stand_ins = StandIns::new().with("virsh", &script);
        let settings = [stand_ins.first()];
        if moment == "the run" {
            let output = scene.run(&[], &settings);
            assert_eq!(output.status.code(), None, "{moment}: {}", words(&output));
            let states = DISKS.map(|disk| scene.host.disk(disk));
            until("its processes have ended", || {
                let is_free = |site: &Site| {
                    let lock = site.folder.join("lock");
                    run(Command::new("flock").args(["-n", text(&lock), "true"])).status.success()
                };
                scene.sites.iter().all(is_free)
            });
            for (site, state) in scene.sites.iter_mut().zip(&states) {
                site.reconcile(&[], Some(state));
            }
        } else {
            let jobs = scene.backup(&settings);
            let attempts: u64 = jobs.iter().filter_map(|job| job["attempts"].as_u64()).sum();
            assert_eq!(attempts, 4, "{moment}: {jobs:?}");
        }
        let jobs = scene.backup(&[]);
        assert!(read_bytes(&jobs[0]) <= LITTLE && read_bytes(&jobs[2]) <= LITTLE, "{moment}");
    }
    scene.check_at_rest();
}

/// A disk that cannot take part does not keep the others from it; a domain that does not run needs no point; and where
/// libvirt refuses one for all, each disk has its own, and a warning says why.
#[test]
fn disks_without_a_point_for_all_are_backed_up_nevertheless() {
    let Some(mut scene) = Scene::new() else { return };
    let config = fs::read_to_string(scene.sites[1].folder.join("backy.toml")).expect("a config");
    scene.sites[1].configure(|config| config.replace("/scratch", "/nowhere"));
    let output = scene.run(&[], &[]);
    let said = words(&output);
    assert_eq!(
        (output.status.code(), said.matches("nowhere").count() > 0),
        (Some(1), true),
        "{said}"
    );
    let made = scene.sites.iter().map(|site| site.committed().len());
    assert_eq!(made.collect::<Vec<_>>(), [1, 0, 1], "{said}");
    scene.host.check_quiet();
    for at in [0, 2] {
        let uuid = scene.sites[at].committed().remove(0);
        let state = scene.host.disk(DISKS[at]);
        scene.sites[at].push(&uuid, &state);
    }
    scene.sites[1].configure(|_| config);
    let virsh = real("virsh");
    let virsh = text(&virsh);
    let script =
        format!("if {IS_SHARED}; then echo 'no such luck' >&2; exit 1; fi\nexec {virsh} \"$@\"");
    // The request without earlier checkpoints is refused as well.
    let script = script.replace(r#"&& mkdir "$0.once" 2>/dev/null"#, "");
    let stand_ins = StandIns::new().with("virsh", &script);
    let output = scene.run(&[], &[stand_ins.first()]);
    let said = words(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("are not backed up as at one moment") && said.contains("no such luck"),
        "{said}"
    );
    for (site, disk) in scene.sites.iter_mut().zip(DISKS) {
        let uuid = site.committed().remove(0);
        site.push(&uuid, &scene.host.disk(disk));
    }
    scene.host.check_quiet();
    assert_eq!(scene.host.checkpoints().len(), 2);
    write(&scene.host, "vda", "3M", "1000", 9);
    scene.host.stop();
    let jobs = scene.backup(&[]);
    assert!(read_bytes(&jobs[0]) <= LITTLE && read_bytes(&jobs[2]) <= LITTLE, "{jobs:?}");
    scene.check_at_rest();
}
