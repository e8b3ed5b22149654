//! Errors of the crates as the exceptions of `lvs/errors.py`.

use core::fmt;

use lvs_core::ApplyError;
use lvs_core::ipvsadm::rules::{Line, RuleErrors};
use pyo3::PyErr;

pyo3::import_exception!(lvs.errors, ArgumentError);
pyo3::import_exception!(lvs.errors, LvsError);
pyo3::import_exception!(lvs.errors, RuleError);

/// Line, column, message and what would be right: the fields of a Python `RuleProblem`.
type Problem = (usize, Option<usize>, String, Option<String>);

/// An argument that cannot be.
pub(crate) fn argument(message: impl fmt::Display) -> PyErr {
    ArgumentError::new_err(message.to_string())
}

/// The engine panicked while it held this director, whose state is not to be trusted any more.
pub(crate) fn broken() -> PyErr {
    LvsError::new_err("this director is unusable since a panic: make a new one")
}

/// Rules that could not be read.
pub(crate) fn unreadable(errors: RuleErrors) -> PyErr {
    let text = errors.to_string();
    let problems: Vec<Problem> = errors
        .into_iter()
        .map(|error| (error.line, Some(error.column), error.message, Some(error.expected)))
        .collect();
    RuleError::new_err((text, problems))
}

/// Rules that were read and cannot be carried out. The director counts commands; the text has lines.
pub(crate) fn refused(error: &ApplyError, lines: &[Line]) -> PyErr {
    let line = lines.get(error.index).map_or(0, |line| line.line);
    let message = error.error.to_string();
    let problem: Problem = (line, None, message.clone(), None);
    RuleError::new_err((format!("line {line}: {message}"), vec![problem]))
}
