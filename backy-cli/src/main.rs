//! The `backy` command. All of it is in the library, so that the tests can have a binary of their own.

fn main() -> std::process::ExitCode {
    backy_cli::main()
}
