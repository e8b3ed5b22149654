//! The options of a rule line, and a line cut into words and options. What they mean is not decided here.

use super::nearest::nearest;

/// An option of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opt {
    AddService,
    EditService,
    DeleteService,
    Clear,
    AddServer,
    EditServer,
    DeleteServer,
    Zero,
    Set,
    Tcp,
    Udp,
    Sctp,
    Mark,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Engine,
    OnePacket,
    SchedFlags,
    LocalAddress,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    FullNat,
    Weight,
    UpperThreshold,
    LowerThreshold,
    TunnelType,
    TunnelPort,
    TunnelNoChecksum,
    TunnelChecksum,
    TunnelRemoteChecksum,
}

/// Options of which a line takes only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Command,
    Service,
    Forwarding,
    Checksum,
}

/// How many words belong to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// `-w 1`, `-w1`, `-w=1`, `--weight 1`, `--weight=1`
    One,
    /// The same, or nothing when the next word is an option.
    Optional,
    /// Up to three words.
    Three,
}

/// An option's spellings.
pub(super) struct Spec {
    pub(super) opt: Opt,
    short: Option<char>,
    long: &'static str,
    takes: Takes,
}

const fn spec(opt: Opt, short: char, long: &'static str, takes: Takes) -> Spec {
    Spec { opt, short: Some(short), long, takes }
}

const fn long(opt: Opt, long: &'static str, takes: Takes) -> Spec {
    Spec { opt, short: None, long, takes }
}

const SPECS: &[Spec] = &[
    spec(Opt::AddService, 'A', "add-service", Takes::Nothing),
    spec(Opt::EditService, 'E', "edit-service", Takes::Nothing),
    spec(Opt::DeleteService, 'D', "delete-service", Takes::Nothing),
    spec(Opt::Clear, 'C', "clear", Takes::Nothing),
    spec(Opt::AddServer, 'a', "add-server", Takes::Nothing),
    spec(Opt::EditServer, 'e', "edit-server", Takes::Nothing),
    spec(Opt::DeleteServer, 'd', "delete-server", Takes::Nothing),
    spec(Opt::Zero, 'Z', "zero", Takes::Nothing),
    long(Opt::Set, "set", Takes::Three),
    spec(Opt::Tcp, 't', "tcp-service", Takes::One),
    spec(Opt::Udp, 'u', "udp-service", Takes::One),
    long(Opt::Sctp, "sctp-service", Takes::One),
    spec(Opt::Mark, 'f', "fwmark-service", Takes::One),
    spec(Opt::Ipv6, '6', "ipv6", Takes::Nothing),
    spec(Opt::Scheduler, 's', "scheduler", Takes::One),
    spec(Opt::Persistent, 'p', "persistent", Takes::Optional),
    spec(Opt::Netmask, 'M', "netmask", Takes::One),
    long(Opt::Engine, "pe", Takes::One),
    spec(Opt::OnePacket, 'o', "ops", Takes::Nothing),
    spec(Opt::SchedFlags, 'b', "sched-flags", Takes::One),
    long(Opt::LocalAddress, "laddr", Takes::One),
    spec(Opt::RealServer, 'r', "real-server", Takes::One),
    spec(Opt::Gatewaying, 'g', "gatewaying", Takes::Nothing),
    spec(Opt::Ipip, 'i', "ipip", Takes::Nothing),
    spec(Opt::Masquerading, 'm', "masquerading", Takes::Nothing),
    long(Opt::FullNat, "fullnat", Takes::Nothing),
    spec(Opt::Weight, 'w', "weight", Takes::One),
    spec(Opt::UpperThreshold, 'x', "u-threshold", Takes::One),
    spec(Opt::LowerThreshold, 'y', "l-threshold", Takes::One),
    long(Opt::TunnelType, "tun-type", Takes::One),
    long(Opt::TunnelPort, "tun-port", Takes::One),
    long(Opt::TunnelNoChecksum, "tun-nocsum", Takes::Nothing),
    long(Opt::TunnelChecksum, "tun-csum", Takes::Nothing),
    long(Opt::TunnelRemoteChecksum, "tun-remcsum", Takes::Nothing),
];

/// Options of ipvsadm that list, save or run daemons: no part of a rule.
const NOT_RULES_LONG: &[&str] = &[
    "list",
    "save",
    "restore",
    "help",
    "version",
    "start-daemon",
    "stop-daemon",
    "syncid",
    "sync-maxlen",
    "mcast-interface",
    "mcast-group",
    "mcast-port",
    "mcast-ttl",
    "connection",
    "timeout",
    "daemon",
    "stats",
    "rate",
    "exact",
    "thresholds",
    "persistent-conn",
    "tun-info",
    "sort",
    "nosort",
    "numeric",
];
const NOT_RULES_SHORT: &[char] = &['L', 'l', 'S', 'R', 'h', 'v', 'c', 'n'];

impl Opt {
    /// The option as messages name it: `-w`, `--fullnat`.
    pub(super) fn name(self) -> String {
        match SPECS.iter().find(|spec| spec.opt == self) {
            Some(Spec { short: Some(letter), .. }) => format!("-{letter}"),
            Some(Spec { long, .. }) => format!("--{long}"),
            None => String::new(),
        }
    }

    /// The options that exclude this one.
    pub(super) fn group(self) -> Option<Group> {
        match self {
            Self::AddService
            | Self::EditService
            | Self::DeleteService
            | Self::Clear
            | Self::AddServer
            | Self::EditServer
            | Self::DeleteServer
            | Self::Zero
            | Self::Set => Some(Group::Command),
            Self::Tcp | Self::Udp | Self::Sctp | Self::Mark => Some(Group::Service),
            Self::Gatewaying | Self::Ipip | Self::Masquerading | Self::FullNat => Some(Group::Forwarding),
            Self::TunnelNoChecksum | Self::TunnelChecksum | Self::TunnelRemoteChecksum => {
                Some(Group::Checksum)
            }
            _ => None,
        }
    }

    /// The commands that take this option.
    fn commands(self) -> &'static [Self] {
        match self {
            Self::Scheduler
            | Self::Persistent
            | Self::Netmask
            | Self::Engine
            | Self::OnePacket
            | Self::SchedFlags
            | Self::LocalAddress => &[Self::AddService, Self::EditService],
            Self::RealServer => &[Self::AddServer, Self::EditServer, Self::DeleteServer],
            Self::Tcp | Self::Udp | Self::Sctp | Self::Mark | Self::Ipv6 => &[
                Self::AddService,
                Self::EditService,
                Self::DeleteService,
                Self::AddServer,
                Self::EditServer,
                Self::DeleteServer,
                Self::Zero,
            ],
            _ => &[Self::AddServer, Self::EditServer],
        }
    }

    /// The commands that take this option, for messages: `-A, -E`.
    pub(super) fn commands_text(self) -> String {
        self.commands().iter().map(|command| command.name()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a line with this command may have this option.
    pub(super) fn goes_with(self, command: Self) -> bool {
        self.commands().contains(&command)
    }

    /// What the option's value looks like.
    fn value_text(self) -> &'static str {
        match self {
            Self::Tcp | Self::Udp | Self::Sctp => "ADDRESS:PORT",
            Self::Mark => "a firewall mark: 1 to 4294967295",
            Self::RealServer => "ADDRESS or ADDRESS:PORT",
            Self::Scheduler => "a scheduler: -s wlc",
            Self::SchedFlags => "flags: -b mh-port",
            Self::Netmask => "255.255.255.0, or a prefix length with IPv6",
            Self::LocalAddress => "addresses, separated by commas",
            Self::TunnelType => "ipip, gue or gre",
            Self::TunnelPort => "a UDP port",
            _ => "a number",
        }
    }
}

/// A word of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// The first character's position in the line, in characters from 1.
    pub(super) column: usize,
}

/// An option of a line with the words that belong to it.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) opt: Opt,
    pub(super) column: usize,
    pub(super) values: Vec<Word<'a>>,
}

/// What is wrong at a column and what would be right.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) column: usize,
    pub(super) message: String,
    pub(super) expected: String,
}

impl Wrong {
    pub(super) fn new(column: usize, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { column, message: message.into(), expected: expected.into() }
    }
}

/// Words longer than this are cut in messages.
const LONGEST_QUOTE: usize = 48;

/// A word of the rules as messages quote it: in backquotes, cut when long, control characters escaped.
pub(super) fn quote(text: &str) -> String {
    let cut: String = text.chars().take(LONGEST_QUOTE).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST_QUOTE).is_some() { format!("`{cut}…`") } else { format!("`{cut}`") }
}

/// Cuts a line into words at white space; a word that begins with `#` ends the line.
pub(super) fn words(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut begun: Option<(usize, usize)> = None;
    for (column, (at, letter)) in (1..).zip(line.char_indices()) {
        match begun {
            None if letter == '#' => return words,
            None if !letter.is_whitespace() => begun = Some((at, column)),
            Some((start, column)) if letter.is_whitespace() => {
                words.push(Word { text: &line[start..at], column });
                begun = None;
            }
            _ => {}
        }
    }
    if let Some((start, column)) = begun {
        words.push(Word { text: &line[start..], column });
    }
    words
}

/// Sorts the words of a line into options and their values.
pub(super) fn options<'a>(words: &[Word<'a>], wrong: &mut Vec<Wrong>) -> Vec<Given<'a>> {
    let mut scan = Scan { words, next: 0, given: Vec::new(), wrong };
    while let Some(word) = scan.take() {
        if let Some(body) = word.text.strip_prefix("--") {
            scan.long(word, body);
        } else if word.text.len() > 1 && word.text.starts_with('-') {
            scan.cluster(word);
        } else {
            let expected = match nearest(word.text, SPECS.iter().map(|spec| spec.long)) {
                Some(name) => format!("--{name}"),
                None => "an option; each option but -p takes the words it needs".to_owned(),
            };
            let message = format!("{} belongs to no option", quote(word.text));
            scan.wrong.push(Wrong::new(word.column, message, expected));
        }
    }
    scan.given
}

struct Scan<'s, 'a> {
    words: &'s [Word<'a>],
    next: usize,
    given: Vec<Given<'a>>,
    wrong: &'s mut Vec<Wrong>,
}

impl<'a> Scan<'_, 'a> {
    fn take(&mut self) -> Option<Word<'a>> {
        let word = self.words.get(self.next).copied();
        self.next += 1;
        word
    }

    /// `--name`, `--name value`, `--name=value`
    fn long(&mut self, word: Word<'a>, body: &'a str) {
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => {
                let column = word.column + 2 + name.chars().count() + 1;
                (name, Some(Word { text: value, column }))
            }
            None => (body, None),
        };
        match SPECS.iter().find(|spec| spec.long == name) {
            Some(spec) if spec.takes == Takes::Nothing && attached.is_some() => {
                self.wrong.push(Wrong::new(
                    word.column,
                    format!("--{name} takes no value"),
                    format!("--{name} alone"),
                ));
            }
            Some(spec) => self.push(spec, word.column, attached),
            None if NOT_RULES_LONG.contains(&name) => self.not_a_rule(word.column, &format!("--{name}")),
            None => {
                let expected = match nearest(name, SPECS.iter().map(|spec| spec.long)) {
                    Some(near) => format!("--{near}"),
                    None => "an option of ipvsadm -R, --fullnat or --laddr".to_owned(),
                };
                let written = format!("--{name}");
                self.unknown(word.column, &written, expected);
            }
        }
    }

    /// `-w`, `-w1`, `-w=1`, and several letters in one word: `-At`.
    fn cluster(&mut self, word: Word<'a>) {
        for (index, (at, letter)) in word.text.char_indices().enumerate().skip(1) {
            // The dash belongs to the first letter.
            let column = if index == 1 { word.column } else { word.column + index };
            let Some(spec) = SPECS.iter().find(|spec| spec.short == Some(letter)) else {
                if NOT_RULES_SHORT.contains(&letter) {
                    self.not_a_rule(column, &format!("-{letter}"));
                } else {
                    let other_case = if letter.is_lowercase() {
                        letter.to_ascii_uppercase()
                    } else {
                        letter.to_ascii_lowercase()
                    };
                    let known = |c: char| SPECS.iter().any(|spec| spec.short == Some(c));
                    let expected = match nearest(&word.text[1..], SPECS.iter().map(|spec| spec.long)) {
                        Some(near) => format!("--{near}"),
                        None if known(other_case) => format!("-{other_case}"),
                        None => "an option of ipvsadm -R".to_owned(),
                    };
                    self.unknown(column, &format!("-{letter}"), expected);
                }
                return;
            };
            if spec.takes == Takes::Nothing {
                self.push(spec, column, None);
                continue;
            }
            let rest = &word.text[at + letter.len_utf8()..];
            let attached = if rest.is_empty() {
                None
            } else if let Some(value) = rest.strip_prefix('=') {
                Some(Word { text: value, column: word.column + index + 2 })
            } else {
                Some(Word { text: rest, column: word.column + index + 1 })
            };
            self.push(spec, column, attached);
            return;
        }
    }

    /// Gives an option the words it takes.
    fn push(&mut self, spec: &Spec, column: usize, attached: Option<Word<'a>>) {
        let mut values: Vec<Word<'a>> = attached.into_iter().collect();
        let wanted = match spec.takes {
            Takes::Nothing => 0,
            Takes::One | Takes::Optional => 1,
            Takes::Three => 3,
        };
        while values.len() < wanted {
            let Some(word) = self.words.get(self.next).copied() else { break };
            let is_option = match spec.takes {
                // A value may begin with a dash (`-w -1` is a wrong weight); a known option is none.
                Takes::One => is_known_option(word.text),
                _ => word.text.starts_with('-'),
            };
            if is_option {
                break;
            }
            self.next += 1;
            values.push(word);
        }
        if spec.takes == Takes::One && values.is_empty() {
            let name = spec.opt.name();
            self.wrong.push(Wrong::new(column, format!("{name} has no value"), spec.opt.value_text()));
        }
        self.given.push(Given { opt: spec.opt, column, values });
    }

    /// Passes over what is probably the value of an option that was not understood: one mistake, one error.
    fn skip_value(&mut self) {
        if self.words.get(self.next).is_some_and(|word| !word.text.starts_with('-')) {
            self.next += 1;
        }
    }

    fn unknown(&mut self, column: usize, written: &str, expected: String) {
        self.skip_value();
        self.wrong.push(Wrong::new(column, format!("unknown option {}", quote(written)), expected));
    }

    fn not_a_rule(&mut self, column: usize, written: &str) {
        self.skip_value();
        self.wrong.push(Wrong::new(
            column,
            format!("{} is no part of a rule", quote(written)),
            "a line that adds, edits, deletes or zeroes services and servers, or --set",
        ));
    }
}

fn is_known_option(text: &str) -> bool {
    if let Some(body) = text.strip_prefix("--") {
        let name = body.split('=').next().unwrap_or(body);
        return SPECS.iter().any(|spec| spec.long == name);
    }
    let mut letters = text.chars();
    letters.next() == Some('-') && letters.next().is_some_and(|c| SPECS.iter().any(|s| s.short == Some(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_their_column_in_characters() {
        let found: Vec<(&str, usize)> = words(" -s\tß  rr # x").iter().map(|w| (w.text, w.column)).collect();
        assert_eq!(found, [("-s", 2), ("ß", 5), ("rr", 8)]);
        assert!(words("# -A").is_empty());
        assert_eq!(words("a#b").len(), 1, "only a word's first character begins a comment");
    }

    #[test]
    fn a_cluster_ends_with_the_option_that_takes_a_value() {
        let mut wrong = Vec::new();
        let line = words("-At10.0.0.1:80 -w=3 -p -o");
        let given = options(&line, &mut wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
        let seen: Vec<_> =
            given.iter().map(|g| (g.opt, g.column, g.values.first().map(|v| (v.text, v.column)))).collect();
        assert_eq!(
            seen,
            [
                (Opt::AddService, 1, None),
                (Opt::Tcp, 3, Some(("10.0.0.1:80", 4))),
                (Opt::Weight, 16, Some(("3", 19))),
                (Opt::Persistent, 21, None),
                (Opt::OnePacket, 24, None),
            ]
        );
    }

    #[test]
    fn long_words_are_cut_in_messages() {
        assert_eq!(quote("a\u{1b}"), "`a\\u{1b}`");
        assert_eq!(quote(&"x".repeat(1000)).chars().count(), LONGEST_QUOTE + 3);
    }
}
