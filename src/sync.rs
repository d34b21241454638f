//! Lock-free primitives.
