//! `lvs.Director`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use lvs_core::conn::{Capacity, Filter};
use lvs_core::ipvsadm::{rules, save};
use lvs_core::wire::Tuple;
use lvs_core::{Config, DEFAULT_MTU, Environment, Instant, Limits, MIN_MTU_V4, PassPolicy, Sysctl};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::arguments::{address, instant, parse, seconds};
use crate::connection::Connection;
use crate::errors::{argument, broken, refused, unreadable};
use crate::packets::{Arena, Source};
use crate::verdict::Verdict;

/// The most connections per address family that a script may ask for: above, a typing error would reserve
/// more memory than machines have, which ends the process.
const MAX_CONNECTIONS: u32 = 1 << 24;

/// A Linux Virtual Server director without I/O: one packet in, one verdict out.
///
/// Times are seconds on any one clock, given by the caller; nothing here reads a clock. A time that is left
/// out is the latest that the director was given, at first 0. The same seed, rules, packets and times give the
/// same verdicts. All methods may be called from several threads; they take turns.
///
/// seed: secret of the hash tables.
/// connections: how many fit into the table, per address family; the memory is reserved at once.
/// addresses: the director's own; the first of each family is the source of its tunnels and ICMP errors.
/// mtu: of every link, in bytes.
/// answer: whether the director answers as a host would (RST, port unreachable, echo reply) and drops what
///     is not for it. Without, such packets get the verdict "pass".
/// sysctl: switches of net.ipv4.vs by name, such as {"expire_nodest_conn": 1}.
///
/// Raises ArgumentError when one of them cannot be.
#[pyclass(frozen, module = "lvs")]
#[derive(Debug)]
pub(crate) struct Director(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    director: lvs_core::Director,
    /// The latest time given.
    clock: Instant,
    arena: Arena,
}

impl Inner {
    /// The time of a call, which the clock follows when it is later.
    fn at(&mut self, now: Option<f64>) -> PyResult<Instant> {
        let now = now.map_or(Ok(self.clock), instant)?;
        self.clock = self.clock.max(now);
        Ok(now)
    }
}

impl Director {
    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Inner>> {
        self.0.lock_py_attached(py).map_err(|_| broken())
    }
}

#[pymethods]
impl Director {
    #[new]
    #[pyo3(signature = (*, seed=0, connections=65536, addresses=Vec::new(), mtu=1500, answer=true, sysctl=None),
           text_signature = "(*, seed=0, connections=65536, addresses=(), mtu=1500, answer=True, sysctl=None)")]
    fn new(
        seed: u64,
        connections: u32,
        addresses: Vec<Bound<'_, PyAny>>,
        mtu: u16,
        answer: bool,
        sysctl: Option<BTreeMap<String, i64>>,
    ) -> PyResult<Self> {
        const { assert!(DEFAULT_MTU == 1500, "the signature above says the same") };
        if connections > MAX_CONNECTIONS {
            return Err(argument(format_args!(
                "{connections} connections are too many: expected at most {MAX_CONNECTIONS}"
            )));
        }
        if mtu < MIN_MTU_V4 {
            return Err(argument(format_args!(
                "an mtu of {mtu} bytes is too small: expected at least {MIN_MTU_V4}"
            )));
        }
        let mut switches = Sysctl::default();
        for (name, value) in sysctl.unwrap_or_default() {
            switches.set(&name, &value.to_string()).map_err(argument)?;
        }
        let config = Config {
            limits: Limits {
                connections: Capacity { ipv4: connections, ipv6: connections },
                ..Limits::default()
            },
            sysctl: switches,
            environment: Environment {
                addresses: addresses.iter().map(address).collect::<PyResult<_>>()?,
                mtu,
                ..Environment::default()
            },
            pass: if answer { PassPolicy::Answer } else { PassPolicy::Pass },
            seed,
            ..Config::default()
        };
        let director = lvs_core::Director::new(config);
        Ok(Self(Mutex::new(Inner { director, clock: Instant::ZERO, arena: Arena::default() })))
    }

    /// Carries out rules as `ipvsadm -R` reads them, one a line: all of them or none.
    ///
    /// They add to the rules that are there; begin with a line `-C` to start afresh.
    ///
    /// Raises RuleError, whose errors name each line that is wrong.
    #[pyo3(signature = (text, now=None))]
    fn restore(&self, py: Python<'_>, text: &str, now: Option<f64>) -> PyResult<()> {
        let lines = rules::parse(text).map_err(unreadable)?;
        let commands: Vec<_> = lines.iter().map(|line| line.command.clone()).collect();
        let mut inner = self.lock(py)?;
        let now = inner.at(now)?;
        inner.director.apply(&commands, now).map_err(|error| refused(&error, &lines))
    }

    /// Returns the rules as text that restore() and `ipvsadm -R` read.
    fn save(&self, py: Python<'_>) -> PyResult<String> {
        Ok(save::commands(&self.lock(py)?.director.configuration()))
    }

    /// Takes one IP packet through the director.
    ///
    /// packet: from its IP header on, as anything that holds bytes; it is copied, not changed.
    /// mark: the packet's firewall mark, for services by mark (`-f`); 0 is none.
    ///
    /// No packet raises an exception, whatever is in it: what cannot be gets the verdict "drop".
    #[pyo3(signature = (packet, now=None, *, mark=0))]
    fn process(
        &self,
        py: Python<'_>,
        packet: &Bound<'_, PyAny>,
        now: Option<f64>,
        mark: u32,
    ) -> PyResult<Verdict> {
        let source = Source::of(packet)?;
        let mut guard = self.lock(py)?;
        let inner = &mut *guard;
        let now = inner.at(now)?;
        inner.arena.clear();
        inner.arena.push(py, &source)?;
        let mut packet = inner.arena.first().expect("one packet was pushed");
        packet.meta.mark = mark;
        let verdict = inner.director.process(&mut packet, now);
        Ok(Verdict::new(py, verdict, packet.bytes()))
    }

    /// Takes packets through the director in order, as process() would one by one, and returns their verdicts.
    ///
    /// Other Python threads run while the engine does.
    #[pyo3(signature = (packets, now=None))]
    fn process_many(
        &self,
        py: Python<'_>,
        packets: &Bound<'_, PyAny>,
        now: Option<f64>,
    ) -> PyResult<Vec<Verdict>> {
        // The packets are copied before the lock is taken: the iterable may be code that uses this director.
        let mut arena = Arena::default();
        for packet in packets.try_iter()? {
            arena.push(py, &Source::of(&packet?)?)?;
        }
        let mut packets = arena.packets();
        let mut verdicts = Vec::with_capacity(packets.len());
        let mut guard = self.lock(py)?;
        let inner = &mut *guard;
        let now = inner.at(now)?;
        py.detach(|| inner.director.process_batch(&mut packets, now, &mut verdicts));
        drop(guard);
        Ok(verdicts
            .into_iter()
            .zip(&packets)
            .map(|(verdict, packet)| Verdict::new(py, verdict, packet.bytes()))
            .collect())
    }

    /// Returns a packet that leaves beside those given in, or None when there are no more.
    ///
    /// These are what became of packets with the verdict "queued": call it until it returns None.
    fn poll_transmit(&self, py: Python<'_>) -> PyResult<Option<Verdict>> {
        let outgoing = self.lock(py)?.director.poll_transmit();
        Ok(outgoing.map(|outgoing| Verdict::new(py, outgoing.verdict, &outgoing.packet)))
    }

    /// Returns when handle_timeout() has something to do, in seconds; None is never, as things stand.
    fn poll_timeout(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        Ok(self.lock(py)?.director.poll_timeout().map(seconds))
    }

    /// Ends connections and fragments whose time is over, in a bounded number of steps.
    ///
    /// Call it again while poll_timeout() is not after now, or call advance().
    fn handle_timeout(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        let mut inner = self.lock(py)?;
        let now = inner.at(Some(now))?;
        inner.director.handle_timeout(now);
        Ok(())
    }

    /// Moves the time on: ends every connection and fragment whose time is over.
    fn advance(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        let mut guard = self.lock(py)?;
        let inner = &mut *guard;
        let now = inner.at(Some(now))?;
        py.detach(|| {
            while inner.director.poll_timeout().is_some_and(|due| due <= now) {
                inner.director.handle_timeout(now);
            }
        });
        Ok(())
    }

    /// Returns the table of `ipvsadm -Ln`.
    fn table(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.lock(py)?.director.table())
    }

    /// Returns the connections, those whose time is over but that no advance() has ended yet included.
    fn connections(&self, py: Python<'_>) -> PyResult<Vec<Connection>> {
        let inner = self.lock(py)?;
        let all = inner.director.connections(Filter::default());
        Ok(all.map(|(_, connection)| Connection::new(connection)).collect())
    }

    /// What became of the packets given in.
    ///
    /// received, transmitted, replied, passed, queued and dropped count packets by verdict; released those that
    /// left through poll_transmit(); expired and evicted count connections. Each drop reason has its own number
    /// too, named "drop:REASON".
    #[getter]
    fn counters(&self, py: Python<'_>) -> PyResult<BTreeMap<String, u64>> {
        let inner = self.lock(py)?;
        let counters = inner.director.counters();
        let numbers = [
            ("received", counters.received),
            ("transmitted", counters.transmitted),
            ("replied", counters.replied),
            ("passed", counters.passed),
            ("queued", counters.queued),
            ("dropped", counters.dropped_total()),
            ("released", counters.released),
            ("expired", counters.expired),
            ("evicted", counters.evicted),
        ];
        let numbers = numbers.into_iter().map(|(name, count)| (name.to_owned(), count));
        let drops = counters.drops().map(|(reason, count)| (format!("drop:{reason}"), count));
        Ok(numbers.chain(drops).collect())
    }

    /// Returns where a flow's next packet would go and why, one decision a string; nothing changes.
    ///
    /// protocol: "tcp", "udp" or "sctp".
    /// client, service: "ADDRESS:PORT", IPv6 addresses in brackets.
    ///
    /// Raises ArgumentError when one of them cannot be.
    #[pyo3(signature = (protocol, client, service, now=None, *, mark=0))]
    fn explain(
        &self,
        py: Python<'_>,
        protocol: &str,
        client: &str,
        service: &str,
        now: Option<f64>,
        mark: u32,
    ) -> PyResult<Vec<String>> {
        let tuple = Tuple {
            protocol: parse("protocol", protocol)?,
            src: parse("client", client)?,
            dst: parse("service", service)?,
        };
        let inner = self.lock(py)?;
        let now = now.map_or(Ok(inner.clock), instant)?;
        let explanation = inner.director.explain(tuple, mark, now);
        Ok(explanation.steps.iter().map(ToString::to_string).collect())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let inner = self.lock(py)?;
        let director = &inner.director;
        Ok(format!(
            "<Director {} services, {} connections>",
            director.services().len(),
            director.connection_count()
        ))
    }
}
