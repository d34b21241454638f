//! The `thalweg sim` command, from end to end.
