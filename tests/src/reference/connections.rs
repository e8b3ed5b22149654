//! The list of connections: which packets are theirs, how they open, advance and end, and what servers count.

use std::net::IpAddr;

use lvs_core::service::ForwardingMethod;
use lvs_core::{DropReason, Endpoint, Instant, Protocol};

use super::tcp::is_active;
use super::{Reference, Server, Way};

#[derive(Debug, Clone)]
pub(super) struct Conn {
    pub(super) protocol: Protocol,
    pub(super) client: Endpoint,
    pub(super) service: Endpoint,
    pub(super) server: Endpoint,
    pub(super) local: Endpoint,
    pub(super) method: ForwardingMethod,
    pub(super) server_id: u32,
    pub(super) state: &'static str,
    pub(super) no_output: bool,
    pub(super) active: bool,
    /// Packets from the client that left.
    pub(super) packets: u32,
    pub(super) expires: Instant,
}

impl Conn {
    /// Sender and receiver of the packets that belong to it.
    fn keys(&self) -> Vec<(Endpoint, Endpoint)> {
        let mut keys = vec![(self.client, self.service)];
        if matches!(self.method, ForwardingMethod::Masquerade | ForwardingMethod::FullNat) {
            keys.push((self.server, self.local));
        }
        keys
    }

    pub(super) fn has_key(&self, protocol: Protocol, src: Endpoint, dst: Endpoint) -> bool {
        self.protocol == protocol && self.keys().contains(&(src, dst))
    }
}

impl Reference {
    /// Whether no living connection has a key of `conn`; those that are over and have one are ended.
    pub(super) fn make_room(&mut self, conn: &Conn, now: Instant) -> bool {
        loop {
            let in_the_way = self.conns.iter().position(|other| {
                conn.protocol == other.protocol && conn.keys().iter().any(|key| other.keys().contains(key))
            });
            let Some(at) = in_the_way else { return true };
            if self.conns[at].expires > now {
                return false;
            }
            self.end(at);
        }
    }

    /// FULLNAT: the engine's choice when it is a good one, or why there is none.
    pub(super) fn local_of(
        &self,
        service: usize,
        server: Endpoint,
        protocol: Protocol,
        chosen: Option<Endpoint>,
    ) -> Result<Endpoint, DropReason> {
        let locals: Vec<IpAddr> = self.services[service].config.local_addresses.clone();
        let pool: Vec<IpAddr> =
            locals.into_iter().filter(|local| local.is_ipv4() == server.addr.is_ipv4()).collect();
        let is_taken = |local: Endpoint| {
            self.conns.iter().any(|conn| {
                conn.method == ForwardingMethod::FullNat
                    && (conn.protocol, conn.server, conn.local) == (protocol, server, local)
            })
        };
        let range = self.config.limits.local_ports.clone();
        let free = pool.iter().find_map(|addr| {
            range.clone().map(|port| Endpoint::new(*addr, port)).find(|local| !is_taken(*local))
        });
        let Some(free) = free else { return Err(DropReason::LocalPortsExhausted) };
        let Some(chosen) = chosen else { return Ok(free) };
        assert!(pool.contains(&chosen.addr), "{chosen} is not a local address of the service");
        assert!(range.contains(&chosen.port), "{chosen} has a port outside of {range:?}");
        assert!(!is_taken(chosen), "{chosen} towards {server} is in use");
        Ok(chosen)
    }

    pub(super) fn end(&mut self, at: usize) {
        let conn = self.conns.remove(at);
        let server = self.servers.get_mut(&conn.server_id).expect("a connection's server is kept");
        if conn.active {
            server.active -= 1;
        } else {
            server.inactive -= 1;
        }
        let (upper, lower) = (server.config.upper_threshold, server.config.lower_threshold);
        let left = server.active + server.inactive;
        let relieved = if lower != 0 { left < lower } else { left * 4 < upper * 3 };
        if upper == 0 || relieved {
            server.overloaded = false;
        }
    }

    pub(super) fn advance(&mut self, at: usize, way: Way, tcp: u8) {
        let conn = &mut self.conns[at];
        if way == Way::Out {
            conn.no_output = false;
        }
        if conn.protocol == Protocol::Tcp {
            conn.state = self.machine.next(conn.state, way, conn.no_output, tcp);
        }
        let server = self.servers.get_mut(&conn.server_id).expect("a connection's server is kept");
        match (conn.active, is_active(conn.state)) {
            (true, false) => (server.active, server.inactive) = (server.active - 1, server.inactive + 1),
            (false, true) => (server.active, server.inactive) = (server.active + 1, server.inactive - 1),
            _ => {}
        }
        conn.active = is_active(conn.state);
    }
}

impl Server {
    pub(super) fn count(&mut self, way: Way, bytes: u32) {
        let [_, in_packets, out_packets, in_bytes, out_bytes] = &mut self.numbers;
        match way {
            Way::In => (*in_packets, *in_bytes) = (*in_packets + 1, *in_bytes + u64::from(bytes)),
            Way::Out => (*out_packets, *out_bytes) = (*out_packets + 1, *out_bytes + u64::from(bytes)),
        }
    }
}
