//! FULLNAT: local addresses and ports, each given out once.
