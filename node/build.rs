//! How the programs are linked.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    fold_identical_functions();
    leave_out_libgcc()
}

fn is(variable: &str, wanted: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == wanted)
}

/// Has the linker keep functions that are the same to the byte once.
///
/// A node keeps its whole code in memory; this is a third of a megabyte of it. Generic code is compiled for
/// each of its types, often to the same instructions. Nothing compares the addresses of functions.
fn fold_identical_functions() {
    // Where Rust brings its own linker, lld, and only in what is shipped: it confuses backtraces.
    if is("TARGET", "x86_64-unknown-linux-gnu") && is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bin=hearthd=-Wl,--icf=all");
    }
}

/// Links `very_important_value` without `libgcc_s.so`, which it would load at each start and never use.
///
/// The standard library asks for that library by name, and there is no flag to have its static form instead.
/// The linker finds the name here first, and behind it what `gcc -static-libgcc` would link. It is 15 % of what
/// a start costs: `/local_program` starts the program thousands of times a second.
fn leave_out_libgcc() -> std::io::Result<()> {
    let Some(directory) = std::env::var_os("OUT_DIR").map(PathBuf::from) else { return Ok(()) };
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        std::fs::write(directory.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n")?;
        println!("cargo::rustc-link-arg-bin=very_important_value=-L{}", directory.display());
    }
    Ok(())
}
