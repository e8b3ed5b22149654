//! Which connections a query is about.

use core::net::IpAddr;

use lvs_sched::{Endpoint, Protocol, ServerId};

use super::{ConnFlags, Connection, Method, State};
use crate::service::Family;

/// A condition on connections: all the fields that are set must hold. The default matches all.
///
/// # Examples
/// ```
/// use lvs_core::conn::{Filter, State};
/// let filter = Filter {
///     client: Some(("192.0.2.0".parse()?, 24)),
///     state: Some(State::Established),
///     ..Filter::default()
/// };
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Family of the client.
    pub family: Option<Family>,
    /// Protocol.
    pub protocol: Option<Protocol>,
    /// Network of the client: address and how many leading bits count (more than the address has: all).
    pub client: Option<(IpAddr, u8)>,
    /// VIP and port; port 0 stands for every port.
    pub service: Option<Endpoint>,
    /// RIP and port; port 0 stands for every port.
    pub server: Option<Endpoint>,
    /// Server record.
    pub server_id: Option<ServerId>,
    /// Forwarding method.
    pub method: Option<Method>,
    /// State.
    pub state: Option<State>,
    /// Flags that must all be set.
    pub flags: ConnFlags,
    /// Mark of the packet that created it.
    pub mark: Option<u32>,
}

impl Filter {
    /// Whether the condition holds for a connection.
    pub fn matches(&self, conn: &Connection) -> bool {
        holds(self.family, |family| family == Family::of(&conn.client.addr))
            && holds(self.protocol, |protocol| protocol == conn.protocol)
            && holds(self.client, |(network, bits)| is_in(conn.client.addr, network, bits))
            && holds(self.service, |service| is_at(conn.service, service))
            && holds(self.server, |server| is_at(conn.server, server))
            && holds(self.server_id, |id| id == conn.server_id)
            && holds(self.method, |method| method == conn.method)
            && holds(self.state, |state| state == conn.state)
            && conn.flags.contains(self.flags)
            && holds(self.mark, |mark| mark == conn.mark)
    }
}

fn holds<T>(condition: Option<T>, test: impl FnOnce(T) -> bool) -> bool {
    condition.is_none_or(test)
}

fn is_at(endpoint: Endpoint, wanted: Endpoint) -> bool {
    endpoint.addr == wanted.addr && (wanted.port == 0 || endpoint.port == wanted.port)
}

fn is_in(addr: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (difference, width) = match (addr, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()) << 96, 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    difference.leading_zeros() >= u32::from(bits.min(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_counts_its_leading_bits_only() {
        let net =
            |addr: &str, network: &str, bits| is_in(addr.parse().unwrap(), network.parse().unwrap(), bits);
        assert!(net("192.0.2.129", "192.0.2.200", 25));
        assert!(!net("192.0.2.129", "192.0.2.1", 25));
        assert!(net("1.2.3.4", "250.0.0.0", 0));
        assert!(net("1.2.3.4", "1.2.3.4", 200));
        assert!(!net("1.2.3.5", "1.2.3.4", 200));
        assert!(net("2001:db8::1", "2001:db8::ffff", 112));
        assert!(!net("2001:db8::1", "2001:db8::ffff", 128));
        assert!(!net("::", "0.0.0.0", 0));
    }

    #[test]
    fn port_zero_stands_for_every_port() {
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        assert!(is_at(endpoint("10.0.0.1:80"), endpoint("10.0.0.1:0")));
        assert!(!is_at(endpoint("10.0.0.1:80"), endpoint("10.0.0.1:81")));
        assert!(!is_at(endpoint("10.0.0.2:80"), endpoint("10.0.0.1:0")));
    }
}
