//! The only clock read.
