//! Rules as data: tables of which the first line that fits the facts decides.

/// Names the bits of a word of facts, the first of them the lowest.
#[macro_export]
macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident => $text:literal;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "named as the constants")]
        #[repr(u32)]
        enum Bit { $($name),* }
        $($(#[$doc])* pub const $name: u32 = 1 << Bit::$name as u32;)*
        /// What each bit says, the lowest first.
        pub const NAMES: &[&str] = &[$($text),*];
    };
}

/// What must be so, of a word of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct When {
    /// The facts that matter.
    pub mask: u32,
    /// Those of them that must be so; the others must not.
    pub value: u32,
}

impl When {
    /// Whatever is so.
    pub const ALWAYS: Self = Self { mask: 0, value: 0 };

    /// These facts are so.
    #[must_use]
    pub const fn all(facts: u32) -> Self {
        Self { mask: facts, value: facts }
    }

    /// None of these facts is so.
    #[must_use]
    pub const fn none(facts: u32) -> Self {
        Self { mask: facts, value: 0 }
    }

    /// And none of these facts is so.
    #[must_use]
    pub const fn but(self, facts: u32) -> Self {
        Self { mask: self.mask | facts, value: self.value & !facts }
    }

    /// Whether all of it is so.
    #[inline(always)]
    #[must_use]
    pub const fn fits(self, facts: u32) -> bool {
        // The oldest instruction set has no arithmetic of 32 bits.
        facts as u64 & self.mask as u64 == self.value as u64
    }
}

/// A line of a table.
#[derive(Clone, Copy, Debug)]
pub struct Rule<T: 'static> {
    /// Its name, which is for good: logs, counters and documents bear it.
    pub name: &'static str,
    /// What must be so.
    pub when: When,
    /// What follows.
    pub then: T,
    /// The reason, in a sentence.
    pub why: &'static str,
}
