//! Packet I/O: where packets come from and go to.
