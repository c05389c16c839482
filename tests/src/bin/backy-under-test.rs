//! The command, for the end-to-end tests: `cargo test` builds only the binaries of the package under test. It
//! has another name than the real one, since both are built into one folder.

fn main() -> std::process::ExitCode {
    backy_tests::canary::plant();
    backy_cli::main()
}
