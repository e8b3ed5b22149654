//! What takes part in a Lab.

use core::any::Any;
use core::fmt;
use core::marker::PhantomData;
use core::net::IpAddr;

use crate::Instant;

/// A machine in the Lab: a host, a router, a director, a health monitor, a VRRP machine, a script.
///
/// It has the verbs of every machine here: packets and timeouts go in with the time, packets come out, and
/// [`poll_timeout`](Self::poll_timeout) says when to be called again. It must be deterministic.
///
/// # Examples
/// A node that sends every packet back to where it came from:
/// ```
/// use lvs_core::Instant;
/// use lvs_core::lab::{Node, Outbox};
///
/// struct Mirror;
/// impl Node for Mirror {
///     fn handle_packet(&mut self, mut packet: Vec<u8>, _now: Instant, out: &mut Outbox) {
///         let (src, dst) = (packet[12..16].to_vec(), packet[16..20].to_vec());
///         packet[12..16].copy_from_slice(&dst);
///         packet[16..20].copy_from_slice(&src);
///         out.send(std::net::IpAddr::from([packet[16], packet[17], packet[18], packet[19]]), packet);
///     }
/// }
/// ```
pub trait Node: Any + Send {
    /// Takes a packet that arrived on one of the node's cables. Packets may be damaged.
    fn handle_packet(&mut self, packet: Vec<u8>, now: Instant, out: &mut Outbox);

    /// When [`handle_timeout`](Self::handle_timeout) must be called; `None` = never, as things stand.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due at `now`.
    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        let _ = (now, out);
    }
}

/// What a node wants to be done.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(super) packets: Vec<(IpAddr, Vec<u8>)>,
    pub(super) announcements: Vec<IpAddr>,
}

impl Outbox {
    /// Sends an IP packet towards `next_hop`, whatever its destination says (routing, direct routing).
    ///
    /// A multicast or broadcast next hop reaches every other node of all networks of the sender.
    pub fn send(&mut self, next_hop: IpAddr, packet: Vec<u8>) {
        self.packets.push((next_hop, packet));
    }

    /// Takes an address over on all networks of the node, as a gratuitous ARP does: from now on what is sent
    /// towards it comes here.
    pub fn announce(&mut self, address: IpAddr) {
        self.announcements.push(address);
    }

    /// Packets sent but not yet fetched, with their next hops, oldest first; for nodes that wrap another.
    pub fn take_packets(&mut self) -> Vec<(IpAddr, Vec<u8>)> {
        core::mem::take(&mut self.packets)
    }
}

/// A node of type `T` in a [`Lab`](super::Lab).
pub struct NodeId<T> {
    pub(super) index: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> NodeId<T> {
    pub(super) const fn new(index: usize) -> Self {
        Self { index, kind: PhantomData }
    }

    /// The node's number, in the order of adding.
    pub const fn index(self) -> usize {
        self.index
    }
}

// Derived impls would ask for the same of `T`.
impl<T> Clone for NodeId<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for NodeId<T> {}

impl<T> PartialEq for NodeId<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<T> Eq for NodeId<T> {}

impl<T> fmt::Debug for NodeId<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.index)
    }
}
