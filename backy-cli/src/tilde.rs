//! A `~` that the shell has not expanded, as in `--backupdir=~/archive`, in quotes, or in a unit of systemd. Taken
//! literally it would make a folder of that name, and the next command would be `rm -rf ~`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Checks that no argument begins a path with a `~`.
///
/// # Errors
/// The line that says which one does, and what to write.
pub(crate) fn check(args: &[OsString]) -> Result<(), String> {
    // What comes after '--' is the command of a drill, or the words that a shell completes.
    let words = args.iter().skip(1).take_while(|word| *word != "--");
    for word in words {
        let bytes = word.as_bytes();
        let value = match bytes {
            [b'-', b'-', rest @ ..] => rest.splitn(2, |byte| *byte == b'=').nth(1),
            // -b~/archive
            [b'-', _, rest @ ..] => Some(rest.strip_prefix(b"=").unwrap_or(rest)),
            _ => Some(bytes),
        };
        let Some(value) = value.filter(|value| value.starts_with(b"~")) else { continue };
        let is_whole_word = value.len() == bytes.len();
        // A file may be called '~x'; after an option it is the home of somebody.
        if !is_whole_word || value == b"~" || value.contains(&b'/') {
            let (word, value) = (word.to_string_lossy(), String::from_utf8_lossy(value));
            return Err(format!(
                "'{word}': the shell did not expand the '~'; put a space before it or write the whole path (a \
                 file of that name is './{value}')"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_that_was_not_expanded_is_found_wherever_a_path_can_stand() {
        let checked = |words: &[&str]| {
            let args: Vec<OsString> = ["backy"].iter().chain(words).map(OsString::from).collect();
            check(&args)
        };
        for words in [
            &["--backupdir=~/a", "init"][..],
            &["-b~/a", "init"],
            &["-b=~/a", "init"],
            &["-b", "~/a", "init"],
            &["restore", "--undo=~bob/a"],
            &["-b", "~"],
            &["--backupdir=~"],
            &["restore", "~/x"],
        ] {
            assert!(checked(words).is_err_and(|said| said.contains("'./~")), "{words:?}");
        }
        for words in [
            &["-b", "./~/a", "init"][..],
            &["--backupdir=a~/b"],
            &["restore", "~x"],
            &["restore", "x~"],
            &["tag", "0", "+~"],
            &["drill", "--", "sh", "~/x"],
        ] {
            assert_eq!(checked(words), Ok(()), "{words:?}");
        }
    }
}
