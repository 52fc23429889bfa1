//! The `orbit` command.

/// A request makes some hundred small allocations and Pingora one of 25 KB; mimalloc needs a third of the
/// instructions of glibc's allocator for them and gives no memory back in between (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    orbit::cli::main()
}
