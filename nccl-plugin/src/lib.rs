//! The NCCL net plugin.
