//! Sets a mark for QEMU's plugin that counts instructions (insns.rs): an instruction that does nothing but be recognised.

use std::arch::asm;

fn main() {
    // SAFETY: `nopl 0x6b72616d(%rax,%rax)` neither reads nor writes anything.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x84, 0x00, 0x6d, 0x61, 0x72, 0x6b") };
}
