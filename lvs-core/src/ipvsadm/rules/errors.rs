//! What is wrong with rules, and where.

use core::fmt;

/// One thing that is wrong with the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}; expected {expected}")]
pub struct RuleError {
    /// Line number from 1.
    pub line: usize,
    /// Where the wrong word begins, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub expected: String,
}

/// Everything that is wrong with the rules, in the order of the text; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleErrors(pub(super) Vec<RuleError>);

impl RuleErrors {
    /// The errors.
    pub fn as_slice(&self) -> &[RuleError] {
        &self.0
    }
}

impl IntoIterator for RuleErrors {
    type Item = RuleError;
    type IntoIter = std::vec::IntoIter<RuleError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// One error a line.
impl fmt::Display for RuleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl core::error::Error for RuleErrors {}
