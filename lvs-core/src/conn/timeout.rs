//! How long a connection lives in each state without a packet.

use core::time::Duration;

use super::State;
use crate::service::TimeoutSettings;

/// Timeouts per state. The default is the kernel's (`tcp_timeouts`, `udp_timeouts` of `ip_vs_proto_*.c`).
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use lvs_core::conn::{State, Timeouts};
/// use lvs_core::service::TimeoutSettings;
/// let mut timeouts = Timeouts::default();
/// assert_eq!(timeouts.of(State::Established), Duration::from_secs(900));
/// // ipvsadm --set 1000 0 0
/// timeouts.apply(TimeoutSettings { tcp: Duration::from_secs(1000), ..TimeoutSettings::default() });
/// assert_eq!(timeouts.of(State::Established), Duration::from_secs(1000));
/// assert_eq!(timeouts.of(State::FinWait), Duration::from_secs(120));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Of the states in the order of [`State::ALL`].
    by_state: [Duration; State::ALL.len()],
}

impl Timeouts {
    /// What a new connection gets before its first packet sets its state (`ip_vs_conn_new`).
    pub const INITIAL: Duration = Duration::from_secs(3);

    /// Of a template for which nothing else was said: `ipvsadm -p` without a value.
    pub const PERSISTENCE: Duration = Duration::from_secs(360);

    /// The lifetime after a packet that led to this state.
    #[inline]
    pub fn of(&self, state: State) -> Duration {
        self.by_state[position(state)]
    }

    /// Sets the lifetime of one state.
    pub fn set(&mut self, state: State, timeout: Duration) {
        self.by_state[position(state)] = timeout;
    }

    /// Takes over what `ipvsadm --set` gives: established, FIN_WAIT and UDP; zero leaves a value as it is.
    pub fn apply(&mut self, settings: TimeoutSettings) {
        let values = [
            (State::Established, settings.tcp),
            (State::FinWait, settings.tcp_fin),
            (State::Udp, settings.udp),
        ];
        for (state, timeout) in values {
            if !timeout.is_zero() {
                self.set(state, timeout);
            }
        }
    }

    /// The three values that `ipvsadm -L --timeout` shows.
    pub fn settings(&self) -> TimeoutSettings {
        TimeoutSettings {
            tcp: self.of(State::Established),
            tcp_fin: self.of(State::FinWait),
            udp: self.of(State::Udp),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { by_state: State::ALL.map(kernel) }
    }
}

/// Index of a state in `by_state`.
#[inline]
const fn position(state: State) -> usize {
    match state {
        State::Udp => 11,
        State::Assured => 12,
        other if other as u8 >= State::SctpNone as u8 => 13 + (other as u8 - State::SctpNone as u8) as usize,
        tcp => tcp as usize,
    }
}

const fn kernel(state: State) -> Duration {
    match state {
        State::None | State::SctpNone => Duration::from_secs(2),
        State::Established | State::SctpEstablished => Duration::from_secs(900),
        State::SynSent | State::FinWait | State::TimeWait | State::Listen | State::SynAck => {
            Duration::from_secs(120)
        }
        State::SynRecv | State::CloseWait => Duration::from_secs(60),
        State::Close => Duration::from_secs(10),
        State::LastAck => Duration::from_secs(30),
        State::Udp => Duration::from_secs(300),
        State::Assured => Timeouts::PERSISTENCE,
        State::SctpInit1 | State::SctpRejected => Duration::from_secs(4),
        State::SctpInit
        | State::SctpCookieSent
        | State::SctpCookieReplied
        | State::SctpCookieWait
        | State::SctpCookie
        | State::SctpCookieEchoed
        | State::SctpShutdownSent
        | State::SctpShutdownReceived
        | State::SctpShutdownAckSent
        | State::SctpClosed => Duration::from_secs(61),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_kernels() {
        let timeouts = Timeouts::default();
        let seconds = State::ALL.map(|state| timeouts.of(state).as_secs());
        assert_eq!(seconds[..13], [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300, 360]);
        assert_eq!(seconds[13..], [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61]);
    }

    #[test]
    fn positions_follow_the_list_of_states() {
        for (index, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(position(state), index);
        }
    }

    #[test]
    fn zero_leaves_a_value() {
        let mut timeouts = Timeouts::default();
        let secs = Duration::from_secs;
        timeouts.apply(TimeoutSettings { tcp: secs(0), tcp_fin: secs(30), udp: secs(0) });
        let expected = TimeoutSettings { tcp: secs(900), tcp_fin: secs(30), udp: secs(300) };
        assert_eq!(timeouts.settings(), expected);
    }
}
