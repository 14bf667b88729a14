//! The decoders against an independent implementation, against frames made here by other rules, and
//! against a corpus of real frames with every kind of damage.

mod corpus;
mod reference;
