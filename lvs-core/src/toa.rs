//! The TCP option that tells a FULLNAT server who the client is.
