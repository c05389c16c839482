//! Settings that several archives share: what `include` brings, what becomes of an archive whose include cannot be
//! used, and which includes backy does not take.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;
use std::process::Command;

use backy_tests::command::unmounts;

use super::harness::{Scene, is_root, program, tool};
use super::trust::{can_give, give_away, is_not_trusted, set_mode};

/// A schedule and a hook for several archives.
const STANDARD: &str = "compression_level = 3\n[schedule.daily]\ninterval = \"1d\"\nkeep = 9\n\
                        [schedule.weekly]\ninterval = \"7d\"\nkeep = 5\n";

/// Writes a config that includes a file, and has more lines.
fn include(scene: &Scene, file: &str, more: &str) {
    let source = scene.text_path("source.img");
    let text = format!("include = {file:?}\nsource = {source:?}\n{more}");
    scene.write("a/backy.toml", text.as_bytes());
}

/// An archive with revisions whose config includes `standard.toml`.
fn sharing(revisions: u64) -> (Scene, Vec<Vec<u8>>) {
    let (scene, states) = Scene::with_revisions(revisions);
    scene.write("standard.toml", STANDARD.as_bytes());
    include(&scene, "../standard.toml", "");
    (scene, states)
}

/// The tags that the next backup would get.
fn due(scene: &Scene) -> Vec<String> {
    let plan = scene.works(&["-b", "a", "backup", "--dry-run", "--json"]).json();
    let tags = plan["tags"].as_array().expect("a list");
    tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// A schedule in an included file applies, a changed one at once, and the archive's own file overrides it.
#[test]
fn a_shared_schedule_applies() {
    let (scene, _) = sharing(0);
    assert_eq!(due(&scene), ["daily", "weekly"]);
    include(&scene, "../standard.toml", "without = [\"schedule.weekly\"]\n");
    assert_eq!(due(&scene), ["daily"]);
    scene.write("standard.toml", b"[schedule.hourly]\ninterval = \"1h\"\nkeep = 24\n");
    assert_eq!(due(&scene), ["hourly"]);
    scene.works(&["-b", "a", "backup"]);
    assert_eq!(scene.works(&["-b", "a", "status"]).stderr, "");
}

/// Without its include an archive can be read, verified, restored and tagged. What would need the settings fails and
/// names the place; `status` and `check` are critical. A backup works again once the file is back.
#[test]
fn an_archive_whose_include_is_missing_can_be_read() {
    let (scene, states) = sharing(2);
    fs::remove_file(scene.path("standard.toml")).unwrap();
    let place = format!("{}:1:11: include: ", scene.text_path("a/backy.toml"));
    let words = [place.as_str(), "a/../standard.toml: cannot open: No such file or directory"];
    for args in [
        &["backup"][..],
        &["backup", "--force"],
        &["backup", "--dry-run"],
        &["maintenance"],
        &["maintenance", "-n"],
        &["restore"],
    ] {
        scene.refuses(&[&["-b", "a"][..], args].concat(), &words);
    }
    for args in [
        &["find"][..],
        &["tag", "0", "+kept"],
        &["drill"],
        &["scrub"],
        &["rm", "--force", "-n", "1"],
        &["export", "out.qcow2"],
        &["restore", "disk.img"],
        &["report", "-o", "page.html", "a"],
    ] {
        scene.works(&[&["-b", "a"][..], args].concat());
    }
    assert!(scene.read("disk.img") == states[0]);
    scene.holds(&states);
    if is_root() && Path::new("/dev/fuse").exists() {
        fs::create_dir(scene.path("mounted")).unwrap();
        scene.works(&["-b", "a", "mount", "mounted"]);
        let mounted = fs::read(scene.path("mounted/by-number/0")).map(|read| read == states[0]);
        unmounts(Command::new("umount").arg(scene.path("mounted")));
        assert!(mounted.unwrap());
    }
    let status = scene.run(&["-b", "a", "status", "--check"]);
    assert_eq!(status.status, Some(2), "{status:?}");
    assert!(status.text().contains(&place), "{status:?}");
    assert_eq!(scene.run(&["check", "a"]).status, Some(2));
    scene.write("standard.toml", STANDARD.as_bytes());
    scene.works(&["-b", "a", "backup", "--force"]);
}

/// A file that cannot be included is an error that names it and the place that includes it. Nothing waits, not even
/// for a FIFO, and no device is opened.
#[test]
fn what_cannot_be_included_is_named() {
    let (scene, _) = sharing(1);
    let path = |name: &str| scene.text_path(name);
    fs::create_dir(path("folder")).unwrap();
    tool("mkfifo", &[&path("fifo")]).expect("mkfifo");
    scene.write("latin", b"# t\xe4glich\n");
    scene.write("wrong", b"\nmax_chain = 0\n");
    scene.write("loop", b"include = \"again\"\n");
    scene.write("again", b"\n\ninclude = \"./loop\"\n");
    scene.write("self", b"include = \"a/backy.toml\"\n");
    fs::File::create(path("large")).unwrap().set_len((1 << 20) - 10).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    for number in 0..10 {
        scene.write(
            &format!("deep{number}"),
            format!("include = \"deep{}\"", number + 1).as_bytes(),
        );
    }
    scene.write("deep10", b"");
    let many: Vec<String> = vec!["\"deep10\"".to_owned(); 40];
    scene.write("many", format!("include = [{}]", many.join(", ")).as_bytes());
    let own = format!("{}:1:11", path("a/backy.toml"));
    let included = format!("; included by {own}");
    for (name, words) in [
        ("missing", vec![own.as_str(), "missing: cannot open: No such file"]),
        ("dangling", vec![&own, "dangling: cannot open: No such file"]),
        ("folder", vec![&own, "found a folder, expected a regular file"]),
        ("fifo", vec![&own, "found a FIFO, expected a regular file"]),
        (
            "large",
            vec![&own, "has 1048566 bytes, expected at most 1048576 with all that is included"],
        ),
        ("source.img/x", vec![&own, "Not a directory"]),
        ("latin", vec!["latin:1:4: found the byte 0xe4", &included]),
        ("wrong", vec!["wrong:2:13: max_chain: found 0", &included]),
        ("loop", vec!["again:3:11: include: ", "./loop includes itself", "loop:1:11, by "]),
        ("self", vec!["backy.toml:1:11: include: ", "../self includes itself"]),
        ("deep0", vec!["deep7:1:11: include: found more than 8 files within each other"]),
        ("many", vec!["many:1:", "include: found more than 32 files", &included]),
    ] {
        include(&scene, &format!("../{name}"), "");
        scene.refuses(&["-b", "a", "backup", "--force"], &words);
        let shown = scene.run(&["-b", "a", "config"]);
        assert_eq!(shown.status, Some(1), "{shown:?}");
        assert!(words.iter().all(|word| shown.stderr.contains(word)), "{words:?}: {shown:?}");
    }
    include(&scene, "/dev/zero", "");
    scene.refuses(
        &["-b", "a", "--trust", "backup", "--force"],
        &[&own, "/dev/zero", "found a device"],
    );
    let shown = scene.run(&["-b", "a", "config"]);
    assert!(shown.status == Some(1) && shown.stderr.contains("found a device"), "{shown:?}");
}

/// Whoever can change an included file, or put another one in its place, decides what happens like one who can change
/// `backy.toml`: no command acts on the archive, `status` reports it, and reading works.
#[test]
fn an_include_that_others_can_change_is_not_acted_on() {
    let (scene, _) = sharing(2);
    fs::create_dir(scene.path("shared")).unwrap();
    let file = scene.path("shared/standard.toml");
    fs::rename(scene.path("standard.toml"), &file).unwrap();
    include(&scene, "../shared/standard.toml", "");
    let folder = scene.path("shared");
    let exposed = |is_exposed: bool| {
        let status = scene.works(&["-b", "a", "status", "--json"]).json();
        let problems = status["health"]["problems"].as_array().unwrap().clone();
        let found = problems.iter().any(|problem| problem["kind"] == "exposed");
        assert_eq!(found, is_exposed, "{problems:?}");
    };
    let refused = |path: &Path, why: &str| {
        exposed(true);
        let place = format!("included by {}:1:11", scene.text_path("a/backy.toml"));
        is_not_trusted(&scene, &[path.to_str().unwrap(), why, &place]);
        scene.works(&["-b", "a", "--trust", "backup", "--force"]);
        scene.works(&["-b", "a", "--trust", "rm", "--force", "0"]);
    };
    for (path, mode, good) in [(&file, 0o606, 0o644), (&folder, 0o777, 0o755)] {
        set_mode(path, mode);
        refused(path, "every user may write to it");
        set_mode(path, good);
        exposed(false);
        scene.works(&["-b", "a", "backup", "--force"]);
        scene.works(&["-b", "a", "rm", "--force", "0"]);
    }
    if !can_give() {
        return;
    }
    for path in [&file, &folder] {
        give_away(path);
        refused(path, "it belongs to user 4711");
        lchown(path, Some(0), Some(0)).unwrap();
    }
    lchown(&file, Some(0), Some(4711)).unwrap();
    set_mode(&file, 0o664);
    refused(&file, "group 4711 may write to it");
    set_mode(&file, 0o644);
    symlink("shared/standard.toml", scene.path("link.toml")).unwrap();
    include(&scene, "../link.toml", "");
    exposed(false);
    give_away(&scene.path("link.toml"));
    refused(&scene.path("link.toml"), "it belongs to user 4711");
}

/// Root reads for the config of another user only files that this user could read: messages show words of a file.
#[test]
fn a_config_of_another_user_includes_only_what_that_user_may_read() {
    if !can_give() {
        return;
    }
    let (scene, _) = sharing(1);
    scene.write("secret.toml", b"of_root = \"hidden\"\n");
    set_mode(&scene.path("secret.toml"), 0o600);
    let above = scene.path("a").parent().unwrap().to_owned();
    set_mode(&above, 0o755);
    include(&scene, "../secret.toml", "");
    let shown = || {
        let runs = [&["config"][..], &["status"], &["config", "--json"]];
        let runs = runs.map(|args| scene.run(&[&["-b", "a"][..], args].concat()));
        runs.map(|run| format!("{} {}", String::from_utf8_lossy(&run.stdout), run.stderr)).concat()
    };
    assert!(shown().contains("of_root"), "{}", shown());
    for path in [scene.path("a"), scene.path("a/backy.toml")] {
        give_away(&path);
        let found = shown();
        assert!(!found.contains("of_root") && found.contains("not all users may read"), "{found}");
        lchown(&path, Some(0), Some(0)).unwrap();
    }
    give_away(&scene.path("a/backy.toml"));
    // The user's own, and what all may read.
    give_away(&scene.path("secret.toml"));
    assert!(shown().contains("of_root"), "{}", shown());
    lchown(scene.path("secret.toml"), Some(0), Some(0)).unwrap();
    set_mode(&scene.path("secret.toml"), 0o644);
    assert!(shown().contains("of_root"), "{}", shown());
    set_mode(&above, 0o700);
    assert!(!shown().contains("of_root"), "{}", shown());
}

/// A user's archive may include settings of root, which all may read. A file that the user may not read is named.
#[test]
fn a_user_includes_settings_of_root() {
    if !can_give() || tool("setpriv", &["--version"]).is_none() {
        return;
    }
    let (scene, _) = sharing(0);
    let command = scene.path("backy");
    fs::copy(program(), &command).unwrap();
    let above = command.parent().unwrap();
    set_mode(above, 0o755);
    set_mode(&scene.path("source.img"), 0o644);
    set_mode(&scene.path("standard.toml"), 0o644);
    for entry in fs::read_dir(above.join("a")).unwrap().flatten() {
        give_away(&entry.path());
    }
    give_away(&above.join("a"));
    let archive = above.join("a");
    let run = |args: &[&str]| {
        let starter = ["--reuid=4711", "--regid=4711", "--clear-groups", command.to_str().unwrap()];
        tool("setpriv", &[&starter[..], &["-b", archive.to_str().unwrap()], args].concat()).unwrap()
    };
    let backup = run(&["backup", "--force"]);
    assert_eq!((backup.status, backup.stderr.as_str()), (Some(0), ""));
    let config = scene.works(&["-b", "a", "config"]);
    assert!(config.text().contains("compression_level = 3"), "{config:?}");
    set_mode(&scene.path("standard.toml"), 0o600);
    for args in [&["backup", "--force"][..], &["config"]] {
        let run = run(args);
        assert_eq!(run.status, Some(1), "{args:?}");
        assert!(run.stderr.contains("standard.toml: cannot open: Permission denied"), "{run:?}");
    }
    assert_eq!(run(&["restore", "-"]).status, Some(0));
}

/// `config` prints the settings with the place of each in at most 80 columns, and the same as JSON.
#[test]
fn config_prints_each_setting_with_its_place() {
    let (scene, _) = sharing(0);
    let more = "group = \"vg0\"\n[schedule.daily]\nkeep = 30\n[hooks]\nbefore = [\"/bin/env\", \"P=secret\"]\n\
                after = \"curl -u x:secret\"\n[monitoring]\nmax_age = \"2d\"\n";
    include(&scene, "../standard.toml", more);
    let run = scene.works(&["-b", "a", "config"]);
    let standard = format!("{}/../standard.toml", scene.text_path("a"));
    let text = run.text();
    for (line, origin) in [
        ("group = \"vg0\"", "backy.toml:3"),
        ("compression_level = 3", &format!("{standard}:1")),
        ("file_mode = \"0600\"", "default"),
        ("interval = \"1d\"", &format!("{standard}:3")),
        ("keep = 30", "backy.toml:5"),
        ("before = [\"/bin/env\", …]", "backy.toml:7"),
        ("after = …", "backy.toml:8"),
        ("freeze = true", "default"),
    ] {
        let mut rest = text.lines().skip_while(|shown| !shown.starts_with(line));
        let found =
            format!("{} {}", rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
        assert!(found.contains(&format!("# {origin}")), "{line}: {found}: {text}");
    }
    assert!(!text.contains("secret") && !text.contains("max_chain"), "{text}");
    let is_path = |line: &str| line.trim_start().starts_with("# ");
    assert!(text.lines().all(|line| line.chars().count() <= 80 || is_path(line)), "{text}");
    let report = scene.works(&["-b", "a", "config", "--json"]).json();
    let setting = |key: &str| {
        let settings = report["settings"].as_array().unwrap();
        settings.iter().find(|it| it["key"] == key).unwrap_or(&serde_json::Value::Null).clone()
    };
    assert_eq!(setting("schedule.weekly.keep")["value"], 5);
    assert_eq!(setting("schedule.weekly.keep")["origin"]["file"], standard.as_str());
    assert_eq!(setting("schedule.weekly.keep")["origin"]["line"], 7);
    assert_eq!(setting("monitoring.freeze")["origin"], "default");
    assert_eq!(setting("hooks.before")["is_shortened"], true);
    assert_eq!(report["files"][1]["included_by"]["line"], 1);
    assert_eq!(report["errors"], serde_json::json!([]));
}

/// While the settings cannot be used, `config` prints what can be read, without defaults, which may not apply, and
/// every problem; the exit status is 1.
#[test]
fn config_shows_what_can_be_read_of_broken_settings() {
    let (scene, _) = sharing(0);
    let own = scene.read_text("a/backy.toml");
    let more =
        own.replace("\"../standard.toml\"", "[\"../gone\", \"../standard.toml\", \"../lost\"]");
    scene.write("a/backy.toml", more.as_bytes());
    let run = scene.run(&["-b", "a", "config"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.text().contains("compression_level = 3"), "{run:?}");
    assert!(!run.text().contains("default"), "{run:?}");
    assert!(run.stderr.contains("gone: ") && run.stderr.contains("lost: "), "{run:?}");
    let run = scene.run(&["-b", "a", "config", "--json"]);
    assert_eq!((run.status, run.json()["errors"].as_array().map(Vec::len)), (Some(1), Some(2)));
    for (text, word) in [("max_chain = 0\n", "max_chain: found 0"), ("max_chain = \n", "toml:1:13")]
    {
        scene.write("a/backy.toml", text.as_bytes());
        let run = scene.run(&["-b", "a", "config"]);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.contains(word), "{run:?}");
    }
    fs::remove_file(scene.path("a/backy.toml")).unwrap();
    let run = scene.run(&["-b", "a", "config"]);
    assert!(run.status == Some(1) && run.stderr.contains("backy.toml: cannot open"), "{run:?}");
}

/// `init --include` makes an archive whose settings are those of the file. A file that cannot be included is an error
/// before anything is made.
#[test]
fn init_makes_an_archive_that_includes_a_file() {
    let scene = Scene::new();
    let args = ["-b", "a", "init", "source.img", "--include", "standard.toml"];
    scene.refuses(&args, &["standard.toml: cannot open: No such file"]);
    scene.write("standard.toml", b"max_chain = 0\n");
    scene.refuses(&args, &["standard.toml:1:13: max_chain: found 0"]);
    scene.write("standard.toml", STANDARD.as_bytes());
    set_mode(&scene.path("standard.toml"), 0o666);
    scene.refuses(&args, &["not trusted: ", "standard.toml", "every user may write to it"]);
    set_mode(&scene.path("standard.toml"), 0o644);
    let run = scene.works(&args);
    assert!(run.text().contains("daily every day (keep 9)"), "{run:?}");
    assert!(run.text().contains(&format!("see {}", scene.text_path("standard.toml"))), "{run:?}");
    let config = scene.read_text("a/backy.toml");
    let line = format!("\ninclude = {:?}\n", scene.text_path("standard.toml"));
    assert!(config.contains(&line) && !config.contains("[schedule"), "{config}");
    assert_eq!(due(&scene), ["daily", "weekly"]);
    scene.works(&["-b", "a", "backup"]);
    // A config from before the archive must include it.
    fs::create_dir(scene.path("b")).unwrap();
    scene.write("b/backy.toml", b"");
    let args = ["-b", "b", "init", "--include", "standard.toml"];
    scene.refuses(&args, &["b/backy.toml exists and does not include ", "standard.toml"]);
    scene.write("b/backy.toml", line.as_bytes());
    scene.works(&args);
}

/// An archive that was moved or copied needs its include where the path leads from the new place, or an absolute path.
#[test]
fn a_moved_archive_takes_relative_includes_from_its_new_place() {
    let (scene, states) = sharing(1);
    fs::create_dir(scene.path("below")).unwrap();
    let mut copy = Command::new("cp");
    copy.args(["-a"]).arg(scene.path("a")).arg(scene.path("below/a"));
    assert!(copy.status().unwrap().success());
    let words = ["below/a/backy.toml:1:11", "below/a/../standard.toml: cannot open"];
    scene.refuses(&["-b", "below/a", "backup", "--force"], &words);
    assert!(scene.works(&["-b", "below/a", "restore", "-"]).stdout == states[0]);
    include(&scene, &scene.text_path("standard.toml"), "");
    fs::copy(scene.path("a/backy.toml"), scene.path("below/a/backy.toml")).unwrap();
    scene.works(&["-b", "below/a", "backup", "--force"]);
}
