//! Anything as what other programs print for a source: each answer is understood or an error of one line.
//!
//! The first line of the input names the command.

use backy_lib::source::answers;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let (command, printed) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => return,
    };
    let Ok(command) = std::str::from_utf8(command) else { return };
    if let Some(Err(message)) = answers::read(command, printed) {
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
}
