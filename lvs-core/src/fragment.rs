//! Fragments: held until their datagram is whole, and cut where a packet must leave in pieces.
