//! What happens to a packet of a known connection, as plain data.
