//! Where the running kernel keeps a member of one of its structures: read from its BTF
//! (`Documentation/bpf/btf.rst`; Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`).
//!
//! Rust's compiler writes no CO-RE relocations, so the offsets that a program needs are handed to it
//! as a constant.

use std::{collections::BTreeMap, fs, io};

use vipshield_common::tasks::Credentials;

/// What the kernel says of its own types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const WORD: usize = size_of::<u32>();
/// `name_off`, `info`, `size` or `type` of `struct btf_type`.
const TYPE_WORDS: usize = 3;
/// `name_off`, `type`, `offset` of `struct btf_member`.
const MEMBER_WORDS: usize = 3;
const KIND_STRUCT: u32 = 4;

/// The structures of which anything is asked. There are a hundred thousand types: they are walked over once.
const ASKED: [&str; 6] =
    ["cred", "net", "net_device", "ns_common", "task_struct", "user_namespace"];

/// Types in BTF.
pub(super) struct Types {
    btf: Vec<u8>,
    structures: BTreeMap<&'static str, usize>,
}

impl Types {
    /// Those of the running kernel.
    pub(super) fn of_kernel() -> io::Result<Self> {
        let btf = fs::read(KERNEL)?;
        let structures = Parts::of(&btf).map(|parts| parts.find(&ASKED)).unwrap_or_default();
        Ok(Self { btf, structures })
    }

    /// Where the kernel keeps what a task may do.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            cred: self.offset("task_struct", "cred")?,
            permitted: self.offset("cred", "cap_permitted")?,
            user_namespace: self.offset("cred", "user_ns")?,
            inode: self.offset("user_namespace", "ns")? + self.offset("ns_common", "inum")?,
        })
    }

    /// Bytes from the start of structure `of`, one of those [asked](ASKED) of, to its member `name`.
    pub(super) fn offset(&self, of: &str, name: &str) -> Option<u32> {
        Parts::of(&self.btf)?.member(*self.structures.get(of)?, name)
    }
}

/// What BTF in the byte order of this machine consists of.
struct Parts<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(btf: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*btf.first_chunk()?);
        let header = btf.get(WORD..)?;
        let at = |index| word(header, index).map(|value| value as usize);
        let (length, types, types_length) = (at(0)?, at(1)?, at(2)?);
        let (strings, strings_length) = (at(3)?, at(4)?);
        let body = btf.get(length..).filter(|_| magic == MAGIC)?;
        Some(Self {
            types: body.get(types..types.checked_add(types_length)?)?,
            strings: body.get(strings..strings.checked_add(strings_length)?)?,
        })
    }

    fn named(&self, offset: u32, wanted: &str) -> bool {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Where the first structures of these names are among the types; without those that are not there, or
    /// behind what cannot be understood.
    fn find<'n>(&self, names: &[&'n str]) -> BTreeMap<&'n str, usize> {
        let mut found = BTreeMap::new();
        let mut rest = self.types;
        while found.len() < names.len()
            && let (Some(name_at), Some(info)) = (word(rest, 0), word(rest, 1))
        {
            let (kind, count) = (kind(info), members(info));
            if kind == KIND_STRUCT
                && let Some(name) = names.iter().find(|name| self.named(name_at, name))
            {
                found.entry(*name).or_insert(self.types.len().saturating_sub(rest.len()));
            }
            let next = extra_words(kind, count)
                .and_then(|extra| rest.get((TYPE_WORDS + extra).checked_mul(WORD)?..));
            let Some(next) = next else { break };
            rest = next;
        }
        found
    }

    /// Bytes to the member of this name of the structure there; none for what is not there, or is a bit field.
    fn member(&self, structure: usize, name: &str) -> Option<u32> {
        let rest = self.types.get(structure..)?;
        let info = word(rest, 1)?;
        let all = rest.get(TYPE_WORDS * WORD..)?;
        let member = (0..members(info)).find_map(|index| {
            let member = all.get(index * MEMBER_WORDS * WORD..)?;
            self.named(word(member, 0)?, name).then(|| word(member, 2)).flatten()
        })?;
        // With the kind's flag set, the upper byte is the size of a bit field.
        let (bits, field) =
            if info >> 31 == 1 { (member & 0x00ff_ffff, member >> 24) } else { (member, 0) };
        (field == 0 && bits % 8 == 0).then_some(bits / 8)
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

const fn members(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// What follows a type of this kind; none for a kind that is not known.
const fn extra_words(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointer, forward declaration, typedef, volatile, const, restrict, function, float, type
        // tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 1,
        // Array.
        3 => 3,
        // Enumeration, function prototype.
        6 | 13 => 2 * count,
        // Structure, union, data section, enumeration of 64 bits.
        4 | 5 | 15 | 19 => 3 * count,
        _ => return None,
    })
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    bytes.get(index * WORD..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `int`, then `struct dev { int state; int ifindex; }`.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0dev\0state\0ifindex\0";
        let types: [u32; 4 + 3 + 6] = [1, 1 << 24, 4, 32, 5, 4 << 24 | 2, 8, 9, 1, 0, 15, 1, 32];
        let mut btf = u32::from_ne_bytes([0, 0, 1, 0]).to_ne_bytes().to_vec();
        btf[..2].copy_from_slice(&MAGIC.to_ne_bytes());
        let length = (types.len() * WORD) as u32;
        for word in [24, 0, length, length, strings.len() as u32].iter().chain(&types) {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(strings);
        btf
    }

    fn offset(btf: &[u8], of: &str, name: &str) -> Option<u32> {
        let parts = Parts::of(btf)?;
        parts.member(*parts.find(&[of]).get(of)?, name)
    }

    #[test]
    fn a_member_is_found() {
        let btf = example();
        assert_eq!(offset(&btf, "dev", "ifindex"), Some(4));
        assert_eq!(offset(&btf, "dev", "state"), Some(0));
        assert_eq!(offset(&btf, "dev", "if"), None);
        assert_eq!(offset(&btf, "de", "ifindex"), None);
    }

    #[test]
    fn the_running_kernel_has_interfaces() {
        if fs::exists(KERNEL).unwrap() {
            let types = Types::of_kernel().unwrap();
            for (of, name) in [
                ("net_device", "ifindex"),
                ("net_device", "nd_net"),
                ("net", "ns"),
                ("ns_common", "inum"),
            ] {
                assert!(types.offset(of, name).is_some(), "{name} of {of}");
            }
            assert!(types.credentials().is_some());
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_type(cut in 0_usize..120, at in 0_usize..120, with: u8) {
            let mut btf = example();
            btf.truncate(cut);
            if let Some(byte) = btf.get_mut(at) {
                *byte = with;
            }
            let _ = offset(&btf, "dev", "ifindex");
        }
    }
}
