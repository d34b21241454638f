//! The one error that crosses the core's public face.
//!
//! Inside, each operation has a small enum of its own; at the session boundary what matters is
//! who is to blame (it decides the result code a caller such as NCCL sees) and one clear line.

use std::fmt;

/// Who or what is at fault: decides the result code of the C interfaces. The numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum ErrorKind {
    /// The local system refused something: a socket, a descriptor, memory.
    System = 1,
    /// A broken invariant of this library.
    Internal = 2,
    /// An argument that cannot be right: a device that does not exist, a damaged handle.
    InvalidArgument = 3,
    /// A use that breaks the contract: a message larger than its buffer, a bad setting.
    InvalidUsage = 4,
    /// The peer failed, refused, or has been silent for too long.
    Remote = 5,
}

/// An error of a session call: whose fault, and one line that says what happened, to which peer
/// or path, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
}

impl Error {
    /// An error of `kind` with its one line, lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into().into_boxed_str(),
        }
    }

    /// Who or what is at fault.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
