//! A naive reference director.
