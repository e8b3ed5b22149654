//! The switches of `net.ipv4.vs.*`, by their kernel names and with their kernel defaults.

/// Behaviour switches.
///
/// # Examples
/// ```
/// use lvs_core::Sysctl;
/// let mut sysctl = Sysctl::default();
/// sysctl.set("net.ipv4.vs.sloppy_tcp", "1")?;
/// assert!(sysctl.sloppy_tcp);
/// # Ok::<(), lvs_core::SysctlError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// When a new SYN of a known client tuple is scheduled anew: 0 never, bit 0 when the old connection is in
    /// TIME_WAIT or CLOSE, bit 1 also in FIN_WAIT for DR and TUN. Default 1.
    pub conn_reuse_mode: u8,
    /// What becomes of a connection whose server was deleted: `false` its packets are dropped until it times
    /// out, `true` it ends at once and the packet is treated as new. Default `false`.
    pub expire_nodest_conn: bool,
    /// Whether a packet from a real server without a connection is answered with ICMP port unreachable
    /// instead of being forwarded untranslated. Default `false`.
    pub nat_icmp_send: bool,
    /// Whether LVS/TUN copies DF to the outer header and answers too large packets with ICMP. Default `true`.
    pub pmtu_disc: bool,
    /// Whether any TCP packet may open a connection, not only a SYN. Default `false`.
    pub sloppy_tcp: bool,
    /// Whether any SCTP packet may open a connection, not only an INIT. Default `false`.
    pub sloppy_sctp: bool,
}

impl Default for Sysctl {
    fn default() -> Self {
        Self {
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            nat_icmp_send: false,
            pmtu_disc: true,
            sloppy_tcp: false,
            sloppy_sctp: false,
        }
    }
}

/// A switch that could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// No such switch here.
    #[error("unknown sysctl '{name}': known are {}", Sysctl::NAMES.join(", "))]
    Unknown {
        /// The name given.
        name: String,
    },
    /// Not a value of this switch.
    #[error("{name} cannot be '{value}': expected {expected}")]
    Value {
        /// The switch.
        name: &'static str,
        /// The value given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl Sysctl {
    /// The names that [`set`](Self::set) knows, without their `net.ipv4.vs.` prefix.
    pub const NAMES: [&'static str; 6] =
        ["conn_reuse_mode", "expire_nodest_conn", "nat_icmp_send", "pmtu_disc", "sloppy_tcp", "sloppy_sctp"];

    /// Sets a switch by its kernel name, with or without `net.ipv4.vs.`.
    ///
    /// # Errors
    /// [`SysctlError`] for a name or value that is not known.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SysctlError> {
        let short = name.strip_prefix("net.ipv4.vs.").unwrap_or(name);
        let Some(&known) = Self::NAMES.iter().find(|&&known| known == short) else {
            return Err(SysctlError::Unknown { name: name.to_owned() });
        };
        let wrong = |expected| SysctlError::Value { name: known, value: value.to_owned(), expected };
        if known == "conn_reuse_mode" {
            self.conn_reuse_mode =
                value.parse().ok().filter(|mode| *mode <= 3).ok_or_else(|| wrong("0, 1, 2 or 3"))?;
            return Ok(());
        }
        let on = match value {
            "0" => false,
            "1" => true,
            _ => return Err(wrong("0 or 1")),
        };
        match known {
            "expire_nodest_conn" => self.expire_nodest_conn = on,
            "nat_icmp_send" => self.nat_icmp_send = on,
            "pmtu_disc" => self.pmtu_disc = on,
            "sloppy_tcp" => self.sloppy_tcp = on,
            _ => self.sloppy_sctp = on,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_set_and_errors_say_what_would_be_right() {
        for name in Sysctl::NAMES {
            let mut sysctl = Sysctl::default();
            let flipped = if sysctl == {
                let mut s = Sysctl::default();
                s.set(name, "1").unwrap();
                s
            } {
                "0"
            } else {
                "1"
            };
            sysctl.set(name, flipped).unwrap();
            assert_ne!(sysctl, Sysctl::default(), "{name} has an effect");
        }
        let error = Sysctl::default().set("net.ipv4.vs.sloppy", "1").unwrap_err().to_string();
        assert!(error.contains("sloppy_tcp"), "{error}");
        assert!(Sysctl::default().set("conn_reuse_mode", "4").is_err());
    }
}
