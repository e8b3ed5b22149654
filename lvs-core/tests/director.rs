//! What a director does with packets, one behaviour a test.

#[path = "director/control.rs"]
mod control;
#[path = "director/fragments.rs"]
mod fragments;
#[path = "director/fullnat.rs"]
mod fullnat;
#[path = "director/helpers.rs"]
mod helpers;
#[path = "director/host.rs"]
mod host;
#[path = "director/lifetime.rs"]
mod lifetime;
#[path = "director/mtu.rs"]
mod mtu;
#[path = "director/opening.rs"]
mod opening;
#[path = "director/related.rs"]
mod related;
