//! The text of ipvsadm: rules read and written, tables printed.
//!
//! - [`rules`] reads what `ipvsadm -R` reads into [`Command`](crate::service::Command)s, all or nothing.
//! - [`save`] writes them back as `ipvsadm -S -n` does.
//! - [`list`] prints the tables of `ipvsadm -Ln` from rows that the owner fills.
//!
//! Nothing here reads files, resolves host names or touches a director.

mod flags;
pub mod list;
mod nearest;
mod options;
mod ports;
pub mod rules;
pub mod save;

/// The order of services and servers in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By address, as ipvsadm without `--nosort`: addresses before firewall marks, IPv4 before IPv6, TCP before
    /// UDP before SCTP, then address and port as numbers.
    ///
    /// ipvsadm 1.31 compares addresses by a 32-bit difference that wraps, so addresses more than 2³¹ apart
    /// (`10.0.0.1` and `192.168.0.1`) come out swapped there; here the order is numeric throughout.
    #[default]
    Sorted,
    /// As the owner gave them (`--nosort`).
    AsGiven,
}
