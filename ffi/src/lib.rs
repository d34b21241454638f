//! The C ABI of the core.
