//! `backy report`: the page, and what a browser makes of it.

use std::process::Command;

use backy_tests::qemu::skipped;
use serde_json::Value;

use super::harness::Scene;

/// The page is written as a whole, silently, and has every archive, also one that is none.
#[test]
fn a_page_is_written() {
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
    // Nothing of an archive is replaced, nor anything that is no file.
    scene.refuses(&["report", "a", "-o", "a/last.raw"], &["a/last.raw", "is an archive"]);
    scene.refuses(&["report", "a", "-o", "a"], &["no regular file"]);
    scene.refuses(&["report", "a", "-o", "/dev/null"], &["/dev/null", "no regular file"]);
}

/// A page with a frame of each width, and a script that says what is in it.
const HARNESS: &str = r#"<!DOCTYPE html><meta charset="utf-8">
<iframe id="phone" src="page.html" style="width:360px;height:800px;border:0"></iframe>
<iframe id="desk" src="page.html" style="width:1200px;height:800px;border:0"></iframe>
<pre id="seen"></pre>
<script>
onload = () => {
  const look = frame => {
    const page = frame.contentDocument, view = frame.contentWindow;
    const wide = [...page.querySelectorAll("main *")].filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > frame.clientWidth + 1);
    const small = [...page.querySelectorAll("p, td, th, dd, dt, span, a, h1, h2, h3")].filter(e => parseFloat(view.getComputedStyle(e).fontSize) < 12.5);
    return {
      width: page.documentElement.scrollWidth, wide: wide.map(e => e.outerHTML.slice(0, 100)), small: small.length,
      fetched: view.performance.getEntriesByType("resource").length,
      marks: page.querySelectorAll("line.mark").length, bars: page.querySelectorAll("rect.bar").length,
      markHeight: page.querySelector("line.mark").getBoundingClientRect().height,
      unnamed: page.querySelectorAll("svg:not([aria-label])").length,
      heading: page.querySelector("h1").textContent, styled: view.getComputedStyle(page.querySelector(".card")).borderTopStyle,
    };
  };
  document.getElementById("seen").textContent = JSON.stringify({ phone: look(phone), desk: look(desk) });
};
</script>"#;

/// A browser draws the charts, fits the page into the width of a phone, fetches nothing and has nothing to complain of.
#[test]
fn a_browser_shows_it() {
    let (scene, _) = Scene::with_revisions(3);
    scene.works(&[
        "-b",
        "a",
        "tag",
        "0",
        "+a-tag-with-a-very-long-name-that-does-not-fit-into-a-phone",
    ]);
    let long = "an-archive-with-a-name-".repeat(8);
    scene.works(&["-b", &long, "init", "source.img"]);
    scene.works(&["report", "a", &long, "nowhere", "-o", "page.html"]);
    scene.write("harness.html", HARNESS.as_bytes());
    let Some(seen) = browse(&scene) else { return };
    for (frame, width) in [("phone", 360), ("desk", 1200)] {
        let seen = &seen[frame];
        assert_eq!(seen["width"], width, "{seen}");
        assert_eq!(seen["wide"], Value::Array(Vec::new()), "{frame}");
        assert_eq!(
            (&seen["fetched"], &seen["small"], &seen["unnamed"]),
            (&0.into(), &0.into(), &0.into()),
            "{seen}"
        );
        assert_eq!(seen["styled"], "solid", "the style was not taken: {seen}");
        assert!(seen["marks"].as_u64() >= Some(3) && seen["bars"] == 3, "{seen}");
        assert!(seen["markHeight"].as_f64() > Some(4.0), "{seen}");
        assert!(seen["heading"].as_str().is_some_and(|text| text.starts_with("Backups on ")));
    }
}

/// What the script in the harness has seen; `None` without a browser.
fn browse(scene: &Scene) -> Option<Value> {
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    // The harness looks into the page, which is another file.
    command.args([
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--hide-scrollbars",
    ]);
    command.arg(format!("--user-data-dir={}", scene.text_path("profile")));
    command.args(["--virtual-time-budget=10000", "--dump-dom"]);
    command.arg(format!("file://{}", scene.text_path("harness.html")));
    command.env("HOME", scene.path("")).current_dir(scene.path(""));
    let Ok(output) = command.output() else {
        skipped("chromium is not installed");
        return None;
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> =
        complaints.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let dom = String::from_utf8_lossy(&output.stdout);
    let (_, seen) = dom.split_once("<pre id=\"seen\">").expect("the harness");
    let (seen, _) = seen.split_once("</pre>").expect("its end");
    Some(
        serde_json::from_str(&seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
            .expect("JSON"),
    )
}
