//! The barrier around every entry point. NCCL gets a result code and its log one line; no panic
//! gets through, for it would end the whole job.

use crate::abi::ResultCode;
use crate::log;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thalweg::error::{Error, ErrorKind};

/// Why a call failed: the code for NCCL and the line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ResultCode,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn argument(line: impl Into<String>) -> Self {
        Self {
            code: ResultCode::INVALID_ARGUMENT,
            line: line.into(),
        }
    }

    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self {
            code: ResultCode::INVALID_USAGE,
            line: line.into(),
        }
    }

    pub(crate) fn internal(line: impl Into<String>) -> Self {
        Self {
            code: ResultCode::INTERNAL_ERROR,
            line: line.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::System => ResultCode::SYSTEM_ERROR,
            ErrorKind::Internal => ResultCode::INTERNAL_ERROR,
            ErrorKind::InvalidArgument => ResultCode::INVALID_ARGUMENT,
            ErrorKind::InvalidUsage => ResultCode::INVALID_USAGE,
            ErrorKind::Remote => ResultCode::REMOTE_ERROR,
        };
        Self {
            code,
            line: error.to_string(),
        }
    }
}

/// Runs an entry point's body; `call` is its name in log lines.
pub(crate) fn guard(call: &'static str, body: impl FnOnce() -> Result<(), Failure>) -> ResultCode {
    // What a panic may have left half done is a connection, which is put out of use on the way
    // (see `Comm::enter`), or the process's table, whose invariants hold between any two calls.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ResultCode::SUCCESS,
        Ok(Err(failure)) => {
            log::failure(&format!("{call}: {}", failure.line));
            failure.code
        }
        Err(payload) => {
            log::failure(&format!(
                "{call}: internal error, please report it: {}",
                panic_message(&*payload)
            ));
            // A payload's own drop might panic, outside of the barrier.
            std::mem::forget(payload);
            ResultCode::INTERNAL_ERROR
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_code() {
        assert_eq!(guard("test", || Ok(())), ResultCode::SUCCESS);
        let code = guard("test", || panic!("expected by the test"));
        assert_eq!(code, ResultCode::INTERNAL_ERROR);
    }

    #[test]
    fn each_kind_of_error_has_its_code() {
        for (kind, code) in [
            (ErrorKind::System, 2),
            (ErrorKind::Internal, 3),
            (ErrorKind::InvalidArgument, 4),
            (ErrorKind::InvalidUsage, 5),
            (ErrorKind::Remote, 6),
        ] {
            let result = guard("test", || Err(Error::new(kind, format!("{kind:?}")).into()));
            assert_eq!(result, ResultCode(code), "{kind:?}");
        }
    }
}
