//! The NCCL and RCCL net plugin: the tables that both look up, version 6 to 12, in front of the
//! core's sessions and connections. There is no policy here: calls are translated, checked,
//! guarded against panics, and their errors turned into NCCL's codes and log lines.
//!
//! Only this file exports symbols. NCCL takes the newest table it knows and never looks at the
//! others, so all of them behave alike; `adapters` holds what differs.

#![allow(
    unsafe_code,
    reason = "an interface in C: pointers come from the caller, and symbols go to the loader"
)]

pub mod abi;
mod adapters;
mod comm;
mod guard;
mod log;
mod process;

/// Exports one table.
macro_rules! export {
    ($(#[$about:meta] $symbol:ident: $version:ident = $table:ident;)+) => {$(
        #[$about]
        #[allow(non_upper_case_globals, reason = "the name that NCCL looks up")]
        #[unsafe(no_mangle)]
        pub static $symbol: abi::$version::Net = adapters::$table;
    )+};
}

export! {
    /// For NCCL 2.13 to 2.18.
    ncclNetPlugin_v6: v6 = V6;
    /// For NCCL 2.19.
    ncclNetPlugin_v7: v7 = V7;
    /// For NCCL 2.20 to 2.23.
    ncclNetPlugin_v8: v8 = V8;
    /// For NCCL 2.24 and 2.25.
    ncclNetPlugin_v9: v9 = V9;
    /// For NCCL 2.26 and 2.27.
    ncclNetPlugin_v10: v10 = V10;
    /// For NCCL 2.28 and 2.29.
    ncclNetPlugin_v11: v11 = V11;
    /// For NCCL 2.30 and later.
    ncclNetPlugin_v12: v12 = V12;
}
