//! `lvs._lvs`, the compiled half of the Python package `lvs`: the director for scripts and tests.
//!
//! A packet comes in as bytes, is copied once into a buffer with room around it, goes through
//! [`lvs_core::Director`], and leaves as a Python `Verdict`. Nothing here decides anything: this crate converts
//! arguments, results and errors, and never does I/O or reads a clock. The exceptions are classes of
//! `lvs/errors.py`.

mod arguments;
mod connection;
mod director;
mod errors;
mod packets;
mod verdict;

/// The compiled half of `lvs`; import names from `lvs` instead.
#[pyo3::pymodule]
mod _lvs {
    #[pymodule_export]
    use super::connection::Connection;
    #[pymodule_export]
    use super::director::Director;
    #[pymodule_export]
    use super::verdict::Verdict;
}
