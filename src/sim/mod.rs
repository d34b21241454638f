//! A packet-level fabric that runs the same engine as the real transports: the place where an
//! algorithm, a setting or a network is tried before anybody deploys it.
//!
//! Everything is deterministic. Time is counted in whole picoseconds, each component draws from a
//! random stream of its own, and events of one moment come in the order in which they were
//! scheduled: the same scenario and seed give the same bytes of output on every machine.

#![expect(
    clippy::cast_possible_truncation,
    reason = "components are numbered in 32 bits, and a topology is checked to have fewer"
)]

pub mod control_suite;
pub mod dcqcn;
pub mod events;
pub mod fabric;
pub mod fluid;
pub mod generate;
pub mod hosts;
pub mod htsim;
pub mod nic;
pub mod packet;
pub mod random;
pub mod report;
pub mod scenario;
pub mod spray;
pub mod tape;
pub mod time;
pub mod topology;
pub mod workload;
pub mod world;
