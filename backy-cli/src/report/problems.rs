//! Problems, what to do about each, and the commands for that, ready to copy into a shell.

use backy_lib::escape;
use backy_lib::health::Problem;
use maud::{Markup, html};

use super::{class, pill};

/// Problems with advice. `archive`: the folder of the one that they are about.
pub(super) fn problems(problems: &[Problem], archive: Option<&str>) -> Markup {
    html! {
        @if !problems.is_empty() {
            ul.problems {
                @for problem in problems {
                    li class=(class(problem.level)) {
                        p { (pill(problem.level)) " " strong { (escape::line(&problem.message)) } }
                        p.advice { (escape::line(&problem.advice)) }
                        @if let Some(archive) = archive {
                            @for command in commands(&problem.advice, archive) {
                                pre.command { code { (command) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The commands that an advice quotes, each once, with the archive that they are for.
fn commands(advice: &str, archive: &str) -> Vec<String> {
    let Some(folder) = quoted(archive) else { return Vec::new() };
    let mut found = Vec::new();
    for quote in advice.split('\'').skip(1).step_by(2) {
        let Some(rest) = quote.strip_prefix("backy ").filter(|rest| is_plain(rest)) else {
            continue;
        };
        let command = format!("backy -b {folder} {rest}");
        if !found.contains(&command) {
            found.push(command);
        }
    }
    found
}

/// Whether words mean nothing special to a shell, name no other archive, and have no placeholder such as FILE.
fn is_plain(words: &str) -> bool {
    let is_word = |word: &str| {
        let is_known = |c: char| c.is_ascii_alphanumeric() || "-_.:=,%".contains(c);
        !word.is_empty() && word.chars().all(is_known) && word.chars().any(|c| !c.is_uppercase())
    };
    words.split(' ').all(is_word) && words.split(' ').all(|word| word != "-b")
}

/// A path as a word of a shell, which begins with a slash; `None` when the path is not known to the byte.
fn quoted(path: &str) -> Option<String> {
    let absolute = std::path::absolute(path).ok()?;
    let text = absolute.to_str()?;
    // In its place there was something that is no text.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(is_harmless) {
        return Some(text.to_owned());
    }
    if !text.contains(escape::is_unsafe) {
        return Some(format!("'{}'", text.replace('\'', r"'\''")));
    }
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            c if escape::is_unsafe(c) => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    // Three digits always: one that follows does not belong to it.
                    word.push_str(&format!("\\{byte:03o}"));
                }
            }
            c => word.push(c),
        }
    }
    word.push('\'');
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that an advice quotes becomes one for the archive, unless it has a placeholder or would be more than
    /// one command.
    #[test]
    fn commands_of_an_advice_are_for_its_archive() {
        let say = |advice: &str| commands(advice, "/srv/a").join("; ");
        for (advice, expected) in [
            ("run 'backy scrub': it says what", "backy -b /srv/a scrub"),
            (
                "run 'backy scrub', then 'backy drill' again, or 'backy scrub' with --budget",
                "backy -b /srv/a scrub; backy -b /srv/a drill",
            ),
            ("or until 'backy maintenance --confirm'", "backy -b /srv/a maintenance --confirm"),
            ("see 'chown' and 'chmod go-w'", ""),
            ("'backy restore FILE', 'backy -b DIR restore'", ""),
            ("'backy scrub; rm x', 'backy scrub $(id)', 'backy `id`', 'backy scrub\nid'", ""),
            ("look at it", ""),
        ] {
            assert_eq!(say(advice), expected, "{advice}");
        }
    }

    /// A shell takes the path literally, whatever is in it.
    #[test]
    fn a_shell_reads_the_path_as_one_word() {
        for path in [
            "/srv/backup/a",
            "/srv/my backups/it's \"here\"",
            "/srv/$HOME/`id`/~/*;&|<>",
            "/srv/new\nline\t'\\ \u{1b}[31m 7",
            "/srv/überraschung/備份",
            "/srv/\u{202e}reversed 7",
        ] {
            let word = quoted(path).unwrap();
            let script = format!("printf %s {word}");
            let run = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(run.stdout).unwrap(), path, "{word}");
            assert!(!word.contains(escape::is_unsafe), "{word:?}");
        }
        assert_eq!(quoted("/srv/\u{fffd}"), None);
    }
}
