//! Reading the kernel's own structures.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Reads a pointer or a number that is so many bytes behind the start of a structure of the kernel's.
#[inline(always)]
pub(crate) fn read<T>(structure: *const c_void, offset: u32) -> Option<T> {
    // SAFETY: the helper reads from any address, and says so if there is nothing.
    unsafe { bpf_probe_read_kernel(structure.wrapping_byte_add(offset as usize).cast()) }.ok()
}
