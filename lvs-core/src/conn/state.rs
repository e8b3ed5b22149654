//! The protocol state machines: which state a packet leads to.

/// State of a connection. The TCP names and numbers are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum State {
    /// TCP: nothing seen yet.
    #[default]
    None = 0,
    /// TCP: both sides talk.
    Established = 1,
    /// TCP: the server opened (FTP data).
    SynSent = 2,
    /// TCP: the client's SYN was seen.
    SynRecv = 3,
    /// TCP: one side has closed.
    FinWait = 4,
    /// TCP: both sides have closed.
    TimeWait = 5,
    /// TCP: reset.
    Close = 6,
    /// TCP: the client has closed.
    CloseWait = 7,
    /// TCP: waiting for the last ACK.
    LastAck = 8,
    /// TCP: listening.
    Listen = 9,
    /// TCP under defence: SYN and ACK seen, not yet believed.
    SynAck = 10,
    /// UDP: any packet.
    Udp = 16,
}
