//! `backy run`: what is due in many archives, and what is done about it.

mod expected;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::harness::{Run, Scene, noise};

/// Settings of one archive, beside its source.
const DAILY: &str = "[schedule.daily]\ninterval = \"1d\"\nkeep = 3\n";

/// Archives in the folder `all`, each with a source of its own and these settings.
struct Fleet {
    scene: Scene,
    names: Vec<String>,
}

impl Fleet {
    fn new(count: usize, settings: &str) -> Self {
        let scene = Scene::new();
        fs::create_dir(scene.path("all")).unwrap();
        let names: Vec<String> = (0..count).map(|number| format!("vm{number}")).collect();
        for (name, seed) in names.iter().zip(1..) {
            let source = format!("{name}.img");
            scene.write(&source, &noise(seed, 300_000));
            scene.works(&["-b", &format!("all/{name}"), "init", &source]);
        }
        let fleet = Fleet { scene, names };
        for name in &fleet.names {
            fleet.set(name, settings);
        }
        fleet
    }

    /// Settings of one archive, instead of those that it had.
    fn set(&self, name: &str, settings: &str) {
        let source = self.scene.text_path(&format!("{name}.img"));
        let text = format!("source = \"{source}\"\n{settings}");
        self.scene.write(&format!("all/{name}/backy.toml"), text.as_bytes());
    }

    /// Writes `fleet.toml` for all archives, with more lines.
    fn toml(&self, more: &str) {
        let text = format!("archives = [\"{}/*\"]\n{more}", self.scene.text_path("all"));
        self.scene.write("fleet.toml", text.as_bytes());
    }

    fn run(&self, args: &[&str]) -> Run {
        self.scene.run(&[&["run"][..], args].concat())
    }

    fn revisions(&self, name: &str) -> usize {
        let folder = format!("all/{name}");
        let status = self.scene.works(&["-b", &folder, "status", "--json"]).json();
        status["revisions"].as_array().map_or(0, Vec::len)
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.scene.command(&[&["run"][..], args].concat()).spawn().expect("run backy")
    }
}

/// Waits until something is so.
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: Signal) {
    let process = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(process, signal).expect("send a signal");
}

fn jobs(report: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let jobs = report["jobs"].as_array().expect("jobs");
    let name = |job: &Value| text(&job["archive"]).rsplit('/').next().unwrap().to_owned();
    jobs.iter().map(|job| (name(job), text(&job["operation"]), text(&job["result"]))).collect()
}

/// A run makes what is due in every archive and prints nothing; the next one finds nothing to do.
#[test]
fn a_run_does_what_is_due_and_is_silent() {
    let fleet = Fleet::new(5, DAILY);
    let plan = fleet.run(&["-n", "--json", "all"]);
    assert_eq!((plan.status, plan.json()["jobs"].as_array().map(Vec::len)), (Some(0), Some(5)));
    assert_eq!(fleet.revisions("vm0"), 0, "a plan made a backup");
    let run = fleet.run(&["all"]);
    assert_eq!((run.status, run.text(), run.stderr.as_str()), (Some(0), "", ""));
    assert!(fleet.names.iter().all(|name| fleet.revisions(name) == 1));
    let again = fleet.run(&["--json", "all"]);
    assert_eq!(again.json()["jobs"], Value::Array(Vec::new()));
    assert_eq!((again.json()["archives"].as_u64(), again.stderr.as_str()), (Some(5), ""));
    let plan = fleet.run(&["-n", "all"]);
    assert!(
        plan.text().starts_with("nothing is due; nothing to do in 5 archives\nthe next backup")
    );
}

/// The plan names the jobs in the order in which they start, the most overdue first, each with the reason and the
/// command that does it; and fits 80 columns.
#[test]
fn a_plan_has_the_most_overdue_first() {
    let fleet = Fleet::new(3, DAILY);
    fleet.run(&["all"]);
    // Intervals that have passed since: many, some, none.
    for (name, interval) in [("vm0", "2s"), ("vm1", "1s"), ("vm2", "1d")] {
        fleet.set(name, &DAILY.replace("1d", interval));
    }
    std::thread::sleep(Duration::from_secs(4));
    let plan = fleet.run(&["-n", "--json", "--jobs", "1", "all"]).json();
    let names: Vec<String> = jobs(&plan).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["vm1", "vm0"]);
    let job = &plan["jobs"][0];
    assert_eq!(
        (job["why"].as_str(), job["overdue"].as_f64() > Some(1.0)),
        (Some("daily is due"), true)
    );
    assert_eq!(plan["idle"][0]["why"], "the next backup is daily");
    let command: Vec<&str> =
        job["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[..2], ["backy", "-b"]);
    fleet.scene.works(&command[1..]);
    assert_eq!(fleet.revisions("vm1"), 2);
    let table = fleet.run(&["-n", "all"]);
    // The path of the archive that is next may be of any length.
    let lines = table.text().lines().filter(|line| !line.starts_with("the next backup"));
    assert!(
        lines.clone().count() >= 3 && lines.clone().all(|line| line.len() <= 80),
        "{}",
        table.text()
    );
}

/// One archive that cannot be backed up keeps no other from it. It is tried three times, and named in one line.
#[test]
fn a_failure_stops_no_other_archive() {
    let fleet = Fleet::new(3, DAILY);
    let hook = "[hooks]\nbefore = \"echo x >> TRIES; exit 1\"\n";
    let hook = hook.replace("TRIES", &fleet.scene.text_path("tries"));
    fleet.set("vm1", &format!("{DAILY}{hook}"));
    let run = fleet.run(&["all"]);
    assert_eq!((run.status, run.stderr.lines().count()), (Some(1), 1), "{}", run.stderr);
    let line =
        format!("backy: error: {}: backup failed (3 attempts): ", fleet.scene.text_path("all/vm1"));
    assert!(run.stderr.starts_with(&line), "{}", run.stderr);
    assert_eq!(fleet.scene.read_text("tries").lines().count(), 3);
    assert_eq!(["vm0", "vm1", "vm2"].map(|name| fleet.revisions(name)), [1, 0, 1]);
}

/// What no second attempt can change is not tried again, and an archive that cannot be read is named.
#[test]
fn what_nobody_corrects_is_tried_once() {
    let fleet = Fleet::new(3, DAILY);
    fleet.set("vm1", "sauce = 1\n");
    fs::write(fleet.scene.path("all/vm2/manifest.json"), "{").unwrap();
    let run = fleet.run(&["--json", "all"]);
    assert_eq!(run.status, Some(1));
    assert_eq!(jobs(&run.json()), [("vm0".into(), "backup".into(), "ok".into())]);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(
        lines.len() == 2 && lines.iter().any(|line| line.contains("backy.toml:2:1")),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line.contains("vm2/manifest.json")), "{lines:?}");
}

/// An archive that somebody else works on is skipped, and that is no failure.
#[test]
fn a_locked_archive_is_skipped() {
    let fleet = Fleet::new(2, DAILY);
    let lock = fleet.scene.text_path("all/vm0/lock");
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o600)).unwrap();
    let mut holder =
        std::process::Command::new("flock").args([&lock, "sleep", "30"]).spawn().unwrap();
    wait_for("the lock", || {
        let held = std::process::Command::new("flock").args(["-n", &lock, "true"]).status();
        !held.unwrap().success()
    });
    let run = fleet.run(&["--json", "all"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    let mut jobs = jobs(&run.json());
    jobs.sort();
    let expected = [("vm0", "backup", "skipped"), ("vm1", "backup", "ok")];
    assert_eq!(jobs, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
}

/// A backup may make maintenance due, and a scrub is due by 'scrub_within': one run does all of it, in order.
#[test]
fn a_run_maintains_and_scrubs() {
    let settings =
        "[schedule.now]\ninterval = \"1s\"\nkeep = 2\n[monitoring]\nscrub_within = \"24s\"\n";
    let fleet = Fleet::new(1, settings);
    for _ in 0..2 {
        fleet.run(&["all"]);
        std::thread::sleep(Duration::from_secs(3));
    }
    let run = fleet.run(&["--json", "all"]);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    let done: Vec<(String, String)> =
        jobs(&run.json()).into_iter().map(|(_, operation, result)| (operation, result)).collect();
    let expected = ["backup", "maintenance", "scrub"];
    assert_eq!(done, expected.map(|name| (name.to_owned(), "ok".to_owned())));
    assert_eq!(fleet.revisions("vm0"), 2);
    let status = fleet.scene.works(&["-b", "all/vm0", "status", "--json"]).json();
    assert!(status["last_scrub"].is_string(), "{status}");
}

/// A scrub that finds damage is a failure that is not tried again; the line says what to do.
#[test]
fn damage_that_a_run_finds_is_reported() {
    let settings = format!("{DAILY}[monitoring]\nscrub_within = \"24s\"\n");
    let fleet = Fleet::new(1, &settings);
    fleet.run(&["all"]);
    let image = fleet.scene.path("all/vm0/last.raw");
    let mut content = fs::read(&image).unwrap();
    content.iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&image, content).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let run = fleet.run(&["--json", "all"]);
    assert_eq!(run.status, Some(1));
    assert_eq!(jobs(&run.json()), [("vm0".into(), "scrub".into(), "failed".into())]);
    assert_eq!(run.json()["jobs"][0]["attempts"], 1);
    assert!(run.stderr.contains("finding"), "{}", run.stderr);
}

/// Archives of one group never run together beyond its limit, and a group without a limit has one at a time.
#[test]
fn a_group_has_its_limit() {
    let fleet = Fleet::new(6, DAILY);
    let log = fleet.scene.text_path("log");
    for (name, group) in fleet.names.iter().zip(["a", "a", "a", "b", "b", "b"]) {
        let line = |mark: &str| format!("echo {group}{mark} >> {log}");
        let hooks =
            format!("[hooks]\nbefore = \"{}; sleep 0.3\"\nafter = \"{}\"\n", line("+"), line("-"));
        fleet.set(name, &format!("group = \"{group}\"\n{DAILY}{hooks}"));
    }
    fleet.toml("jobs = 6\n[groups]\na = 2\n");
    let run = fleet.run(&["--fleet", "fleet.toml"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    let (mut running, mut most) = ([0_i32; 2], [0; 2]);
    for line in fleet.scene.read_text("log").lines() {
        let group = usize::from(line.starts_with('b'));
        running[group] += if line.ends_with('+') { 1 } else { -1 };
        most[group] = most[group].max(running[group]);
    }
    assert_eq!(most, [2, 1]);
}

/// Two runs at once make one revision in each archive, and none fails.
#[test]
fn two_runs_do_each_job_once() {
    let fleet = Fleet::new(8, DAILY);
    let both = [fleet.spawn(&["all"]), fleet.spawn(&["all"])];
    for child in both {
        let run: Run = child.wait_with_output().unwrap().into();
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    }
    assert!(fleet.names.iter().all(|name| fleet.revisions(name) == 1));
}

/// Hooks that wait until a file is there, and what tells that they have begun.
fn waiting_hook(scene: &Scene) -> String {
    let path = |name: &str| scene.text_path(name);
    format!(
        "[hooks]\nbefore = \"echo begun >> {}; while [ ! -e {} ]; do sleep 0.05; done\"\n",
        path("begun"),
        path("go")
    )
}

/// SIGTERM and Ctrl-C end the jobs that run, in order, and start no other; the next run does all.
#[test]
fn a_run_stops_in_order() {
    for (sent, status) in [(Signal::TERM, 1), (Signal::INT, 130)] {
        let fleet = Fleet::new(3, DAILY);
        fleet.set("vm0", &format!("{DAILY}{}", waiting_hook(&fleet.scene)));
        let child = fleet.spawn(&["--json", "--jobs", "1", "all"]);
        wait_for("the hook", || fleet.scene.path("begun").exists());
        signal(&child, sent);
        let run: Run = child.wait_with_output().unwrap().into();
        assert_eq!(run.status, Some(status), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        let results: Vec<String> =
            jobs(&run.json()).into_iter().map(|(.., result)| result).collect();
        assert_eq!(results, ["interrupted"; 3]);
        assert!(fleet.names.iter().all(|name| fleet.revisions(name) == 0));
        fleet.scene.write("go", b"");
        assert_eq!(fleet.run(&["all"]).status, Some(0));
        assert!(fleet.names.iter().all(|name| fleet.revisions(name) == 1));
    }
}

/// When the run itself is killed, its jobs stop in order, and nobody holds a lock any more.
#[test]
fn jobs_do_not_outlive_their_run() {
    let fleet = Fleet::new(2, DAILY);
    for name in &fleet.names {
        fleet.set(name, &format!("{DAILY}{}", waiting_hook(&fleet.scene)));
    }
    let mut child = fleet.spawn(&["--jobs", "2", "all"]);
    wait_for("the hooks", || {
        fs::read_to_string(fleet.scene.path("begun")).is_ok_and(|text| text.lines().count() == 2)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let holder = |name: &String| {
        let folder = format!("all/{name}");
        fleet.scene.works(&["-b", &folder, "status", "--json"]).json()["lock_holder"].clone()
    };
    wait_for("the end of the jobs", || fleet.names.iter().all(|name| holder(name).is_null()));
    fleet.scene.write("go", b"");
    let run = fleet.run(&["all"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    assert!(fleet.names.iter().all(|name| fleet.revisions(name) == 1));
}

/// A job without progress is reported while it is stuck: by the run, once, and by a check.
#[test]
fn a_stuck_job_is_reported() {
    let fleet = Fleet::new(2, DAILY);
    fleet.set("vm1", &format!("{DAILY}{}", waiting_hook(&fleet.scene)));
    fleet.toml("stall = \"2s\"\n");
    let child = fleet.spawn(&["--fleet", "fleet.toml"]);
    let check = || fleet.scene.run(&["check", "--json", "--fleet", "fleet.toml"]).json();
    let stuck = |report: &Value| {
        let archives = report["archives"].as_array().unwrap();
        let problems = archives.iter().flat_map(|it| it["health"]["problems"].as_array().unwrap());
        problems.filter(|problem| problem["kind"] == "stuck").count()
    };
    wait_for("a verdict", || stuck(&check()) == 1);
    // The run looks several times a second.
    std::thread::sleep(Duration::from_secs(1));
    fleet.scene.write("go", b"");
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    let warning =
        format!("backy: warning: {}: backup: no progress for ", fleet.scene.text_path("all/vm1"));
    assert!(run.stderr.lines().count() == 1 && run.stderr.starts_with(&warning), "{}", run.stderr);
    assert_eq!(stuck(&check()), 0);
}

/// A run writes one file for Prometheus, with its own figures, which the document lists, and those of the archives.
/// It leaves a file of somebody else alone.
#[test]
fn a_run_writes_figures() {
    let fleet = Fleet::new(2, DAILY);
    fleet.set("vm1", "sauce = 1\n");
    let file = fleet.scene.text_path("run.prom");
    fleet.toml(&format!("textfile = \"{file}\"\n"));
    fleet.run(&["--fleet", "fleet.toml"]);
    let text = fleet.scene.read_text("run.prom");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
    };
    for (name, expected) in [
        ("backy_fleet_run_success", "0"),
        ("backy_fleet_problems", "1"),
        ("backy_fleet_jobs{result=\"ok\"}", "1"),
        ("backy_fleet_jobs{result=\"failed\"}", "0"),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    let vm1 = format!("backy_status{{archive=\"{}\"}}", fleet.scene.text_path("all/vm1"));
    assert_eq!(value(&vm1), "2");
    let document = include_str!("../../../doc/scripting.md");
    for name in backy_lib::fleet::fleet_metrics() {
        assert!(document.contains(&format!("\n| `{name}` |")), "{name}");
    }
    fleet.scene.write("run.prom", b"mine\n");
    let run = fleet.run(&["--fleet", "fleet.toml"]);
    assert!(
        run.stderr.contains("run.prom") && run.stderr.contains("did not write"),
        "{}",
        run.stderr
    );
    assert_eq!(fleet.scene.read("run.prom"), b"mine\n");
}
