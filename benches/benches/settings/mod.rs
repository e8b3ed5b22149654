//! Short measurements: a whole run takes minutes, and ratios between lines of one run are what counts.

use core::time::Duration;

use criterion::Criterion;

pub(crate) fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}
