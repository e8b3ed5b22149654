//! Rules as `ipvsadm -R` reads them, one command a line.
//!
//! What ipvsadm 1.31 accepts is accepted here, with these differences:
//! - `#` begins a comment (a whole line or the rest of one); ipvsadm stops there.
//! - Every line is read and every error reported; the caller applies all lines or none.
//! - Addresses are numbers: host names are not looked up. Service names (`:http`) come from a built-in table.
//! - `-6` may stand before `-f`.
//! - Options that would have no effect are errors: `-M` without `-p`, `--tun-type` without `-i`, and a mask with
//!   holes.
//! - `--fullnat` is a forwarding method and `--laddr ADDRESS[,ADDRESS…]` the local addresses of a FULLNAT service.
//!
//! A rule may be valid here and still be refused by a director that lacks the feature.

mod command;
mod errors;
mod values;

use core::time::Duration;

use super::options::{Wrong, options, words};
use crate::service::Command;
use command::Rule;

pub use errors::{RuleError, RuleErrors};
pub(super) use values::dotted_mask;

/// Persistence of `-p` without a number.
pub const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(360);

/// The longest timeout that ipvsadm takes: 31 days.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(MAX_TIMEOUT_SECS);
const MAX_TIMEOUT_SECS: u64 = 31 * 86_400;

/// The longest line, in bytes; what a line costs to read grows with the square of its length.
pub const MAX_LINE: usize = 65_536;

/// A command and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Line number from 1.
    pub line: usize,
    /// What the line says.
    pub command: Command,
}

/// Reads rules.
///
/// # Errors
/// [`RuleErrors`] with all errors of all lines when there is any.
///
/// # Examples
/// ```
/// use lvs_core::ipvsadm::rules;
/// use lvs_core::service::{Command, ForwardingMethod};
///
/// let lines = rules::parse(
///     "-A -t 10.0.0.1:http -s wrr   # the shop
///      -a -t 10.0.0.1:http -r 192.168.0.2:8080 -m -w 3",
/// )?;
/// let Command::AddServer(_, server) = &lines[1].command else { panic!() };
/// assert_eq!(server.method, ForwardingMethod::Masquerade);
/// assert_eq!(server.weight.get(), 3);
///
/// let errors = rules::parse("-A -t 10.0.0.1:80 -s wwrr").unwrap_err();
/// assert_eq!(errors.to_string(), "line 1, column 22: `wwrr` is no scheduler; expected wrr");
/// # Ok::<(), rules::RuleErrors>(())
/// ```
pub fn parse(text: &str) -> Result<Vec<Line>, RuleErrors> {
    let mut lines = Vec::new();
    let mut errors = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        if content.len() > MAX_LINE {
            errors.push(RuleError {
                line,
                column: 1,
                message: format!("the line has {} bytes", content.len()),
                expected: format!("at most {MAX_LINE}"),
            });
            continue;
        }
        let mut words = words(content);
        if words.is_empty() {
            continue;
        }
        let end = content.trim_end().chars().count() + 1;
        if words[0].text == "ipvsadm" {
            words.remove(0);
        }
        let mut wrong = Vec::new();
        let given = options(&words, &mut wrong);
        let first = words.first().map_or(end, |word| word.column);
        let command = Rule { given, wrong: &mut wrong }.command(first);
        match command {
            Some(command) if wrong.is_empty() => lines.push(Line { line, command }),
            _ => {
                wrong.sort_by_key(|wrong| wrong.column);
                errors.extend(wrong.into_iter().map(|Wrong { column, message, expected }| RuleError {
                    line,
                    column,
                    message,
                    expected,
                }));
            }
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(RuleErrors(errors)) }
}
