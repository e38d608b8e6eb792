//! The program from its first instruction to its last, with no library at all.
//!
//! **Idea.** Each page that a new process touches first costs some 10 µs on a virtual machine. Loading the C
//! library and starting it up touches fifty of them, Rust's allocator sixty more, to call the system three times.
//! Here the program is one static file without relocations, in which the kernel jumps to [`_start`]: 5 pages,
//! 0.17 ms from start to reaping instead of 0.77.
//!
//! **Invariants.** Nothing here allocates, panics, uses thread-local variables or calls into the standard library:
//! nothing has set those up. The linker is told to start here by the build script, which sets `freestanding`
//! where this can run: x86-64 Linux.
#![allow(unsafe_code, reason = "nothing lies between this program and the system")]

use std::arch::{asm, naked_asm};
use std::ffi::c_char;

use crate::steps::{self, LOCK_DEFAULT, LOCK_VARIABLE, STATUS_NO_RANDOMNESS, WAIT_SECONDS};

/// Where the kernel begins. It has put on the stack: the number of arguments, the arguments, a null pointer, the
/// environment, a null pointer (System V ABI, AMD64 supplement, 3.4.1).
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    // The outermost frame has no predecessor, and the stack is aligned at a call.
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {}", "ud2", sym begin)
}

/// # Safety
/// `stack` is the stack as the kernel has made it.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: this is how the kernel has laid out the stack, and it stays so until the end.
    let lock = unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<*const c_char>();
        match count {
            0 | 1 => variable(arguments.add(count + 1)),
            _ => Some(*arguments.add(1)),
        }
    };
    let lock = lock.unwrap_or(LOCK_DEFAULT.as_ptr());
    steps::wait(|| exists(lock), pause);
    exit(steps::draw(word).unwrap_or(STATUS_NO_RANDOMNESS))
}

/// What [`LOCK_VARIABLE`] is set to.
///
/// # Safety
/// `environment` is a list of pointers to C strings that ends with a null pointer.
unsafe fn variable(mut environment: *const *const c_char) -> Option<*const c_char> {
    // SAFETY: only what comes before the null pointer is looked into.
    unsafe {
        while !(*environment).is_null() {
            if let Some(value) = value_of(*environment) {
                return Some(value);
            }
            environment = environment.add(1);
        }
    }
    None
}

/// The value in `NAME=value`, when the name is [`LOCK_VARIABLE`].
///
/// # Safety
/// `entry` is a C string.
unsafe fn value_of(mut entry: *const c_char) -> Option<*const c_char> {
    // SAFETY: the name has no zero byte, so that the loop ends at the end of the string if not before.
    unsafe {
        for byte in LOCK_VARIABLE.bytes() {
            if *entry != byte.cast_signed() {
                return None;
            }
            entry = entry.add(1);
        }
        (*entry == b'='.cast_signed()).then(|| entry.add(1))
    }
}

fn exists(path: *const c_char) -> bool {
    // SAFETY: the path is a C string.
    unsafe { call(libc::SYS_access, path.addr(), libc::F_OK.cast_unsigned() as usize, 0) == 0 }
}

fn pause() {
    // Seconds and nanoseconds.
    let time = [WAIT_SECONDS, 0];
    // SAFETY: a `timespec` consists of two 64-bit numbers; where the rest of the time would go may be null.
    unsafe { call(libc::SYS_nanosleep, time.as_ptr().addr(), 0, 0) };
}

/// A random word of the system's.
fn word() -> Option<u32> {
    let mut word = 0_u32;
    // SAFETY: the system writes into the word, and not beyond it.
    let written = unsafe { call(libc::SYS_getrandom, (&raw mut word).addr(), size_of::<u32>(), 0) };
    usize::try_from(written).is_ok_and(|bytes| bytes == size_of::<u32>()).then_some(word)
}

fn exit(status: u8) -> ! {
    loop {
        // SAFETY: this ends the process.
        unsafe { call(libc::SYS_exit_group, status.into(), 0, 0) };
    }
}

/// Calls the system: returns what it returns, and a negative number for an error.
///
/// # Safety
/// As the call that `number` stands for.
unsafe fn call(number: libc::c_long, first: usize, second: usize, third: usize) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: arguments and result are where the system expects and puts them, and it overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
