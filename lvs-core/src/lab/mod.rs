//! The Lab: a deterministic network on a virtual clock.
