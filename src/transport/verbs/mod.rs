//! RDMA: which ports a host has, what they count, and queue pairs between them.

pub mod counters;
pub mod device;
mod ethtool;
#[cfg(feature = "verbs")]
pub mod sys;
#[cfg(test)]
mod tree;
