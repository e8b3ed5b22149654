//! Scheduler flags (`-b`) one by one, so that each wrong name has its own column.

use lvs_sched::{SchedulerFlags, SchedulerKind};

/// Returns a flag by its name: the scheduler's own (`mh-port`) or ipvsadm's general one (`flag-2`).
pub(super) fn parse(kind: SchedulerKind, name: &str) -> Option<SchedulerFlags> {
    SchedulerFlags::parse(kind, name).ok().filter(|flags| !flags.is_empty())
}

/// The scheduler that has a flag of this name.
pub(super) fn owner(name: &str) -> Option<SchedulerKind> {
    SchedulerKind::ALL.into_iter().find(|&kind| parse(kind, name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_another_scheduler_is_not_known() {
        assert_eq!(parse(SchedulerKind::MaglevHashing, "mh-port"), Some(SchedulerFlags::PORT));
        assert_eq!(parse(SchedulerKind::MaglevHashing, "flag-1"), Some(SchedulerFlags::FALLBACK));
        assert_eq!(parse(SchedulerKind::MaglevHashing, "sh-port"), None);
        assert_eq!(parse(SchedulerKind::MaglevHashing, ""), None);
        assert_eq!(owner("sh-port"), Some(SchedulerKind::SourceHashing));
        assert_eq!(owner("port"), None);
    }
}
