//! Links `very_important_value` without `libgcc_s.so`, which it would load at each start and never use.
//!
//! The standard library asks for that library by name, and there is no flag to have its static form instead.
//! The linker finds the name here first, and behind it what `gcc -static-libgcc` would link. It is 15 % of what
//! a start costs: `/local_program` starts the program thousands of times a second.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|given| given == value);
    let Some(directory) = std::env::var_os("OUT_DIR").map(PathBuf::from) else { return Ok(()) };
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        std::fs::write(directory.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n")?;
        println!("cargo::rustc-link-arg-bin=very_important_value=-L{}", directory.display());
    }
    Ok(())
}
