//! The manual pages backy.toml(5) and fleet.toml(5), generated from the library's tables of keys.

use std::fmt::Write;

use backy_lib::config::keys::{KEYS, Key, TABLES, Table};
use backy_lib::config::{FLEET_KEYS, FLEET_TABLES};

/// What stands on the page of one kind of file.
struct Manual {
    name: &'static str,
    what: &'static str,
    description: &'static str,
    tables: &'static [Table],
    keys: &'static [Key],
    /// The keys of the example, and a word in names of tables that stands for another.
    example: &'static [&'static str],
    placeholder: (&'static str, &'static str),
    see_also: &'static str,
}

const CONFIG: Manual = Manual {
    name: "backy.toml",
    what: "configuration of a backy archive",
    description: "The file backy.toml in the folder of an archive says what to back up, when, and what to keep. It \
                  is a TOML file, and the only file of an archive that you edit; 'backy init' creates it. It may \
                  include files with settings for several archives. 'backy config' prints the settings that apply, \
                  and where each comes from. An unknown key, a wrong type or an impossible value is an error with \
                  line and column; 'backy status' reports it. A restore does not need the file.",
    tables: &TABLES,
    keys: &KEYS,
    example: &["source", "interval", "keep"],
    placeholder: ("TAG", "daily"),
    see_also: ".BR backy (1),\n.BR fleet.toml (5)\n",
};

const FLEET: Manual = Manual {
    name: "fleet.toml",
    what: "the archives of 'backy run'",
    description: "The file /etc/backy/fleet.toml says which archives 'backy run', 'backy check' and 'backy report' \
                  work on if you name none; --fleet names another file. It is a TOML file. An unknown key, a wrong \
                  type or an impossible value is an error with line and column. Nobody but root and the user who \
                  runs backy may be able to change it.",
    tables: &FLEET_TABLES,
    keys: &FLEET_KEYS,
    example: &["archives", "jobs", "path", "source", "include"],
    placeholder: ("GROUP", "vg0"),
    see_also: ".BR backy (1),\n.BR backy.toml (5)\n",
};

/// The page backy.toml(5).
pub(super) fn page() -> String {
    CONFIG.page()
}

/// The page fleet.toml(5).
pub(super) fn fleet_page() -> String {
    FLEET.page()
}

impl Manual {
    fn page(&self) -> String {
        let (name, what) = (self.name, escape(self.what));
        let mut page = format!(
            ".TH {name} 5 \"\" \"backy\" \"backy\"\n.SH NAME\n{name} \\- {what}\n.SH DESCRIPTION\n"
        );
        paragraph(&mut page, self.description);
        page.push_str(".PP\n");
        paragraph(
            &mut page,
            "A time is a whole number with s, m, h, d or w, such as \"90m\": from one second to ten years.",
        );
        for table in self.tables {
            match table.name {
                "" => page.push_str(".SH KEYS\n"),
                name => {
                    let _ = writeln!(page, ".SH [{}]", escape(name));
                }
            }
            paragraph(&mut page, table.text);
            let keys = self.keys.iter().filter(|key| key.table == table.name);
            keys.for_each(|key| entry(&mut page, key));
        }
        page.push_str(".SH EXAMPLE\n.nf\n");
        let mut open = None;
        for key in self.keys.iter().filter(|key| self.example.contains(&key.name)) {
            if !key.table.is_empty() && open != Some(key.table) {
                let (word, by) = self.placeholder;
                let _ = writeln!(page, "\n[{}]", escape(&key.table.replace(word, by)));
                open = Some(key.table);
            }
            let _ = writeln!(page, "{} = {}", escape(key.name), escape(key.example));
        }
        page.push_str(".fi\n.SH SEE ALSO\n");
        page.push_str(self.see_also);
        page
    }
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
        let page = page() + &fleet_page();
        for key in KEYS.iter().chain(&FLEET_KEYS) {
            assert!(page.contains(&format!("\\fB{}\\fR = ", escape(key.name))), "{}", key.name);
        }
        let requests = [".TH", ".SH", ".TP", ".PP", ".nf", ".fi", ".BR"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(requests.iter().any(|request| line.starts_with(request)), "{line}");
        }
    }
}
