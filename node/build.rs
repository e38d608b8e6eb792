//! How the programs are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    fold_identical_functions();
    let_the_program_stand_alone();
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

/// Has `very_important_value` begin at an entry of its own, with no library to load or to set up: see
/// `src/bin/very_important_value/start.rs`. Elsewhere it is an ordinary program.
fn let_the_program_stand_alone() {
    println!("cargo::rustc-check-cfg=cfg(freestanding)");
    if is("TARGET", "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-cfg=freestanding");
        for argument in ["-nostartfiles", "-static", "-no-pie"] {
            println!("cargo::rustc-link-arg-bin=very_important_value={argument}");
        }
    }
}
