//! The `orbit` command.

/// Beside many small allocations Pingora boxes the future of each request, about 10 KB; mimalloc needs a third
/// of the instructions of glibc's allocator for them (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    orbit::cli::main()
}
