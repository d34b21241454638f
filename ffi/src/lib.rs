//! The C ABI of the core, libthalweg. `include/thalweg.h` is generated from this file.

#![allow(unsafe_code, reason = "symbols for a linker")]

use std::ffi::{CStr, c_char};

/// Version of this header; the library's own is what `thalweg_version` says.
pub const THALWEG_VERSION_MAJOR: u32 = 0;
/// See `THALWEG_VERSION_MAJOR`.
pub const THALWEG_VERSION_MINOR: u32 = 1;
/// See `THALWEG_VERSION_MAJOR`.
pub const THALWEG_VERSION_PATCH: u32 = 0;

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version without a null byte"),
    };

// The header's numbers are literals, since the generator reads nothing else; they must be those
// of the package.
const _: () = {
    assert!(is(THALWEG_VERSION_MAJOR, env!("CARGO_PKG_VERSION_MAJOR")));
    assert!(is(THALWEG_VERSION_MINOR, env!("CARGO_PKG_VERSION_MINOR")));
    assert!(is(THALWEG_VERSION_PATCH, env!("CARGO_PKG_VERSION_PATCH")));
};

const fn is(number: u32, text: &str) -> bool {
    match u32::from_str_radix(text, 10) {
        Ok(parsed) => parsed == number,
        Err(_) => false,
    }
}

/// The version of the library that is loaded, such as "1.2.3". The string is never freed. May be
/// called at any time, from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn thalweg_version() -> *const c_char {
    VERSION.as_ptr()
}
