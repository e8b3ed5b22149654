//! `lvs.Verdict`.

use core::net::IpAddr;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What the director says of a packet.
///
/// kind tells which of the other fields are there:
///
///     "transmit"  packet and next_hop: send the rewritten packet on
///     "reply"     packet and next_hop: send this answer to the packet
///     "pass"      packet: it is not the director's, give it to the host
///     "queued"    none: what becomes of it comes from Director.poll_transmit()
///     "drop"      reason
#[pyclass(frozen, eq, module = "lvs")]
#[derive(Debug)]
pub(crate) struct Verdict {
    verdict: lvs_core::Verdict,
    packet: Option<Py<PyBytes>>,
}

impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        let same_packet = || {
            Python::attach(|py| match (&self.packet, &other.packet) {
                (Some(a), Some(b)) => a.as_bytes(py) == b.as_bytes(py),
                (a, b) => a.is_none() && b.is_none(),
            })
        };
        self.verdict == other.verdict && same_packet()
    }
}

impl Verdict {
    /// A verdict and the bytes that it speaks of.
    pub(crate) fn new(py: Python<'_>, verdict: lvs_core::Verdict, bytes: &[u8]) -> Self {
        let leaves = match verdict {
            lvs_core::Verdict::Transmit { .. }
            | lvs_core::Verdict::Reply { .. }
            | lvs_core::Verdict::Pass => true,
            lvs_core::Verdict::Queued | lvs_core::Verdict::Drop(_) => false,
        };
        Self { verdict, packet: leaves.then(|| PyBytes::new(py, bytes).unbind()) }
    }
}

#[pymethods]
impl Verdict {
    /// "transmit", "reply", "pass", "queued" or "drop".
    #[getter]
    fn kind(&self) -> &'static str {
        self.verdict.name()
    }

    /// The whole IP packet that leaves, or None.
    #[getter]
    fn packet(&self, py: Python<'_>) -> Option<Py<PyBytes>> {
        self.packet.as_ref().map(|packet| packet.clone_ref(py))
    }

    /// The address that the packet must reach next, or None.
    #[getter]
    fn next_hop(&self) -> Option<IpAddr> {
        self.verdict.next_hop()
    }

    /// Why the packet was dropped, such as "no-server", or None.
    #[getter]
    fn reason(&self) -> Option<&'static str> {
        match self.verdict {
            lvs_core::Verdict::Drop(reason) => Some(reason.name()),
            _ => None,
        }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let kind = self.verdict.name();
        let len = self.packet.as_ref().map_or(0, |packet| packet.as_bytes(py).len());
        match (self.verdict.next_hop(), self.reason()) {
            (Some(hop), _) => format!("<Verdict {kind} {len} bytes to {hop}>"),
            (None, Some(reason)) => format!("<Verdict {kind} {reason}>"),
            (None, None) if self.packet.is_some() => format!("<Verdict {kind} {len} bytes>"),
            (None, None) => format!("<Verdict {kind}>"),
        }
    }
}
