//! The `orbit` command.

fn main() -> std::process::ExitCode {
    orbit::cli::main()
}
