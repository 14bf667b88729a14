//! Nothing: cargo wants a library before a build script may depend on this package, and that
//! dependency is what rebuilds the programs in `main.rs` when they change.
#![no_std]
