//! How the programs compare a pointer into a frame with the frame's end.
//!
//! Before Linux 5.16 (it was put right in 5.15 and 5.10 as well) the verifier allows two bytes too
//! few behind a comparison that leaves out its bound, such as `at < end` (`find_good_pkt_pointers`
//! in `kernel/bpf/verifier.c`): a program that reads the byte at `at` is not loaded there. What the
//! compiler makes of a comparison shows in the object only.

use object::{Object as _, ObjectSection as _, SectionKind};

use super::OBJECT;

/// An instruction's length.
const LENGTH: usize = 8;
/// Loads through a pointer, of 4, 2, 1 and 8 bytes (`linux/bpf.h`: `BPF_LDX | BPF_MEM`).
const LOADS: [u8; 4] = [0x61, 0x69, 0x71, 0x79];

/// Operation, destination and source register, offset, of what has no immediate number.
fn decode(instruction: [u8; LENGTH]) -> Option<(u8, u8, u8, i16)> {
    let [operation, registers, a, b, 0, 0, 0, 0] = instruction else { return None };
    Some((operation, registers & 0xf, registers >> 4, i16::from_le_bytes([a, b])))
}

/// Where in a program a pointer is compared without its bound, and read through at once.
fn open_comparisons(code: &[u8]) -> Vec<usize> {
    let (instructions, _) = code.as_chunks::<LENGTH>();
    let is_open = |at: usize| {
        let (operation, destination, source, offset) = decode(*instructions.get(at)?)?;
        // Jumps that compare two registers: where it goes on if the pointer is before the end.
        let (pointer, branch) = match operation {
            // >: the end is after the pointer.
            0x2d => (source, offset),
            // <
            0xad => (destination, offset),
            // >=: the pointer is not at the end.
            0x3d => (destination, 0),
            // <=
            0xbd => (source, 0),
            _ => return None,
        };
        let next = at.checked_add(1)?.checked_add_signed(branch.into())?;
        let (operation, _, through, _) = decode(*instructions.get(next)?)?;
        (LOADS.contains(&operation) && through == pointer).then_some(at)
    };
    (0..instructions.len()).filter_map(is_open).collect()
}

#[test]
fn an_open_comparison_is_found() {
    // if r3 > r1 goto +1; goto +9; r1 = *(u8 *)(r1 + 0)
    let code = [0x2d, 0x13, 1, 0, 0, 0, 0, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0x71, 0x11, 0, 0, 0, 0, 0, 0];
    assert_eq!(open_comparisons(&code), [0]);
    // if r1 > r3 goto +1; r1 = *(u8 *)(r1 + 0)
    let code = [0x2d, 0x31, 1, 0, 0, 0, 0, 0, 0x71, 0x11, 0, 0, 0, 0, 0, 0];
    assert_eq!(open_comparisons(&code), [0; 0]);
}

#[test]
fn no_frame_is_read_behind_an_open_comparison() {
    let object = object::File::parse(OBJECT).unwrap();
    let code = object.sections().filter(|section| section.kind() == SectionKind::Text);
    let mut programs = 0;
    for section in code {
        let name = section.name().unwrap().to_owned();
        assert_eq!(open_comparisons(section.data().unwrap()), [0; 0], "{name}");
        programs += usize::from(section.size() > 0);
    }
    assert!(programs > 5, "{programs} sections with code");
}
