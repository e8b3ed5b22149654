//! `lvs.Connection`.

use lvs_core::conn;
use pyo3::prelude::*;

use crate::arguments::seconds;

/// One connection of the table, as it was when it was listed.
///
/// Endpoints are text, "ADDRESS:PORT" with IPv6 addresses in brackets, as Director.explain() takes them.
#[pyclass(frozen, eq, module = "lvs")]
#[derive(Debug, PartialEq)]
pub(crate) struct Connection(conn::Connection);

impl Connection {
    pub(crate) fn new(connection: conn::Connection) -> Self {
        Self(connection)
    }
}

#[pymethods]
impl Connection {
    /// "TCP", "UDP" or "SCTP".
    #[getter]
    fn protocol(&self) -> String {
        self.0.protocol.to_string()
    }

    /// The client: CIP and port.
    #[getter]
    fn client(&self) -> String {
        self.0.client.to_string()
    }

    /// What the client addressed: VIP and port.
    #[getter]
    fn service(&self) -> String {
        self.0.service.to_string()
    }

    /// Where its packets go: RIP and port.
    #[getter]
    fn server(&self) -> String {
        self.0.server.to_string()
    }

    /// Whom the server answers: the client, or a local address and port in FULLNAT.
    #[getter]
    fn local(&self) -> String {
        self.0.local.to_string()
    }

    /// ipvsadm's word for the forwarding method: "Masq", "Route", "Tunnel", "FullNat", "Local" or "Bypass".
    #[getter]
    fn method(&self) -> &'static str {
        self.0.method.word()
    }

    /// The kernel's name of the state, such as "ESTABLISHED" or "UDP".
    #[getter]
    fn state(&self) -> &'static str {
        self.0.state.name()
    }

    /// Mark of the packet that opened it; 0 is none.
    #[getter]
    fn mark(&self) -> u32 {
        self.0.mark
    }

    /// Packets from the client so far.
    #[getter]
    fn packets(&self) -> u32 {
        self.0.packets
    }

    /// When it ends if no packet comes, in seconds on the clock of the caller's times.
    #[getter]
    fn expires(&self) -> f64 {
        seconds(self.0.expires)
    }

    fn __repr__(&self) -> String {
        let c = &self.0;
        format!("<Connection {} {} -> {} at {} {}>", c.protocol, c.client, c.service, c.server, c.state)
    }
}
