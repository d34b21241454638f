//! Where figures come from that are not our own: adapters, the kernel, the host. Each source is read
//! by itself, so that one which is missing or odd hides none of the others.

pub mod dcb;
pub mod pcie;
pub mod rtnetlink;
