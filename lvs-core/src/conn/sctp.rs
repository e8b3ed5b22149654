//! The SCTP state machine: which state a chunk leads to.
//!
//! The tables are the kernel's (`ip_vs_proto_sctp.c`), chunk types are those of RFC 9260, section 3.2.

use super::{Row, State};

/// The state after an SCTP packet, by the types of its first chunk and of its second one, if there is one.
///
/// The first chunk decides, except that an ABORT behind COOKIE ECHO or COOKIE ACK goes before it. DATA, SACK,
/// HEARTBEAT and whatever else has no row of its own share one. [`State::None`] counts as
/// [`State::SctpNone`]; a state that is not one of SCTP stays.
///
/// # Examples
/// ```
/// use lvs_core::conn::{Row, State, sctp_next};
/// const INIT: u8 = 1;
/// const COOKIE_ECHO: u8 = 10;
/// let state = sctp_next(State::None, Row::InOnly, INIT, None);
/// assert_eq!(state, State::SctpInit1);
/// assert_eq!(sctp_next(state, Row::InOnly, COOKIE_ECHO, None), State::SctpEstablished);
/// ```
pub fn sctp_next(state: State, row: Row, first: u8, second: Option<u8>) -> State {
    let chunk = match (first, second) {
        (COOKIE_ECHO | COOKIE_ACK, Some(ABORT)) => ABORT,
        _ => first,
    };
    let event = match chunk {
        1 => 1,
        2 => 2,
        COOKIE_ECHO => 3,
        COOKIE_ACK => 4,
        7 => 5,
        8 => 6,
        14 => 7,
        9 => 8,
        ABORT => 9,
        _ => 0,
    };
    let column = match state {
        State::None => 0,
        other => usize::from((other as u8).wrapping_sub(State::SctpNone as u8)),
    };
    *TABLE[row as usize * 10 + event].get(column).unwrap_or(&state)
}

const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

use State::{
    SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR,
    SctpCookieSent as CS, SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1,
    SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
};

/// Rows: IN, OUT, IN-ONLY with data, init, init ack, cookie echo, cookie ack, shutdown, shutdown ack, shutdown
/// complete, error, abort each. Columns: the states from `SctpNone` on.
#[rustfmt::skip]
const TABLE: [[State; 14]; 30] = [
    //NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
    [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
    [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
    [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
    [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
    [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
    [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
    [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
    [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
    [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
    [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
    [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
    [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: &str = "NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL";

    /// Chunk type, then the row; `CLx5` stands for five times `CL`.
    const IN_ROWS: &str = "\
        0 ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        1 I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
        2 CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
        10 CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
        11 ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
        7 SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
        8 CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
        14 CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
        9 CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
        6 CLx5 RJ CLx8";
    const OUT_ROWS: &str = "\
        0 ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        1 CWx8 ES CWx5
        2 CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
        10 CEx8 ES SS SR SA RJ CL
        11 ESx9 SS SR SA RJ CL
        7 SSx10 SR SA RJ CL
        8 SAx5 CW CO CE ES SA SA SA RJ CL
        14 CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        9 CLx5 CW CO CE ES SS SR SA RJ CL
        6 CL RJ CLx12";
    const IN_ONLY_ROWS: &str = "\
        0 ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
        1 I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
        2 CEx6 CO CE ES SS SR SA RJ CL
        10 ESx6 CO CE ES SS SR SA RJ CL
        11 ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
        7 SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
        8 CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
        14 CLx5 CW CO CE ES SS CL CL RJ CL
        9 CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        6 CLx5 RJ CLx8";

    #[test]
    fn every_cell_is_the_kernels() {
        let rows = [(Row::In, IN_ROWS), (Row::Out, OUT_ROWS), (Row::InOnly, IN_ONLY_ROWS)];
        for (row, lines) in rows {
            for line in lines.lines() {
                let mut words = line.split_whitespace();
                let chunk = words.next().unwrap().parse().unwrap();
                let cells: Vec<_> = words
                    .flat_map(|word| {
                        let (name, times) = word.split_once('x').unwrap_or((word, "1"));
                        std::iter::repeat_n(state(name), times.parse().unwrap())
                    })
                    .collect();
                assert_eq!(cells.len(), 14, "{line}");
                for (from, to) in STATES.split(' ').zip(cells) {
                    assert_eq!(sctp_next(state(from), row, chunk, None), to, "{row:?} {line}: from {from}");
                }
            }
        }
    }

    #[test]
    fn other_chunks_count_as_data() {
        for chunk in [3, 4, 5, 12, 13, 15, 0x80, 0xC1, 255] {
            for from in STATES.split(' ').map(state) {
                let data = sctp_next(from, Row::InOnly, 0, None);
                assert_eq!(sctp_next(from, Row::InOnly, chunk, None), data);
            }
        }
    }

    #[test]
    fn an_abort_decides_behind_a_cookie_only() {
        let next = |first| sctp_next(State::SctpEstablished, Row::In, first, Some(ABORT));
        assert_eq!(next(COOKIE_ECHO), State::SctpClosed);
        assert_eq!(next(COOKIE_ACK), State::SctpClosed);
        assert_eq!(next(0), State::SctpEstablished);
    }

    #[test]
    fn states_of_other_protocols_stay() {
        assert_eq!(sctp_next(State::Udp, Row::In, ABORT, None), State::Udp);
        assert_eq!(sctp_next(State::Established, Row::In, ABORT, None), State::Established);
        assert_eq!(sctp_next(State::None, Row::In, 1, None), State::SctpInit1);
    }

    #[test]
    fn nat_association() {
        let mut now = State::None;
        let steps = [
            (Row::InOnly, 1, "I1"),
            (Row::Out, 2, "CS"),
            (Row::In, 10, "CR"),
            (Row::Out, 11, "ES"),
            (Row::In, 7, "SR"),
            (Row::Out, 8, "SA"),
            (Row::In, 14, "CL"),
        ];
        for (row, chunk, expected) in steps {
            now = sctp_next(now, row, chunk, None);
            assert_eq!(now, state(expected));
        }
    }

    fn state(word: &str) -> State {
        let number = STATES.split(' ').position(|name| name == word).unwrap();
        State::from_number(State::SctpNone as u8 + number as u8).unwrap()
    }
}
