//! Counts the instructions that a machine of the lab executes: a plugin of QEMU, for machines with one CPU. A halted CPU
//! executes none, so what was executed between two marks is what the machine was busy with, whatever time it took.
//!
//!     -plugin libinsns.so,out=FILE[,where=on]
//!
//! The machine sets a mark by an instruction that does nothing (mark.rs). Each adds a line to FILE: the instructions so
//! far. Each repetition of a string instruction is one. With `where=on` FILE.N has the instructions up to mark N by the
//! address of their blocks.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// `nopl MARK(%rax,%rax)`, which no compiler makes with that number; as mark.rs.
const MARK: [u8; 8] = [0x0f, 0x1f, 0x84, 0x00, 0x6d, 0x61, 0x72, 0x6b];

/// The version of QEMU's interface for plugins that this is written to.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = 1;

#[repr(C)]
pub struct Info {
    target: *const c_char,
    version: [c_int; 2],
    is_system: bool,
    cpus: c_int,
    cpus_max: c_int,
}

#[repr(C)]
pub struct Block([u8; 0]);
#[repr(C)]
pub struct Insn([u8; 0]);

const ADD_U64: c_int = 0;
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: extern "C" fn(u64, *mut Block));
    fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut Block,
        op: c_int,
        at: *mut u64,
        value: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_inline(
        insn: *mut Insn,
        op: c_int,
        at: *mut u64,
        value: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        call: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Insn;
    fn qemu_plugin_insn_data(insn: *const Insn) -> *const c_void;
    fn qemu_plugin_insn_size(insn: *const Insn) -> usize;
}

static EXECUTED: AtomicU64 = AtomicU64::new(0);
static OUT: OnceLock<String> = OnceLock::new();
static MARKS: AtomicU64 = AtomicU64::new(0);
/// By address, those of its blocks; none unless wanted.
static WHERE: Mutex<Option<HashMap<u64, &'static AtomicU64>>> = Mutex::new(None);

/// # Safety
/// QEMU calls it once, as it loads the plugin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const Info,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: QEMU gives a description of the machine, and so many strings that stay.
    let (info, arguments) = unsafe { (&*info, slice::from_raw_parts(arguments, count as usize)) };
    for &argument in arguments {
        // SAFETY: as above.
        let argument = unsafe { CStr::from_ptr(argument) }.to_string_lossy();
        match argument.split_once('=') {
            Some(("out", path)) => OUT.set(path.into()).expect("one file"),
            Some(("where", "on")) => *WHERE.lock().expect("whole") = Some(HashMap::new()),
            _ => return refuse(&format!("no such argument: {argument}")),
        }
    }
    if !info.is_system || info.cpus != 1 {
        return refuse("it counts for a machine with one CPU");
    }
    let Some(path) = OUT.get() else {
        return refuse("it wants out=FILE");
    };
    if let Err(why) = File::create(path) {
        return refuse(&format!("{path}: {why}"));
    }
    // SAFETY: the function stays.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_block) };
    0
}

fn refuse(why: &str) -> c_int {
    eprintln!("insns: {why}");
    1
}

/// A block of instructions is translated: each is to be counted when it is executed.
extern "C" fn on_block(_: u64, block: *mut Block) {
    // SAFETY: the block and its instructions are QEMU's until this returns, the counters stay, and each instruction has as
    // many bytes as it says.
    unsafe {
        let count = qemu_plugin_tb_n_insns(block);
        for insn in (0..count).map(|i| qemu_plugin_tb_get_insn(block, i)) {
            let bytes = slice::from_raw_parts(
                qemu_plugin_insn_data(insn).cast::<u8>(),
                qemu_plugin_insn_size(insn),
            );
            qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, EXECUTED.as_ptr(), 1);
            if bytes == MARK {
                let data = std::ptr::null_mut();
                qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, NO_REGISTERS, data);
            }
        }
        if let Some(places) = &mut *WHERE.lock().expect("whole") {
            let place = places
                .entry(qemu_plugin_tb_vaddr(block))
                .or_insert_with(|| Box::leak(Box::default()));
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, place.as_ptr(), count as u64);
        }
    }
}

extern "C" fn on_mark(_: c_uint, _: *mut c_void) {
    let mark = MARKS.fetch_add(1, Ordering::Relaxed) + 1;
    if let Err(why) = write_mark(mark) {
        eprintln!("insns: mark {mark}: {why}");
    }
}

fn write_mark(mark: u64) -> std::io::Result<()> {
    let path = OUT.get().expect("the plugin is installed");
    let mut out = OpenOptions::new().append(true).open(path)?;
    writeln!(out, "{}", EXECUTED.load(Ordering::Relaxed))?;
    if let Some(places) = &*WHERE.lock().expect("whole") {
        let mut text = String::new();
        for (address, count) in places {
            text += &format!("{address:016x} {}\n", count.load(Ordering::Relaxed));
        }
        std::fs::write(format!("{path}.{mark}"), text)?;
    }
    Ok(())
}
