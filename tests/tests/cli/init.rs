//! `backy init`

use std::os::unix::fs::{PermissionsExt, symlink};

use super::harness::Scene;

/// A new archive has its config, README and manifest, for its owner only, and the output says what to do next.
#[test]
fn init_creates_an_archive_and_prints_it() {
    let scene = Scene::new();
    let run = scene.works(&["-b", "deep/er/a", "init", "source.img"]);
    assert_eq!(run.stderr, "");
    for word in
        ["daily every day", "weekly every 7 days", "monthly every 30 days", "backup", "cron"]
    {
        assert!(run.text().contains(word), "{word}: {}", run.text());
    }
    assert!(run.text().contains(&scene.text_path("source.img")), "{}", run.text());
    let folder = scene.path("deep/er/a");
    for name in ["backy.toml", "README", "manifest.json"] {
        let mode = folder.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

/// The config has the absolute path of the source, and keeps a symbolic link as that link.
#[test]
fn the_source_is_absolute_and_a_link_stays_a_link() {
    let scene = Scene::new();
    symlink("source.img", scene.path("link")).unwrap();
    scene.works(&["-b", "a", "init", "link"]);
    let config = scene.read_text("a/backy.toml");
    assert!(config.contains(&format!("source = \"{}\"", scene.text_path("link"))), "{config}");
    scene.works(&["-b", "a", "backup"]);
    assert_eq!(scene.read("a/last.raw"), scene.read("source.img"));
}

/// Without -b, the archive is the current folder.
#[test]
fn the_current_folder_is_the_default() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("here")).unwrap();
    let mut command = scene.command(&["init", "../source.img"]);
    assert!(command.current_dir(scene.path("here")).status().unwrap().success());
    assert!(scene.path("here/manifest.json").exists());
}

/// Without a source, the archive says where to configure it.
#[test]
fn init_without_a_source_prints_where_to_set_it() {
    let scene = Scene::new();
    let run = scene.works(&["-b", "a", "init"]);
    assert!(run.text().contains("a/backy.toml"), "{}", run.text());
    scene.refuses(&["-b", "a", "backup"], &["a/backy.toml", "no source", "source = "]);
}

/// A missing source is accepted with a warning, also behind a link. Backups fail until it exists.
#[test]
fn init_warns_about_a_missing_source() {
    let scene = Scene::new();
    let run = scene.works(&["-b", "a", "init", "later.img"]);
    assert!(run.stderr.contains("later.img: does not exist yet; backups fail"), "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    let config = scene.read_text("a/backy.toml");
    let source = format!("source = \"{}\"", scene.text_path("later.img"));
    assert!(config.contains(&source), "{config}");
    scene.refuses(&["-b", "a", "backup"], &["later.img", "No such file"]);
    scene.write("later.img", b"now it is");
    scene.works(&["-b", "a", "backup"]);
    symlink("nowhere", scene.path("dangling")).unwrap();
    let run = scene.works(&["-b", "b", "init", "dangling"]);
    assert!(run.stderr.contains("does not exist yet"), "{run:?}");
    // One that would be in the archive is never accepted.
    std::fs::create_dir(scene.path("c")).unwrap();
    scene.refuses(&["-b", "c", "init", "c/later.img"], &["inside the archive", "-b"]);
}

/// In a line for cron a '%' would end the command.
#[test]
fn a_percent_sign_is_escaped_in_lines_for_cron() {
    let scene = Scene::new();
    let run = scene.works(&["-b", "100%", "init", "source.img"]);
    let lines: Vec<&str> = run.text().lines().filter(|line| line.contains("* * *")).collect();
    assert!(!lines.is_empty());
    for line in lines {
        assert!(line.contains(r"100\%"), "{line}");
    }
    assert!(run.text().contains("100% -v backup"), "{}", run.text());
}

/// The block size is the one asked for.
#[test]
fn the_block_size_is_chosen() {
    let scene = Scene::new();
    scene.works(&["-b", "a", "init", "--block-size", "4K", "source.img"]);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["block_size"], 4096);
    scene.refuses(&["-b", "b", "init", "--block-size", "5K"], &["5K", "power of two", "--help"]);
}

/// With -q it prints nothing.
#[test]
fn quiet_prints_nothing() {
    let scene = Scene::new();
    let run = scene.works(&["-q", "-b", "a", "init", "source.img"]);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
}
