//! What is read from a socket buffer, be it a frame or a netlink message.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_skb_load_bytes};

/// Reads a plain value; nothing beyond the buffer's end. Only for programs whose context is a
/// `__sk_buff`: others cannot call the helper, and are not loaded.
#[inline(always)]
pub(crate) fn load<T: Copy>(ctx: &impl EbpfContext, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination is as long as is said; every `T` that is asked for is plain bytes or
    // integers, for which any bytes are a value, and the helper fills all of them when it returns 0.
    unsafe {
        let result = bpf_skb_load_bytes(
            ctx.as_ptr(),
            offset,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        if result == 0 { Some(value.assume_init()) } else { None }
    }
}
