//! Scenarios across the crates of lvs-rs: recordings of the real kernel, a reference director, the Lab.

pub mod packets;
pub mod random;
pub mod recordings;
pub mod reference;
