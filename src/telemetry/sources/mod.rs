//! What a host and its ports say of themselves beside our own timing, each from one place of the kernel.
//!
//! `rdma` and `ethtool` are what adapters count, each driver in its own words, under one table of names: the
//! transports read part of it for control, and whoever watches reads all of it.

pub mod ethtool;
mod figure;
pub mod rdma;
#[cfg(test)]
pub(crate) mod tree;

pub use self::figure::increase;
