//! The page of `backy report` in a browser: nothing is cut off, on a desk or a phone, in a light scheme or a dark
//! one, and on paper.

use std::process::{Command, Output};

use backy_tests::qemu::skipped;
use serde_json::Value;

use super::harness::{Scene, tool};

/// Widths of the window, of a phone and of a desk, in CSS pixels.
const WIDTHS: [u32; 2] = [390, 1400];
/// What the browser prefers. Source: Chromium, `third_party/blink/public/mojom/css/preferred_color_scheme.mojom`.
const SCHEMES: [(&str, &str); 2] =
    [("dark", "preferredColorScheme=0"), ("light", "preferredColorScheme=1")];
/// Columns at the right edge of a picture that have to be empty.
const MARGIN: u32 = 6;

/// A host with archives of all kinds: healthy, without a backup, damaged, unreadable, with long and with strange names.
fn host() -> Scene {
    let (scene, _) = Scene::with_revisions(3);
    scene.works(&[
        "-b",
        "a",
        "tag",
        "0",
        "+a-tag-with-a-very-long-name-that-does-not-fit-into-a-phone",
    ]);
    let long = format!("{}/{}", "an-archive-in-a-folder-".repeat(5), "with-a-name-".repeat(14));
    let strange = "ünïcode 備份 it's <b>bold</b> & \"quoted\"\u{202e}";
    for (archive, revisions) in
        [(&long[..], 1), (strange, 1), ("damaged", 2), ("unreadable", 1), ("new", 0)]
    {
        scene.works(&["-b", archive, "init", "source.img"]);
        for number in 0..revisions {
            scene.change_source(10 + number);
            scene.works(&["-b", archive, "backup", "--force"]);
        }
    }
    let mut image = scene.read("damaged/last.raw");
    image[5000..5003].copy_from_slice(b"rot");
    image[900_000..900_003].copy_from_slice(b"rot");
    scene.write("damaged/last.raw", &image);
    scene.run(&["-b", "damaged", "scrub"]);
    scene.write("unreadable/manifest.json", b"{");
    scene.works(&[
        "report",
        "a",
        &long,
        strange,
        "damaged",
        "unreadable",
        "new",
        "nowhere",
        "-o",
        "page.html",
    ]);
    scene
}

/// Opens the page in a frame of each width, and returns what is in it.
const LOOK: &str = r#"<!DOCTYPE html><meta charset="utf-8">
<iframe id="w390" src="page.html" style="width:390px;height:800px;border:0"></iframe>
<iframe id="w1400" src="page.html" style="width:1400px;height:800px;border:0"></iframe>
<pre id="seen"></pre>
<script>
onload = () => {
  const look = frame => {
    const page = frame.contentDocument, view = frame.contentWindow;
    // Folded content has to fit as well.
    page.querySelectorAll("details").forEach(e => e.open = true);
    const name = e => e.outerHTML.slice(0, 120);
    const all = [...page.querySelectorAll("main *, header *, footer *")];
    const flat = all.filter(e => !(e instanceof view.SVGElement));
    const style = e => view.getComputedStyle(e);
    const wide = flat.filter(e => !(e.closest(".scroll")) && e.getBoundingClientRect().right > frame.clientWidth + 1);
    // Text that is longer than its box is cut off, or overlaps what is beside it. A box that scrolls shows all of it.
    const long = flat.filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
      && style(e).overflowX !== "auto" && style(e).display !== "inline");
    const cut = flat.filter(e => style(e).textOverflow === "ellipsis" || style(e).overflowX === "hidden");
    const small = [...page.querySelectorAll("p, td, th, dd, dt, span, a, h1, h2, h3")]
      .filter(e => parseFloat(style(e).fontSize) < 12.5);
    const sides = box => Math.round(box.left) + "-" + Math.round(box.right);
    const boxes = list => [...new Set(list.map(e => sides(e.getBoundingClientRect())))];
    return {
      width: page.documentElement.scrollWidth, wide: wide.map(name), long: long.map(name),
      cut: cut.map(name), small: small.length,
      fetched: view.performance.getEntriesByType("resource").length,
      marks: page.querySelectorAll("line.mark").length, bars: page.querySelectorAll("rect.bar").length,
      axes: [...page.querySelectorAll(".timeline")].map(e => boxes([...e.querySelectorAll("svg, .axis")]).length),
      markHeight: page.querySelector("line.mark").getBoundingClientRect().height,
      unnamed: page.querySelectorAll("svg:not([aria-label])").length,
      heading: page.querySelector("h1").textContent, styled: style(page.querySelector(".card")).borderTopStyle,
      damaged: [...page.querySelectorAll(".bad")].map(e => e.textContent),
      red: style(page.querySelector(".verified .bad")).color,
      plain: style(page.querySelector("h2")).color, ground: style(page.body).backgroundColor,
      folded: page.querySelectorAll("details.archive").length,
    };
  };
  document.getElementById("seen").textContent = JSON.stringify({ 390: look(w390), 1400: look(w1400) });
};
</script>"#;

/// Nothing is cut off or overlaps in any width and scheme, damage is red, charts have one axis, the page fetches
/// nothing, and the browser does not complain.
#[test]
fn a_browser_shows_all_of_the_page() {
    let scene = host();
    scene.write("look.html", LOOK.as_bytes());
    let mut grounds = Vec::new();
    for (scheme, setting) in SCHEMES {
        let Some(seen) = seen(&scene, "look.html", setting) else { return };
        for width in WIDTHS {
            let what = format!("{scheme}, {width}");
            let seen = &seen[width.to_string()];
            assert_eq!(seen["width"], width, "{what}: {seen}");
            for kind in ["wide", "long", "cut"] {
                assert_eq!(seen[kind], Value::Array(Vec::new()), "{what}: {kind}");
            }
            let nothing = (&seen["fetched"], &seen["small"], &seen["unnamed"]);
            assert_eq!(nothing, (&0.into(), &0.into(), &0.into()), "{what}: {seen}");
            assert_eq!(seen["styled"], "solid", "the style was not taken: {seen}");
            assert!(
                seen["marks"].as_u64() >= Some(3) && seen["bars"].as_u64() >= Some(5),
                "{seen}"
            );
            assert!(seen["markHeight"].as_f64() > Some(4.0), "{seen}");
            assert!(seen["heading"].as_str().is_some_and(|text| text.starts_with("Backups on ")));
            let axes = seen["axes"].as_array().expect("a list");
            assert!(!axes.is_empty() && axes.iter().all(|boxes| *boxes == 1), "{what}: {axes:?}");
            let damaged = seen["damaged"].as_array().expect("a list");
            let says = |text: &str| damaged.iter().any(|found| found == text);
            assert!(says("checked, 2 places damaged"), "{damaged:?}");
            assert!(says("Checked, 2 places damaged in 2 revisions."), "{damaged:?}");
            assert_ne!(seen["red"], seen["plain"], "{what}");
            assert_eq!(seen["folded"], 3, "{what}");
            grounds.push(seen["ground"].as_str().expect("a colour").to_owned());
        }
    }
    grounds.dedup();
    assert_eq!(grounds.len(), 2, "the dark page is not dark: {grounds:?}");
}

/// Looks at pictures of the page.
const PICTURES: &str = r#"<!DOCTYPE html><meta charset="utf-8"><pre id="seen"></pre>
IMAGES
<script>
const look = (image, margin) => {
  const canvas = Object.assign(document.createElement("canvas"),
    { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const colours = (x, width) => {
    const found = new Map(), data = context.getImageData(x, 0, width, image.naturalHeight).data;
    for (let at = 0; at < data.length; at += 4) {
      const colour = data[at] << 16 | data[at + 1] << 8 | data[at + 2];
      found.set(colour, (found.get(colour) ?? 0) + 1);
    }
    return found;
  };
  const right = colours(image.naturalWidth - margin, margin), all = colours(0, image.naturalWidth);
  const ground = [...right].sort((a, b) => b[1] - a[1])[0][0];
  // Shadows of cards hardly differ from the background.
  const isOther = colour => [16, 8, 0].some(by => Math.abs((colour >> by & 255) - (ground >> by & 255)) > 8);
  return { width: image.naturalWidth, right: [...right.keys()].filter(isOther).length, ground, colours: all.size };
};
onload = () => {
  const found = {};
  for (const image of document.images) found[image.alt] = look(image, MARGIN);
  document.getElementById("seen").textContent = JSON.stringify(found);
};
</script>"#;

/// Pictures of the page show only the background at their right edge, so nothing is drawn over it, and light ones are
/// light.
#[test]
fn screenshots_of_the_page_are_not_cut_off() {
    let scene = host();
    let mut names = Vec::new();
    for (scheme, setting) in SCHEMES {
        for width in WIDTHS {
            let name = format!("{scheme}-{width}.png");
            // A window is never as narrow as a phone.
            let frame = format!(
                "<!DOCTYPE html><style>body {{ margin: 0 }}</style>\
                 <iframe src=\"page.html\" style=\"width:{width}px;height:2400px;border:0;display:block\"></iframe>"
            );
            scene.write("frame.html", frame.as_bytes());
            let to = format!("--screenshot={}", scene.text_path(&name));
            let size = format!("--window-size={width},2400");
            let setting = format!("--blink-settings={setting}");
            if browse(&scene, "frame.html", &[&to, &size, &setting]).is_none() {
                return;
            }
            names.push(name);
        }
    }
    let images: Vec<String> =
        names.iter().map(|name| format!("<img src=\"{name}\" alt=\"{name}\">")).collect();
    let pictures =
        PICTURES.replace("IMAGES", &images.join("\n")).replace("MARGIN", &MARGIN.to_string());
    scene.write("pictures.html", pictures.as_bytes());
    let seen = seen(&scene, "pictures.html", SCHEMES[1].1).expect("it was there before");
    for name in &names {
        let picture = &seen[name];
        let width: u64 = name.trim_end_matches(".png").rsplit('-').next().unwrap().parse().unwrap();
        assert_eq!(picture["width"], width, "{name}: {picture}");
        assert_eq!(picture["right"], 0, "{name}: something is at its right edge: {picture}");
        assert!(picture["colours"].as_u64() > Some(50), "{name} is empty: {picture}");
        let green = picture["ground"].as_u64().expect("a colour") >> 8 & 0xff;
        assert_eq!(green > 0x80, name.starts_with("light"), "{name}: {picture}");
    }
}

/// Sixty archives, one of them damaged, print on a few pages.
#[test]
fn sixty_archives_are_printed_on_a_few_pages() {
    let (scene, _) = Scene::with_revisions(2);
    scene.works(&["-b", "a", "scrub"]);
    std::fs::create_dir(scene.path("all")).unwrap();
    for number in 0..60 {
        let to = scene.path(&format!("all/customer-{number:02}-system-disk"));
        // With its times: otherwise another `last.raw` would have to be compared first.
        let copied = tool("cp", &["-a", &scene.text_path("a"), to.to_str().unwrap()]);
        assert_eq!(copied.expect("cp").status, Some(0));
    }
    let mut image = scene.read("all/customer-07-system-disk/last.raw");
    image[5000..5003].copy_from_slice(b"rot");
    scene.write("all/customer-07-system-disk/last.raw", &image);
    scene.run(&["-b", "all/customer-07-system-disk", "scrub"]);
    scene.works(&["report", "all", "-o", "page.html"]);
    let to = format!("--print-to-pdf={}", scene.text_path("page.pdf"));
    if browse(&scene, "page.html", &[&to, "--no-pdf-header-footer"]).is_none() {
        return;
    }
    let pdf = String::from_utf8_lossy(&scene.read("page.pdf")).into_owned();
    let pages = pdf.matches("/Type /Page").count() - pdf.matches("/Type /Pages").count();
    assert!((2..=6).contains(&pages), "{pages} pages");
}

/// What the script of a page has found. `None` without a browser.
fn seen(scene: &Scene, page: &str, setting: &str) -> Option<Value> {
    let setting = format!("--blink-settings={setting}");
    let output = browse(scene, page, &["--virtual-time-budget=20000", "--dump-dom", &setting])?;
    let dom = String::from_utf8_lossy(&output.stdout);
    let (_, seen) = dom.split_once("<pre id=\"seen\">").expect("the harness");
    let (seen, _) = seen.split_once("</pre>").expect("its end");
    let seen = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some(serde_json::from_str(&seen).expect("JSON"))
}

/// Shows a page to a browser, which must not complain. `None` without one.
fn browse(scene: &Scene, page: &str, args: &[&str]) -> Option<Output> {
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
    // Test pages read the page, which is another file.
    command.args([
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--hide-scrollbars",
    ]);
    command.arg(format!("--user-data-dir={}", scene.text_path("profile")));
    command.args(args).arg(format!("file://{}", scene.text_path(page)));
    command.env("HOME", scene.path("")).current_dir(scene.path(""));
    let Ok(output) = command.output() else {
        skipped("chromium is not installed");
        return None;
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> =
        complaints.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    Some(output)
}
