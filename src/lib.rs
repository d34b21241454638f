//! Thalweg: adaptive congestion control for collectives.
//!
//! NCCL's and RCCL's messages, and KV-cache transfers, are carried over many network paths at
//! once; every path is measured continuously, and what was measured decides which path each
//! chunk takes and how fast. `docs/architecture.md` has the words, the layers and the reasons.

pub mod auth;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod driver;
pub mod engine;
pub mod error;
#[cfg(feature = "cli")]
pub mod export;
pub mod path;
pub mod session;
pub mod sim;
pub mod sync;
pub mod telemetry;
pub mod transport;
pub mod units;
