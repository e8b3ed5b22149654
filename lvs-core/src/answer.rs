//! Packets that the director makes itself: ICMP errors, TCP resets, echo replies.
