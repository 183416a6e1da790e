//! Step logs of all kinds.
