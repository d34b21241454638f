//! RDMA: which ports a host has, and queue pairs between them.

pub mod device;
#[cfg(feature = "verbs")]
pub mod sys;
