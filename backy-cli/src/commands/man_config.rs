//! The manual page backy.toml(5), generated from the library's table of keys.

use std::fmt::Write;

use backy_lib::config::keys::{KEYS, Key, TABLES};

/// The whole page.
pub(super) fn page() -> String {
    let mut page = String::from(
        ".TH backy.toml 5 \"\" \"backy\" \"backy\"\n\
         .SH NAME\n\
         backy.toml \\- configuration of a backy archive\n\
         .SH DESCRIPTION\n",
    );
    paragraph(
        &mut page,
        "The file backy.toml in the folder of an archive says what to back up, when, and what to keep. It is a TOML \
         file, and the only file of an archive that you edit; 'backy init' creates it. It may include files with \
         settings for several archives. 'backy config' prints the settings that apply, and where each comes from. An \
         unknown key, a wrong type or an impossible value is an error with line and column; 'backy status' reports it. \
         A restore does not need the file.",
    );
    page.push_str(".PP\n");
    paragraph(
        &mut page,
        "A time is a whole number with s, m, h, d or w, such as \"90m\": from one second to ten years.",
    );
    for table in &TABLES {
        match table.name {
            "" => page.push_str(".SH KEYS\n"),
            name => {
                let _ = writeln!(page, ".SH [{}]", escape(name));
            }
        }
        paragraph(&mut page, table.text);
        KEYS.iter().filter(|key| key.table == table.name).for_each(|key| entry(&mut page, key));
    }
    page.push_str(".SH EXAMPLE\n.nf\n");
    let mut open = None;
    for key in KEYS.iter().filter(|key| ["source", "interval", "keep"].contains(&key.name)) {
        if !key.table.is_empty() && open != Some(key.table) {
            let _ = writeln!(page, "\n[{}]", escape(&key.table.replace("TAG", "daily")));
            open = Some(key.table);
        }
        let _ = writeln!(page, "{} = {}", escape(key.name), escape(key.example));
    }
    page.push_str(".fi\n.SH SEE ALSO\n.BR backy (1)\n");
    page
}

fn entry(page: &mut String, key: &Key) {
    let _ = writeln!(page, ".TP\n\\fB{}\\fR = \\fI{}\\fR", escape(key.name), escape(key.example));
    paragraph(page, key.text);
    if let Some(default) = key.default {
        let _ = writeln!(page, "The default is {}.", escape(default));
    }
}

fn paragraph(page: &mut String, text: &str) {
    let _ = writeln!(page, "{}", escape(text));
}

/// Escapes text for roff: no character begins a request or an escape sequence, and a hyphen stays a hyphen.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key is on the page, in bold, and no line of a text counts as a request.
    #[test]
    fn the_page_has_every_key() {
        let page = page();
        for key in &KEYS {
            assert!(page.contains(&format!("\\fB{}\\fR = ", escape(key.name))), "{}", key.name);
        }
        let requests = [".TH", ".SH", ".TP", ".PP", ".nf", ".fi", ".BR"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(requests.iter().any(|request| line.starts_with(request)), "{line}");
        }
    }
}
