//! The table as bytes: for a restart, an upgrade or a hand-over to another director.
//!
//! All numbers are in network order. Lifetimes are relative to the moment of the snapshot, so the clocks of the
//! two sides need not agree.
//!
//! | Bytes | Header |
//! |---|---|
//! | 0..4 | `LVSC` |
//! | 4..6 | version, 1 |
//! | 6..8 | 0 |
//! | 8..12 | number of records, which follow without gaps up to the end |
//!
//! | Bytes | Record |
//! |---|---|
//! | 0 | length of the record behind this byte |
//! | 1 | family of client, service and local address: 4 or 6 |
//! | 2 | protocol number: 6, 17 or 132 |
//! | 3 | [`State`] |
//! | 4 | [`Method`] |
//! | 5 | family of the server's address: 4 or 6 |
//! | 6..8 | [`ConnFlags`] |
//! | 8..12 | server id |
//! | 12..16 | mark |
//! | 16..20 | packets |
//! | 20..28 | nanoseconds left to live |
//! | 28.. | client, service, local, server: address (4 or 16 bytes) and port (2 bytes) each |
//!
//! What owners keep beside the table ([`Hot::cold`](super::Hot::cold), checksum deltas, the connections of a
//! template) is not in a snapshot: it follows from the connections.

use core::iter::FusedIterator;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use lvs_sched::{Endpoint, Instant, Protocol, ServerId};

use super::{ConnFlags, ConnTable, Connection, Method, State};
use crate::service::Family;

/// First bytes of a snapshot.
const MAGIC: [u8; 4] = *b"LVSC";

/// The one version that this code writes and reads.
const VERSION: u16 = 1;

/// Length of the header.
const HEADER: usize = 12;

/// Longest record: IPv6 on both sides.
const LONGEST_RECORD: usize = 28 + 4 * 18;

/// Left to live of a template that is over but has connections: what the sweep would give it.
const TEMPLATE_REARM: Duration = Duration::from_secs(60);

/// Why bytes are not a snapshot. Offsets count from the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes do not begin as a snapshot does.
    #[error("not a snapshot of connections: the first four bytes must be LVSC")]
    NotASnapshot,
    /// Written by another version of the format.
    #[error("snapshot version {found} at byte 4 is not known; this program reads version 1")]
    UnknownVersion {
        /// The version found.
        found: u16,
    },
    /// The bytes end too early.
    #[error("snapshot ends at byte {offset}, where {need} more bytes must follow")]
    Truncated {
        /// Length of what there is.
        offset: usize,
        /// How many bytes are missing at least.
        need: usize,
    },
    /// A field holds a value that means nothing.
    #[error("snapshot byte {offset}: {value} is not a valid {field}")]
    BadField {
        /// Where the field begins.
        offset: usize,
        /// What it should hold.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// More bytes than the header's number of records takes.
    #[error("snapshot has bytes behind its last record, from byte {offset} on")]
    TrailingBytes {
        /// Where the last record ends.
        offset: usize,
    },
}

impl ConnTable {
    /// Writes all live connections, in the order of their slots.
    ///
    /// # Examples
    /// ```
    /// # use lvs_core::conn::{Capacity, ConnTable};
    /// # use lvs_core::Instant;
    /// let now = Instant::from_secs(7);
    /// let old = ConnTable::new(Capacity { ipv4: 100, ipv6: 100 }, 1);
    /// let bytes = old.snapshot(now);
    /// let mut new = ConnTable::new(Capacity { ipv4: 100, ipv6: 100 }, 2);
    /// assert_eq!(new.restore(&bytes, now, |conn| Some(conn.server_id))?, 0);
    /// # Ok::<(), lvs_core::conn::SnapshotError>(())
    /// ```
    pub fn snapshot(&self, now: Instant) -> Vec<u8> {
        self.snapshot_with(now, |_| None)
    }

    /// As [`snapshot`](Self::snapshot); `address` gives the address of a server of the other family, which the
    /// table does not hold, so that the reader can tell by it which server is meant.
    pub fn snapshot_with(
        &self,
        now: Instant,
        mut address: impl FnMut(ServerId) -> Option<IpAddr>,
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.len() * (LONGEST_RECORD / 2 + 2));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
        let mut count: u32 = 0;
        for (id, mut conn) in self.iter() {
            let mut left = conn.expires - now;
            if left.is_zero() {
                if self.hot(id).is_none_or(|hot| hot.children == 0) {
                    continue;
                }
                left = TEMPLATE_REARM;
            }
            if conn.server.addr.is_unspecified()
                && let Some(addr) = address(conn.server_id)
            {
                conn.server.addr = addr;
            }
            write_record(&mut bytes, &conn, left);
            count += 1;
        }
        bytes[8..HEADER].copy_from_slice(&count.to_be_bytes());
        bytes
    }

    /// Inserts the connections of a snapshot. `server` says which server record a connection belongs to now,
    /// by its service and server endpoints; for `None` it is left out. So are connections that find the table
    /// full or their tuples taken. Returns how many were inserted.
    ///
    /// Owners that keep something beside each connection read [`parse_snapshot`] and insert themselves.
    ///
    /// # Errors
    /// The whole snapshot is checked first; on an error nothing is inserted.
    pub fn restore(
        &mut self,
        bytes: &[u8],
        now: Instant,
        mut server: impl FnMut(&Connection) -> Option<ServerId>,
    ) -> Result<usize, SnapshotError> {
        let mut inserted = 0;
        for mut conn in parse_snapshot(bytes, now)? {
            let Some(id) = server(&conn) else { continue };
            conn.server_id = id;
            inserted += usize::from(self.insert(&conn, now).is_ok());
        }
        Ok(inserted)
    }
}

/// Checks a whole snapshot and returns its connections; they end as long after `now` as they had left.
///
/// # Errors
/// See [`SnapshotError`].
pub fn parse_snapshot(bytes: &[u8], now: Instant) -> Result<SnapshotRecords<'_>, SnapshotError> {
    let mut reader = Reader { bytes, offset: 0 };
    if reader.take::<4>().ok() != Some(MAGIC) {
        return Err(SnapshotError::NotASnapshot);
    }
    let found = reader.u16()?;
    if found != VERSION {
        return Err(SnapshotError::UnknownVersion { found });
    }
    let reserved = reader.u16()?;
    if reserved != 0 {
        return Err(SnapshotError::BadField { offset: 6, field: "reserved field", value: reserved.into() });
    }
    let count = reader.u32()?;
    let records = SnapshotRecords { reader: reader.clone(), left: count, now };
    for _ in 0..count {
        reader.record(now)?;
    }
    if reader.offset != bytes.len() {
        return Err(SnapshotError::TrailingBytes { offset: reader.offset });
    }
    Ok(records)
}

/// The connections of a checked snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotRecords<'a> {
    reader: Reader<'a>,
    left: u32,
    now: Instant,
}

impl Iterator for SnapshotRecords<'_> {
    type Item = Connection;

    fn next(&mut self) -> Option<Connection> {
        self.left = self.left.checked_sub(1)?;
        self.reader.record(self.now).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for SnapshotRecords<'_> {}
impl FusedIterator for SnapshotRecords<'_> {}

fn write_record(bytes: &mut Vec<u8>, conn: &Connection, left: Duration) {
    let start = bytes.len();
    bytes.extend_from_slice(&[
        0,
        family_number(conn.client),
        conn.protocol.number(),
        conn.state as u8,
        conn.method as u8,
        family_number(conn.server),
    ]);
    bytes.extend_from_slice(&conn.flags.bits().to_be_bytes());
    bytes.extend_from_slice(&conn.server_id.0.to_be_bytes());
    bytes.extend_from_slice(&conn.mark.to_be_bytes());
    bytes.extend_from_slice(&conn.packets.to_be_bytes());
    bytes.extend_from_slice(&u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    for endpoint in [conn.client, conn.service, conn.local, conn.server] {
        match endpoint.addr {
            IpAddr::V4(addr) => bytes.extend_from_slice(&addr.octets()),
            IpAddr::V6(addr) => bytes.extend_from_slice(&addr.octets()),
        }
        bytes.extend_from_slice(&endpoint.port.to_be_bytes());
    }
    // At most `LONGEST_RECORD`, which fits a byte.
    bytes[start] = (bytes.len() - start - 1) as u8;
}

fn family_number(endpoint: Endpoint) -> u8 {
    match Family::of(&endpoint.addr) {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// Reads from the front; never beyond the end.
#[derive(Debug, Clone)]
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn record(&mut self, now: Instant) -> Result<Connection, SnapshotError> {
        let start = self.offset;
        let length = self.u8()?;
        let family = self.field("address family (4 or 6)", family_of)?;
        let protocol = self.field("protocol (6, 17 or 132)", Protocol::from_number)?;
        let state = self.field("state", State::from_number)?;
        let method = self.field("forwarding method", Method::from_number)?;
        let server_family = self.field("server's address family (4 or 6)", family_of)?;
        let bits = self.u16()?;
        let flags = ConnFlags::from_bits(bits).ok_or(SnapshotError::BadField {
            offset: start + 6,
            field: "set of flags",
            value: bits.into(),
        })?;
        let server_id = ServerId(self.u32()?);
        let mark = self.u32()?;
        let packets = self.u32()?;
        let left = Duration::from_nanos(u64::from_be_bytes(self.take()?));
        let client = self.endpoint(family)?;
        let service = self.endpoint(family)?;
        let local = self.endpoint(family)?;
        let server = self.endpoint(server_family)?;
        if usize::from(length) != self.offset - start - 1 {
            let field = "length of this record";
            return Err(SnapshotError::BadField { offset: start, field, value: length.into() });
        }
        Ok(Connection {
            protocol,
            client,
            service,
            server,
            local,
            method,
            server_id,
            state,
            flags,
            mark,
            packets,
            expires: now + left,
        })
    }

    fn endpoint(&mut self, family: Family) -> Result<Endpoint, SnapshotError> {
        let addr = match family {
            Family::V4 => Ipv4Addr::from(self.take::<4>()?).into(),
            Family::V6 => Ipv6Addr::from(self.take::<16>()?).into(),
        };
        Ok(Endpoint::new(addr, self.u16()?))
    }

    fn field<T>(&mut self, field: &'static str, read: impl Fn(u8) -> Option<T>) -> Result<T, SnapshotError> {
        let offset = self.offset;
        let value = self.u8()?;
        read(value).ok_or(SnapshotError::BadField { offset, field, value: value.into() })
    }

    fn u8(&mut self) -> Result<u8, SnapshotError> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, SnapshotError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, SnapshotError> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let Some(taken) = rest.first_chunk() else {
            return Err(SnapshotError::Truncated { offset: self.bytes.len(), need: N - rest.len() });
        };
        self.offset += N;
        Ok(*taken)
    }
}

fn family_of(number: u8) -> Option<Family> {
    match number {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Capacity;
    use proptest::prelude::*;

    /// A NAT connection 192.0.2.7:40000 to 198.51.100.1:80 at 10.0.0.2:8080 with 60 s left.
    #[rustfmt::skip]
    const ONE: [u8; 64] = [
        b'L', b'V', b'S', b'C', 0, 1, 0, 0, 0, 0, 0, 1,
        51, 4, 6, 1, 0, 4, 0x01, 0x00, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 9,
        0, 0, 0, 0x0D, 0xF8, 0x47, 0x58, 0x00,
        192, 0, 2, 7, 0x9C, 0x40, 198, 51, 100, 1, 0, 80,
        192, 0, 2, 7, 0x9C, 0x40, 10, 0, 0, 2, 0x1F, 0x90,
    ];

    #[test]
    fn the_layout_is_as_documented() {
        let mut table = table();
        table.insert(&one(), now()).unwrap();
        assert_eq!(table.snapshot(now()), ONE);
        assert_eq!(parse_snapshot(&ONE, now()).unwrap().collect::<Vec<_>>(), [one()]);
    }

    #[test]
    fn lifetimes_are_relative() {
        let mut table = table();
        let elsewhere = Instant::from_secs(1_000_000);
        assert_eq!(table.restore(&ONE, elsewhere, |conn| Some(conn.server_id)), Ok(1));
        let (_, conn) = table.iter().next().unwrap();
        assert_eq!(conn.expires, elsewhere + Duration::from_secs(60));
    }

    #[test]
    fn the_owner_names_the_servers_anew() {
        let mut table = table();
        assert_eq!(table.restore(&ONE, now(), |_| None), Ok(0));
        let count = table.restore(&ONE, now(), |conn| {
            (conn.server == one().server && conn.service == one().service).then_some(ServerId(77))
        });
        assert_eq!(count, Ok(1));
        assert_eq!(table.iter().next().unwrap().1.server_id, ServerId(77));
        assert_eq!(table.restore(&ONE, now(), |conn| Some(conn.server_id)), Ok(0), "the tuple is taken");
    }

    #[test]
    fn what_is_over_stays_behind_unless_it_has_connections() {
        let mut table = table();
        let id = table.insert(&Connection { flags: ConnFlags::TEMPLATE, ..one() }, now()).unwrap();
        let later = now() + Duration::from_secs(60);
        assert_eq!(parse_snapshot(&table.snapshot(later), later).unwrap().len(), 0);
        table.hot_mut(id).unwrap().children = 1;
        let bytes = table.snapshot(later);
        let conn = parse_snapshot(&bytes, later).unwrap().next().unwrap();
        assert_eq!(conn.expires, later + TEMPLATE_REARM);
    }

    #[test]
    fn a_server_of_the_other_family_is_written_by_its_address() {
        let mut table = table();
        let server: Endpoint = "[2001:db8::2]:8080".parse().unwrap();
        let conn = Connection { server, method: Method::Tunnel, ..one() };
        table.insert(&conn, now()).unwrap();
        let bytes = table.snapshot_with(now(), |id| (id == ServerId(3)).then_some(server.addr));
        assert_eq!(parse_snapshot(&bytes, now()).unwrap().next(), Some(conn));
    }

    #[test]
    fn errors_say_what_and_where() {
        let error = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = ONE.to_vec();
            change(&mut bytes);
            parse_snapshot(&bytes, now()).unwrap_err()
        };
        assert_eq!(error(&|bytes| bytes.clear()), SnapshotError::NotASnapshot);
        assert_eq!(error(&|bytes| bytes[0] = b'X'), SnapshotError::NotASnapshot);
        assert_eq!(error(&|bytes| bytes[5] = 2), SnapshotError::UnknownVersion { found: 2 });
        assert_eq!(error(&|bytes| bytes[11] = 2), SnapshotError::Truncated { offset: 64, need: 1 });
        assert_eq!(error(&|bytes| bytes[11] = 0), SnapshotError::TrailingBytes { offset: 12 });
        assert_eq!(error(&|bytes| bytes.truncate(63)), SnapshotError::Truncated { offset: 63, need: 1 });
        let fields = [(6, 0xFF), (12, 50), (13, 5), (14, 7), (15, 99), (16, 6), (17, 0), (18, 0x40)];
        for (place, value) in fields {
            let found = error(&|bytes| bytes[place] = value);
            let SnapshotError::BadField { offset, .. } = found else { panic!("{found:?}") };
            assert_eq!(offset, place);
        }
        assert_eq!(
            error(&|bytes| bytes[14] = 7).to_string(),
            "snapshot byte 14: 7 is not a valid protocol (6, 17 or 132)"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn restoring_a_snapshot_gives_the_same_connections(
            conns in proptest::collection::vec(connection(), 0..60),
            wait in 0_u64..100,
        ) {
            let mut old = table();
            for conn in &conns {
                let _ = old.insert(conn, now());
            }
            let later = now() + Duration::from_secs(wait);
            let bytes = old.snapshot(later);
            let mut new = ConnTable::new(old.capacity(), 99);
            let count = new.restore(&bytes, later, |conn| Some(conn.server_id)).unwrap();
            let live: Vec<_> = old.iter().map(|(_, conn)| conn).filter(|conn| conn.expires > later).collect();
            prop_assert_eq!(count, live.len());
            prop_assert_eq!(new.iter().map(|(_, conn)| conn).collect::<Vec<_>>(), live);
            prop_assert_eq!(new.snapshot(later), bytes);
        }

        #[test]
        fn damaged_bytes_never_panic(
            conns in proptest::collection::vec(connection(), 0..6),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut table = table();
            for conn in &conns {
                let _ = table.insert(conn, now());
            }
            let mut bytes = table.snapshot(now());
            prop_assert!(parse_snapshot(&bytes[..cut.index(bytes.len())], now()).is_err());
            for (place, value) in damage {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            let _ = table.restore(&bytes, now(), |conn| Some(conn.server_id));
        }

        #[test]
        fn any_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_snapshot(&tail, now());
            let bytes = [&ONE[..8], &tail[..]].concat();
            if let Ok(records) = parse_snapshot(&bytes, now()) {
                prop_assert_eq!(records.len(), records.count());
            }
        }
    }

    fn now() -> Instant {
        Instant::from_secs(100)
    }

    fn table() -> ConnTable {
        ConnTable::new(Capacity { ipv4: 64, ipv6: 64 }, 1)
    }

    fn one() -> Connection {
        Connection {
            protocol: Protocol::Tcp,
            client: "192.0.2.7:40000".parse().unwrap(),
            service: "198.51.100.1:80".parse().unwrap(),
            server: "10.0.0.2:8080".parse().unwrap(),
            local: "192.0.2.7:40000".parse().unwrap(),
            method: Method::Masquerade,
            server_id: ServerId(3),
            state: State::Established,
            flags: ConnFlags::INACTIVE,
            mark: 5,
            packets: 9,
            expires: now() + Duration::from_secs(60),
        }
    }

    fn connection() -> impl Strategy<Value = Connection> {
        let addresses = (any::<bool>(), any::<[u16; 4]>(), 0_u8..3);
        let codes = (0_u8..6, 0..State::ALL.len(), any::<u16>(), 0_usize..3);
        let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), 0_u64..200_000_000_000);
        (addresses, codes, numbers).prop_map(|((six, ports, host), codes, numbers)| {
            let endpoint = |net: u8, port| {
                let addr = match six {
                    false => Ipv4Addr::new(10, net, 0, host).into(),
                    true => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
                };
                Endpoint::new(addr, port)
            };
            Connection {
                protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][codes.3],
                client: endpoint(0, ports[0]),
                service: endpoint(1, ports[1]),
                server: endpoint(2, ports[2]),
                local: endpoint(3, ports[3]),
                method: Method::from_number(codes.0).unwrap(),
                server_id: ServerId(numbers.0),
                state: State::ALL[codes.1],
                flags: ConnFlags::from_bits_truncate(codes.2),
                mark: numbers.1,
                packets: numbers.2,
                expires: now() + Duration::from_nanos(numbers.3),
            }
        })
    }
}
