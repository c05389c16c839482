//! `check-archive FOLDER…`: compares archives with `doc/format.md`, see `checker`. Prints each violation, with exit
//! status 1.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut is_right = true;
    for folder in std::env::args_os().skip(1) {
        match backy_tests::checker::check_folder(Path::new(&folder)) {
            Ok(problems) => {
                for problem in problems.into_iter().flatten() {
                    println!("{}: {problem}", Path::new(&folder).display());
                    is_right = false;
                }
            }
            Err(error) => {
                println!("{}: {error}", Path::new(&folder).display());
                is_right = false;
            }
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
