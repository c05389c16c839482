//! `backy report`: the page and its file. How a browser shows it is in `browser`.

use std::process::Command;

use super::harness::{Scene, program};

/// The page is written as a whole, silently, and has every archive, also a folder that is none.
#[test]
fn report_writes_a_page() {
    let (scene, _) = Scene::with_revisions(2);
    scene.write("page.html", b"old");
    let run = scene.works(&["report", "a", "nowhere", "-o", "page.html"]);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
    let page = scene.read_text("page.html");
    for text in
        ["<!DOCTYPE html>", "Backups on ", "All 2 revisions", "no archive here", "source.img"]
    {
        assert!(page.contains(text), "{text}: {page}");
    }
    let left: Vec<_> = std::fs::read_dir(scene.path(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    // Without a folder it is the archive of -b; '-' is standard output.
    let run = scene.works(&["-b", "a", "report", "-o", "-"]);
    assert!(run.text().starts_with("<!DOCTYPE html>") && !run.text().contains("nowhere"));
    let run = scene.works(&["-v", "-b", "a", "report", "-o", "page.html"]);
    assert!(run.stderr.contains("page.html: 1 archive: "), "{}", run.stderr);
    scene.fails(
        &["report", "a", "-o", "nowhere/page.html"],
        &["nowhere/page.html", "write the page"],
    );
    scene.fails(&["report", "a"], &["--output"]);
    // No file of an archive is replaced, nor anything that is not a file.
    scene.refuses(&["report", "a", "-o", "a/last.raw"], &["a/last.raw", "is an archive"]);
    scene.refuses(&["report", "a", "-o", "a"], &["not a regular file"]);
    scene.refuses(&["report", "a", "-o", "/dev/null"], &["/dev/null", "not a regular file"]);
}

/// The commands on the page do what the advice says when a shell runs them, whatever the path of the archive is.
#[test]
fn commands_of_the_page_can_be_copied_into_a_shell() {
    let scene = Scene::new();
    let archive = "it's <b>a</b> \"path\" & $HOME\n\u{202e}2026 ünïcode 備份";
    scene.works(&["-b", archive, "init", "source.img"]);
    scene.works(&["report", archive, "-o", "page.html"]);
    let page = scene.read_text("page.html");
    let commands: Vec<String> = page
        .split("<pre class=\"command\"><code>")
        .skip(1)
        .map(|rest| unescaped(rest.split("</code>").next().expect("its end")))
        .collect();
    let [command] = &commands[..] else { panic!("{commands:?}") };
    assert!(command.starts_with("backy -b ") && command.ends_with(" backup"), "{command}");
    let bin = scene.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(program(), bin.join("backy")).unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", command]).current_dir("/").env_clear();
    shell.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    let run = shell.output().expect("run bash");
    assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
    let status = scene.works(&["-b", archive, "status", "--json"]).json();
    assert_eq!(status["revision_count"], 1);
}

fn unescaped(markup: &str) -> String {
    let signs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    signs.iter().fold(markup.to_owned(), |text, (escaped, sign)| text.replace(escaped, sign))
}
