//! Python arguments as the values that the director takes.

use core::net::IpAddr;
use core::str::FromStr;
use core::time::Duration;

use lvs_core::Instant;
use pyo3::prelude::*;

use crate::errors::argument;

/// A time in seconds as an instant.
pub(crate) fn instant(seconds: f64) -> PyResult<Instant> {
    let since_zero = Duration::try_from_secs_f64(seconds).map_err(|_| {
        argument(format_args!("the time {seconds} cannot be: expected seconds, 0 or more, on any one clock"))
    })?;
    Ok(Instant::ZERO + since_zero)
}

/// An instant in seconds, the inverse of [`instant`].
pub(crate) fn seconds(instant: Instant) -> f64 {
    Duration::from_nanos(instant.as_nanos()).as_secs_f64()
}

/// Text that names a value of the field.
pub(crate) fn parse<T: FromStr<Err: core::fmt::Display>>(what: &str, text: &str) -> PyResult<T> {
    text.parse().map_err(|error| argument(format_args!("{what} '{text}': {error}")))
}

/// An address as text or as an object of `ipaddress`.
pub(crate) fn address(value: &Bound<'_, PyAny>) -> PyResult<IpAddr> {
    match value.extract::<&str>() {
        Ok(text) => parse("address", text),
        Err(_) => value.extract(),
    }
}
