//! Scheduler flags (`-b`) by name.

use lvs_sched::{SchedulerFlags, SchedulerKind};

/// Returns a flag by its name: the scheduler's own (`mh-port`) or ipvsadm's general one (`flag-2`).
pub(super) fn parse(kind: SchedulerKind, name: &str) -> Option<SchedulerFlags> {
    SchedulerFlags::all()
        .iter()
        .find(|&flag| general_name(flag) == Some(name) || own_name(kind, flag).is_some_and(|own| own == name))
}

/// The names of `flags`, in the order of their bits and separated by commas: `sh-fallback,sh-port`.
pub(super) fn names(kind: SchedulerKind, flags: SchedulerFlags) -> String {
    flags
        .iter()
        .filter_map(|flag| own_name(kind, flag).or_else(|| general_name(flag).map(str::to_owned)))
        .collect::<Vec<_>>()
        .join(",")
}

/// The scheduler that has a flag of this name, when another than `kind` does.
pub(super) fn owner(name: &str) -> Option<SchedulerKind> {
    SchedulerKind::ALL.into_iter().find(|&kind| {
        SchedulerFlags::all().iter().any(|flag| own_name(kind, flag).is_some_and(|own| own == name))
    })
}

/// What the flag is called with this scheduler. Schedulers without flags of their own have none.
fn own_name(kind: SchedulerKind, flag: SchedulerFlags) -> Option<String> {
    let meaning = match flag {
        SchedulerFlags::FALLBACK => "fallback",
        SchedulerFlags::PORT => "port",
        _ => return None,
    };
    matches!(kind, SchedulerKind::SourceHashing | SchedulerKind::MaglevHashing)
        .then(|| format!("{kind}-{meaning}"))
}

/// What ipvsadm calls the bit whatever the scheduler.
fn general_name(flag: SchedulerFlags) -> Option<&'static str> {
    match flag {
        SchedulerFlags::FALLBACK => Some("flag-1"),
        SchedulerFlags::PORT => Some("flag-2"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_schedulers_own() {
        assert_eq!(names(SchedulerKind::SourceHashing, SchedulerFlags::all()), "sh-fallback,sh-port");
        assert_eq!(names(SchedulerKind::MaglevHashing, SchedulerFlags::PORT), "mh-port");
        assert_eq!(names(SchedulerKind::RoundRobin, SchedulerFlags::FALLBACK), "flag-1");
        assert_eq!(names(SchedulerKind::MaglevHashing, SchedulerFlags::empty()), "");
    }

    #[test]
    fn a_flag_of_another_scheduler_is_not_known() {
        assert_eq!(parse(SchedulerKind::MaglevHashing, "mh-port"), Some(SchedulerFlags::PORT));
        assert_eq!(parse(SchedulerKind::MaglevHashing, "flag-1"), Some(SchedulerFlags::FALLBACK));
        assert_eq!(parse(SchedulerKind::MaglevHashing, "sh-port"), None);
        assert_eq!(owner("sh-port"), Some(SchedulerKind::SourceHashing));
        assert_eq!(owner("port"), None);
    }
}
