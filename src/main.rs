//! The `orbit` command.

/// For the allocations of an answered dispatch it needs 3,000 instructions less than glibc's allocator
/// (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    orbit::cli::main()
}
