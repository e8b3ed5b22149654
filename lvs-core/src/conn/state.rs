//! The protocol state machines: which state a packet leads to.
//!
//! Here is TCP. The tables are the kernel's (`ip_vs_proto_tcp.c`), one row per direction and event, one column per state.

use core::fmt;

use super::{ConnFlags, Direction};
use crate::wire::TcpFlags;

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
    /// A persistence template one of whose connections was established.
    Assured = 17,
    /// SCTP: nothing seen yet.
    SctpNone = 32,
    /// SCTP: the client's INIT was seen.
    SctpInit1 = 33,
    /// SCTP: INIT was seen again.
    SctpInit = 34,
    /// SCTP: the server's INIT ACK was seen.
    SctpCookieSent = 35,
    /// SCTP: the client echoed the cookie.
    SctpCookieReplied = 36,
    /// SCTP: the server's INIT was seen.
    SctpCookieWait = 37,
    /// SCTP: the client's INIT ACK was seen.
    SctpCookie = 38,
    /// SCTP: the server echoed the cookie.
    SctpCookieEchoed = 39,
    /// SCTP: both sides talk.
    SctpEstablished = 40,
    /// SCTP: the server's SHUTDOWN was seen.
    SctpShutdownSent = 41,
    /// SCTP: the client's SHUTDOWN was seen.
    SctpShutdownReceived = 42,
    /// SCTP: the server's SHUTDOWN ACK was seen.
    SctpShutdownAckSent = 43,
    /// SCTP: the association was refused.
    SctpRejected = 44,
    /// SCTP: over.
    SctpClosed = 45,
}

impl State {
    /// All states.
    pub const ALL: [Self; 27] = [
        Self::None,
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::SynAck,
        Self::Udp,
        Self::Assured,
        Self::SctpNone,
        Self::SctpInit1,
        Self::SctpInit,
        Self::SctpCookieSent,
        Self::SctpCookieReplied,
        Self::SctpCookieWait,
        Self::SctpCookie,
        Self::SctpCookieEchoed,
        Self::SctpEstablished,
        Self::SctpShutdownSent,
        Self::SctpShutdownReceived,
        Self::SctpShutdownAckSent,
        Self::SctpRejected,
        Self::SctpClosed,
    ];

    /// The state of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// The kernel's name, as `ipvsadm -Lc` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None | Self::SctpNone => "NONE",
            Self::Established | Self::SctpEstablished => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::SynAck => "SYNACK",
            Self::Udp => "UDP",
            Self::Assured => "ASSURED",
            Self::SctpInit1 => "INIT1",
            Self::SctpInit => "INIT",
            Self::SctpCookieSent => "C-SENT",
            Self::SctpCookieReplied => "C-REPLIED",
            Self::SctpCookieWait => "C-WAIT",
            Self::SctpCookie => "COOKIE",
            Self::SctpCookieEchoed => "C-ECHOED",
            Self::SctpShutdownSent => "S-SENT",
            Self::SctpShutdownReceived => "S-RECEIVED",
            Self::SctpShutdownAckSent => "S-ACK-SENT",
            Self::SctpRejected => "REJECTED",
            Self::SctpClosed => "CLOSED",
        }
    }

    /// Whether a connection in this state counts as active at its server (`tcp_state_active_table`; of
    /// SCTP the established state alone). UDP flows and templates never do.
    #[inline]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Established | Self::SynSent | Self::SynRecv | Self::SynAck | Self::SctpEstablished
        )
    }

    /// Whether this is a handshake that nobody has finished: what a flood fills a table with.
    #[inline]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SynRecv | Self::SynAck | Self::SctpInit1 | Self::SctpInit)
    }
}

/// The kernel's name.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which part of a state table a packet reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Row {
    /// From the client; packets from the server have been seen.
    In,
    /// From the server.
    Out,
    /// From the client, and none from the server has been seen (always so in DR and TUN).
    InOnly,
}

impl Row {
    /// Chooses the row. A packet from the server clears `NO_OUTPUT`, which is the caller's to do.
    #[inline]
    pub const fn of(direction: Direction, flags: ConnFlags) -> Self {
        match direction {
            Direction::Out => Self::Out,
            Direction::In if flags.contains(ConnFlags::NO_OUTPUT) => Self::InOnly,
            Direction::In => Self::In,
        }
    }
}

/// The state after a TCP segment. RST goes before SYN, SYN before FIN, FIN before ACK; a segment with none of
/// them, or a state that is not one of TCP, changes nothing.
///
/// `secure` selects the table of the `secure_tcp` defence, in which a handshake is not believed before the
/// server's ACK.
///
/// # Examples
/// ```
/// use lvs_core::conn::{Row, State, tcp_next};
/// use lvs_core::wire::TcpFlags;
/// let state = tcp_next(State::None, Row::InOnly, TcpFlags::SYN, false);
/// assert_eq!(state, State::SynRecv);
/// assert_eq!(tcp_next(state, Row::InOnly, TcpFlags::ACK, false), State::Established);
/// ```
#[inline]
pub fn tcp_next(state: State, row: Row, flags: TcpFlags, secure: bool) -> State {
    let event = if flags.contains(TcpFlags::RST) {
        3
    } else if flags.contains(TcpFlags::SYN) {
        0
    } else if flags.contains(TcpFlags::FIN) {
        1
    } else if flags.contains(TcpFlags::ACK) {
        2
    } else {
        return state;
    };
    let table = if secure { &SECURE } else { &NORMAL };
    *table[row as usize * 4 + event].get(state as usize).unwrap_or(&state)
}

/// Rows: IN, OUT, IN-ONLY with syn, fin, ack, rst each. Columns: the states 0 to 10.
type Table = [[State; 11]; 12];

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};

#[rustfmt::skip]
const NORMAL: Table = [
    //NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
    [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

#[rustfmt::skip]
const SECURE: Table = [
    //NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
    [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: &str = "NO ES SS SR FW TW CL CW LA LI SA";

    /// The table in words, as the kernel's source writes it down.
    const ROWS: &str = "\
        In syn SR ES ES SR SR SR SR SR SR SR SR
        In fin CL CW SS TW TW TW CL CW LA LI TW
        In ack ES ES SS ES FW TW CL CW CL LI ES
        In rst CL CL CL SR CL CL CL CL LA LI SR
        Out syn SS ES SS SR SS SS SS SS SS LI SR
        Out fin TW FW SS TW FW TW CL TW LA LI TW
        Out ack ES ES SS ES FW TW CL CW LA ES ES
        Out rst CL CL SS CL CL TW CL CL CL CL CL
        InOnly syn SR ES ES SR SR SR SR SR SR SR SR
        InOnly fin CL FW SS TW FW TW CL CW LA LI TW
        InOnly ack ES ES SS ES FW TW CL CW CL LI ES
        InOnly rst CL CL CL SR CL CL CL CL LA LI CL";

    /// Where `secure_tcp` differs: row, event, column, state.
    const SECURE_CELLS: &str = "\
        In syn SA SA
        In fin SA SA
        In ack SA SA
        In ack SR SR
        In rst SA CL
        Out syn SR SA
        Out syn SA SA
        InOnly syn NO SA
        InOnly syn FW SA
        InOnly syn TW SA
        InOnly syn CL SA
        InOnly syn CW SA
        InOnly syn LA SA
        InOnly syn LI SA
        InOnly syn SA SA";

    #[test]
    fn every_cell_is_the_kernels() {
        for line in ROWS.lines() {
            let mut words = line.split_whitespace();
            let (row, event) = (row(words.next().unwrap()), event(words.next().unwrap()));
            let mut cells = 0;
            for (from, to) in STATES.split(' ').zip(words) {
                let next = tcp_next(state(from), row, event, false);
                assert_eq!(next, state(to), "{line}: from {from}");
                cells += 1;
            }
            assert_eq!(cells, 11);
        }
    }

    #[test]
    fn secure_tcp_differs_in_these_cells_only() {
        let cell = |wanted: (Row, TcpFlags, State)| {
            SECURE_CELLS.lines().find_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let here = (row(words[0]), event(words[1]), state(words[2]));
                (here == wanted).then(|| state(words[3]))
            })
        };
        for row in [Row::In, Row::Out, Row::InOnly] {
            for flags in [TcpFlags::SYN, TcpFlags::FIN, TcpFlags::ACK, TcpFlags::RST] {
                for from in STATES.split(' ').map(state) {
                    let expected = cell((row, flags, from)).unwrap_or(tcp_next(from, row, flags, false));
                    assert_eq!(tcp_next(from, row, flags, true), expected, "{row:?} {flags:?} {from}");
                }
            }
        }
    }

    #[test]
    fn nat_client_close_then_reuse() {
        walk(
            false,
            &[
                (Row::InOnly, "syn", "SR"),
                (Row::Out, "syn", "SR"),
                (Row::In, "ack", "ES"),
                (Row::In, "fin", "CW"),
                (Row::Out, "ack", "CW"),
                (Row::Out, "fin", "TW"),
                (Row::In, "ack", "TW"),
                (Row::In, "syn", "SR"),
            ],
        );
    }

    #[test]
    fn nat_server_close() {
        walk(
            false,
            &[
                (Row::InOnly, "syn", "SR"),
                (Row::Out, "syn", "SR"),
                (Row::In, "ack", "ES"),
                (Row::Out, "fin", "FW"),
                (Row::In, "ack", "FW"),
                (Row::In, "fin", "TW"),
                (Row::Out, "ack", "TW"),
            ],
        );
    }

    #[test]
    fn resets() {
        walk(false, &[(Row::InOnly, "syn", "SR"), (Row::Out, "syn", "SR"), (Row::Out, "rst", "CL")]);
        // A client's reset in SYN_RECV is not believed: the server's answer decides.
        walk(false, &[(Row::InOnly, "syn", "SR"), (Row::InOnly, "rst", "SR")]);
        walk(false, &[(Row::InOnly, "syn", "SR"), (Row::Out, "syn", "SR"), (Row::In, "rst", "SR")]);
    }

    #[test]
    fn early_client_fin() {
        walk(false, &[(Row::InOnly, "syn", "SR"), (Row::Out, "syn", "SR"), (Row::In, "fin", "TW")]);
    }

    #[test]
    fn dr_close() {
        walk(
            false,
            &[
                (Row::InOnly, "syn", "SR"),
                (Row::InOnly, "ack", "ES"),
                (Row::InOnly, "fin", "FW"),
                (Row::InOnly, "ack", "FW"),
            ],
        );
    }

    #[test]
    fn secure_tcp_believes_the_servers_ack() {
        walk(
            true,
            &[
                (Row::In, "syn", "SR"),
                (Row::Out, "syn", "SA"),
                (Row::In, "ack", "SA"),
                (Row::In, "fin", "SA"),
                (Row::Out, "ack", "ES"),
            ],
        );
        walk(true, &[(Row::InOnly, "syn", "SA"), (Row::InOnly, "ack", "ES")]);
    }

    #[test]
    fn reset_goes_first_and_no_flag_changes_nothing() {
        let next = |flags| tcp_next(State::Established, Row::In, flags, false);
        assert_eq!(next(TcpFlags::RST | TcpFlags::SYN | TcpFlags::FIN | TcpFlags::ACK), State::Close);
        assert_eq!(next(TcpFlags::SYN | TcpFlags::FIN), State::Established);
        assert_eq!(next(TcpFlags::FIN | TcpFlags::ACK), State::CloseWait);
        assert_eq!(tcp_next(State::None, Row::In, TcpFlags::PSH | TcpFlags::URG, false), State::None);
        assert_eq!(tcp_next(State::Udp, Row::In, TcpFlags::RST, false), State::Udp);
    }

    #[test]
    fn the_row_depends_on_direction_and_flag() {
        assert_eq!(Row::of(Direction::In, ConnFlags::empty()), Row::In);
        assert_eq!(Row::of(Direction::In, ConnFlags::NO_OUTPUT), Row::InOnly);
        assert_eq!(Row::of(Direction::Out, ConnFlags::NO_OUTPUT), Row::Out);
    }

    #[test]
    fn active_states() {
        let active: Vec<_> = State::ALL.into_iter().filter(|state| state.is_active()).collect();
        let tcp = [State::Established, State::SynSent, State::SynRecv, State::SynAck];
        assert_eq!(active, [&tcp[..], &[State::SctpEstablished]].concat());
    }

    #[test]
    fn numbers_lead_back() {
        for state in State::ALL {
            assert_eq!(State::from_number(state as u8), Some(state));
        }
        assert_eq!(State::from_number(11), None);
        assert_eq!(format!("{:>9}|{}", State::SynRecv, State::SynAck), " SYN_RECV|SYNACK");
    }

    fn walk(secure: bool, steps: &[(Row, &str, &str)]) {
        let mut now = State::None;
        for (number, (row, flags, expected)) in steps.iter().enumerate() {
            now = tcp_next(now, *row, event(flags), secure);
            assert_eq!(now, state(expected), "step {number}");
        }
    }

    fn row(word: &str) -> Row {
        match word {
            "In" => Row::In,
            "Out" => Row::Out,
            "InOnly" => Row::InOnly,
            _ => panic!("{word}"),
        }
    }

    fn event(word: &str) -> TcpFlags {
        match word {
            "syn" => TcpFlags::SYN,
            "fin" => TcpFlags::FIN,
            "ack" => TcpFlags::ACK,
            "rst" => TcpFlags::RST,
            _ => panic!("{word}"),
        }
    }

    fn state(word: &str) -> State {
        let number = STATES.split(' ').position(|name| name == word).unwrap();
        State::from_number(number as u8).unwrap()
    }
}
