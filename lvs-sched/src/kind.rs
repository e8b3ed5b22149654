//! Scheduler names as ipvsadm writes them, and the way from a name to a scheduler.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::{
    LeastConnection, Maglev, MaglevHashing, RoundRobin, Scheduler, SourceHashing, WeightedLeastConnection,
    WeightedRoundRobin,
};

/// The algorithms of this crate.
///
/// # Examples
/// ```
/// use lvs_sched::{SchedulerFlags, SchedulerKind};
/// let kind: SchedulerKind = "mh".parse()?;
/// let flags = SchedulerFlags::parse(kind, "mh-port,mh-fallback")?;
/// assert_eq!(format!("{kind} ({})", flags.names(kind)), "mh (mh-fallback,mh-port)");
/// let scheduler = kind.build(flags);
///
/// let error = "wlcc".parse::<SchedulerKind>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "unknown scheduler `wlcc`, did you mean `wlc`? Expected rr, wrr, lc, wlc, sh, mh or maglev"
/// );
/// # Ok::<(), lvs_sched::ParseSchedulerError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SchedulerKind {
    /// `rr`: round robin.
    RoundRobin,
    /// `wrr`: weighted round robin.
    WeightedRoundRobin,
    /// `lc`: least connections.
    LeastConnection,
    /// `wlc`: weighted least connections (ipvsadm's default).
    WeightedLeastConnection,
    /// `sh`: source hashing.
    SourceHashing,
    /// `mh`: the kernel's Maglev hashing, bit for bit.
    MaglevHashing,
    /// `maglev`: the Maglev paper's table (65537 or 655373 slots) with weights. Not a kernel scheduler.
    Maglev,
}

impl SchedulerKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnection,
        Self::WeightedLeastConnection,
        Self::SourceHashing,
        Self::MaglevHashing,
        Self::Maglev,
    ];

    /// The name that ipvsadm and this crate use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnection => "lc",
            Self::WeightedLeastConnection => "wlc",
            Self::SourceHashing => "sh",
            Self::MaglevHashing => "mh",
            Self::Maglev => "maglev",
        }
    }

    /// Makes a scheduler of this kind without servers. `rr`, `wrr`, `lc` and `wlc` ignore flags, as in the kernel.
    ///
    /// `maglev` gets [`Maglev::DEFAULT_KEY`] and the small table; [`Maglev::with_key`] takes others.
    pub fn build(self, flags: SchedulerFlags) -> Box<dyn Scheduler> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::new()),
            Self::WeightedRoundRobin => Box::new(WeightedRoundRobin::new()),
            Self::LeastConnection => Box::new(LeastConnection::new()),
            Self::WeightedLeastConnection => Box::new(WeightedLeastConnection::new()),
            Self::SourceHashing => Box::new(SourceHashing::new(flags)),
            Self::MaglevHashing => Box::new(MaglevHashing::new(flags)),
            Self::Maglev => Box::new(Maglev::new(flags)),
        }
    }

    /// Returns the kind that an unknown word probably means: its common long name, or a name one slip away
    /// (two for long names). Kernel schedulers that this crate does not have are no slips.
    ///
    /// # Examples
    /// ```
    /// use lvs_sched::SchedulerKind;
    /// assert_eq!(SchedulerKind::suggest("WRR"), Some(SchedulerKind::WeightedRoundRobin));
    /// assert_eq!(SchedulerKind::suggest("magelv"), Some(SchedulerKind::Maglev));
    /// assert_eq!(SchedulerKind::suggest("round-robin"), Some(SchedulerKind::RoundRobin));
    /// assert_eq!(SchedulerKind::suggest("dh"), None);
    /// ```
    pub fn suggest(word: &str) -> Option<Self> {
        if word.len() > LONGEST_GUESSED_WORD {
            return None;
        }
        let word = word.trim().to_ascii_lowercase();
        if OTHER_KERNEL_SCHEDULERS.contains(&word.as_str()) {
            return None;
        }
        let letters: String = word.chars().filter(|letter| !matches!(letter, '-' | '_' | ' ')).collect();
        if let Some((_, kind)) = LONG_NAMES.iter().find(|(name, _)| *name == letters) {
            return Some(*kind);
        }
        let slips = |kind: &Self| (edit_distance(&letters, kind.name()), *kind);
        let allowed = |(distance, kind): &(usize, Self)| *distance <= (kind.name().len() / 3).max(1);
        Self::ALL
            .iter()
            .map(slips)
            .filter(allowed)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, kind)| kind)
    }

    /// What a flag bit is called with this scheduler.
    const fn flag_name(self, flag: SchedulerFlags) -> &'static str {
        match (self, flag) {
            (Self::SourceHashing, SchedulerFlags::FALLBACK) => "sh-fallback",
            (Self::SourceHashing, _) => "sh-port",
            (Self::MaglevHashing, SchedulerFlags::FALLBACK) => "mh-fallback",
            (Self::MaglevHashing, _) => "mh-port",
            (Self::Maglev, SchedulerFlags::FALLBACK) => "maglev-fallback",
            (Self::Maglev, _) => "maglev-port",
            (_, SchedulerFlags::FALLBACK) => "flag-1",
            (_, _) => "flag-2",
        }
    }
}

impl Default for SchedulerKind {
    /// `wlc`, as ipvsadm.
    fn default() -> Self {
        Self::WeightedLeastConnection
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = ParseSchedulerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| ParseSchedulerError::Kind { word: shortened(text), nearest: Self::suggest(text) })
    }
}

bitflags::bitflags! {
    /// Scheduler flags (`ipvsadm -b`): the kernel's SCHED1 and SCHED2 bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct SchedulerFlags: u8 {
        /// `sh-fallback`, `mh-fallback`: choose another server when the hashed one is unavailable.
        const FALLBACK = 1;
        /// `sh-port`, `mh-port`: hash the client's port too.
        const PORT = 2;
    }
}

impl SchedulerFlags {
    /// Reads the flags of a scheduler as ipvsadm does: words separated by commas; an empty text is no flag.
    ///
    /// `flag-1` (fallback) and `flag-2` (port) are the kernel's names with any scheduler.
    ///
    /// # Errors
    /// [`ParseSchedulerError::Flag`] for a word that is no flag of this scheduler.
    ///
    /// # Examples
    /// ```
    /// use lvs_sched::{SchedulerFlags, SchedulerKind};
    /// let flags = SchedulerFlags::parse(SchedulerKind::SourceHashing, "sh-port,sh-fallback")?;
    /// assert_eq!(flags, SchedulerFlags::all());
    /// assert!(SchedulerFlags::parse(SchedulerKind::MaglevHashing, "sh-port").is_err());
    /// # Ok::<(), lvs_sched::ParseSchedulerError>(())
    /// ```
    pub fn parse(kind: SchedulerKind, text: &str) -> Result<Self, ParseSchedulerError> {
        if text.trim().is_empty() {
            return Ok(Self::empty());
        }
        text.split(',').map(str::trim).try_fold(Self::empty(), |flags, word| {
            let flag = match word {
                "flag-1" => Self::FALLBACK,
                "flag-2" => Self::PORT,
                _ => [Self::FALLBACK, Self::PORT]
                    .into_iter()
                    .find(|flag| kind.flag_name(*flag) == word)
                    .ok_or_else(|| ParseSchedulerError::Flag { word: shortened(word), kind })?,
            };
            Ok(flags | flag)
        })
    }

    /// Returns the flags as `ipvsadm -L` prints them in parentheses and `ipvsadm -S` behind `-b`: in the order
    /// of their bits, separated by commas, empty when there is none.
    ///
    /// # Examples
    /// ```
    /// use lvs_sched::{SchedulerFlags, SchedulerKind};
    /// assert_eq!(SchedulerFlags::all().names(SchedulerKind::MaglevHashing), "mh-fallback,mh-port");
    /// assert_eq!(SchedulerFlags::PORT.names(SchedulerKind::RoundRobin), "flag-2");
    /// assert_eq!(SchedulerFlags::empty().names(SchedulerKind::MaglevHashing), "");
    /// ```
    pub fn names(self, kind: SchedulerKind) -> String {
        let names: Vec<&str> = self.iter().map(|flag| kind.flag_name(flag)).collect();
        names.join(",")
    }
}

/// A scheduler name or flag that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSchedulerError {
    /// Not a scheduler's name.
    #[error("unknown scheduler `{word}`{} Expected rr, wrr, lc, wlc, sh, mh or maglev", Guess(*nearest))]
    Kind {
        /// The word as it was written, cut after 32 characters.
        word: String,
        /// What it probably means.
        nearest: Option<SchedulerKind>,
    },
    /// Not a flag of this scheduler.
    #[error("scheduler {kind} has no flag `{word}`: expected {} or {}",
        kind.flag_name(SchedulerFlags::FALLBACK), kind.flag_name(SchedulerFlags::PORT))]
    Flag {
        /// The word as it was written, cut after 32 characters.
        word: String,
        /// The scheduler that the flag was given to.
        kind: SchedulerKind,
    },
}

/// The middle of a message about an unknown word.
struct Guess(Option<SchedulerKind>);

impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(kind) => write!(f, ", did you mean `{kind}`?"),
            None => f.write_str("."),
        }
    }
}

/// Longer words are not guessed at: the work grows with their length.
const LONGEST_GUESSED_WORD: usize = 64;
/// Characters of an unknown word that an error repeats.
const LONGEST_REPEATED_WORD: usize = 32;

const OTHER_KERNEL_SCHEDULERS: [&str; 9] = ["sed", "nq", "dh", "lblc", "lblcr", "fo", "ovf", "twos", "none"];

const LONG_NAMES: [(&str, SchedulerKind); 13] = [
    ("roundrobin", SchedulerKind::RoundRobin),
    ("robin", SchedulerKind::RoundRobin),
    ("weightedroundrobin", SchedulerKind::WeightedRoundRobin),
    ("leastconn", SchedulerKind::LeastConnection),
    ("leastconnection", SchedulerKind::LeastConnection),
    ("leastconnections", SchedulerKind::LeastConnection),
    ("weightedleastconn", SchedulerKind::WeightedLeastConnection),
    ("weightedleastconnection", SchedulerKind::WeightedLeastConnection),
    ("weightedleastconnections", SchedulerKind::WeightedLeastConnection),
    ("source", SchedulerKind::SourceHashing),
    ("sourcehash", SchedulerKind::SourceHashing),
    ("sourcehashing", SchedulerKind::SourceHashing),
    ("maglevhashing", SchedulerKind::MaglevHashing),
];

fn shortened(word: &str) -> String {
    match word.char_indices().nth(LONGEST_REPEATED_WORD) {
        Some((end, _)) => word[..end].to_owned(),
        None => word.to_owned(),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i);
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = core::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_and_kinds_belong_together() {
        for kind in SchedulerKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!(SchedulerKind::default().name(), "wlc");
    }

    #[test]
    fn flags_read_what_they_print() {
        for kind in SchedulerKind::ALL {
            for bits in 0..=3 {
                let flags = SchedulerFlags::from_bits_truncate(bits);
                assert_eq!(SchedulerFlags::parse(kind, &flags.names(kind)), Ok(flags));
            }
            assert_eq!(SchedulerFlags::parse(kind, "flag-1,flag-2"), Ok(SchedulerFlags::all()));
        }
    }

    #[test]
    fn foreign_flags_are_refused_with_the_right_ones() {
        let error = SchedulerFlags::parse(SchedulerKind::MaglevHashing, "mh-port,sh-port").unwrap_err();
        assert_eq!(error.to_string(), "scheduler mh has no flag `sh-port`: expected mh-fallback or mh-port");
        let error = SchedulerFlags::parse(SchedulerKind::RoundRobin, "sh-port").unwrap_err();
        assert_eq!(error.to_string(), "scheduler rr has no flag `sh-port`: expected flag-1 or flag-2");
        assert!(SchedulerFlags::parse(SchedulerKind::SourceHashing, "sh-port,,sh-fallback").is_err());
    }

    #[test]
    fn unknown_names_are_refused_with_a_guess() {
        let message = |word: &str| word.parse::<SchedulerKind>().map_err(|error| error.to_string());
        assert_eq!(
            message("wrrr"),
            Err("unknown scheduler `wrrr`, did you mean `wrr`? Expected rr, wrr, lc, wlc, sh, mh or maglev"
                .into())
        );
        assert_eq!(
            message("sed"),
            Err("unknown scheduler `sed`. Expected rr, wrr, lc, wlc, sh, mh or maglev".into())
        );
        for (word, nearest) in
            [("wcl", "wlc"), ("least_conn", "lc"), ("Maglev", "maglev"), ("maglef", "maglev")]
        {
            assert_eq!(SchedulerKind::suggest(word).map(SchedulerKind::name), Some(nearest), "{word}");
        }
        assert_eq!(SchedulerKind::suggest("nonsense"), None);
    }

    #[test]
    fn an_endless_word_is_cut() {
        let word = "ü".repeat(100_000);
        let Err(ParseSchedulerError::Kind { word, nearest: None }) = word.parse::<SchedulerKind>() else {
            panic!("no guess at such a word")
        };
        assert_eq!(word.chars().count(), LONGEST_REPEATED_WORD);
    }

    #[test]
    fn distances() {
        for (a, b, distance) in
            [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("wlc", "wcl", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
