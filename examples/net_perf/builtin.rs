//! Finds the transports that are built into NCCL itself (Socket, IB), so that they are measured by
//! the same loop in the same run as a plugin. Their tables are local symbols, hence only in the
//! file's `.symtab`; and they ask CUDA for the current device, which a machine without a GPU cannot
//! answer, so two functions of the statically linked runtime are made to answer "device 0".
#![allow(
    unsafe_code,
    reason = "reads a table at an address taken from the symbol table and patches two functions"
)]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::net::{self, LoadError, Net};

/// A transport that NCCL brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// TCP.
    Socket,
    /// RDMA.
    Ib,
}

/// Opens `libnccl.so.2` and takes one of its own transports out of it.
pub fn load(path: &Path, which: Builtin) -> Result<Net, LoadError> {
    const ANCHOR: &str = "ncclGetVersion";
    let table_name = match which {
        Builtin::Socket => "ncclNetSocket",
        Builtin::Ib => "ncclNetIb",
    };
    let library = net::open(path)?;
    let names = [table_name, ANCHOR, "cudaGetDevice", "cudaSetDevice"];
    let found = symbol_values(path, &names)
        .map_err(|e| LoadError::Open(format!("{}: {e}", path.display())))?;
    let (Some(table), Some(anchor)) = (found[0], found[1]) else {
        return Err(LoadError::NoTable(format!(
            "{} has no symbol `{table_name}`: take a libnccl.so.2 that is not stripped",
            path.display()
        )));
    };
    // SAFETY: `ncclGetVersion` is exported by every NCCL with this signature.
    let get_version =
        unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0") }
            .map_err(|e| LoadError::Open(e.to_string()))?;
    let mut nccl = 0;
    // SAFETY: one valid out pointer.
    unsafe { get_version(&raw mut nccl) };
    // The internal transports are always of the newest version that a release knows.
    let version = match nccl {
        23_000.. => 12,
        22_800.. => 11,
        22_600.. => 10,
        _ => {
            return Err(LoadError::NoTable(format!(
                "{} is NCCL {nccl}: its own transports can be driven from 22600 (2.26) on",
                path.display()
            )));
        }
    };
    let base = (*get_version as usize).wrapping_sub(anchor);
    for (value, code) in [(found[2], ANSWER_OUT), (found[3], ANSWER_PLAIN)] {
        if let Some(value) = value {
            answer_device_zero(base.wrapping_add(value), code)
                .map_err(|e| LoadError::Open(format!("cannot patch cudaGetDevice: {e}")))?;
        }
    }
    let table = std::ptr::with_exposed_provenance::<c_void>(base.wrapping_add(table));
    // SAFETY: the symbol table says that NCCL's own table stands there, and `base` was derived from
    // the address at which the very same file was loaded.
    unsafe { Net::load(library, version, table) }
}

/// `mov dword [rdi], 0; xor eax, eax; ret`
const ANSWER_OUT: &[u8] = &[0xc7, 0x07, 0, 0, 0, 0, 0x31, 0xc0, 0xc3];
/// `xor eax, eax; ret`
const ANSWER_PLAIN: &[u8] = &[0x31, 0xc0, 0xc3];

/// Overwrites the first instructions of a function.
fn answer_device_zero(function: usize, code: &[u8]) -> std::io::Result<()> {
    const PAGE: usize = 4096;
    if !cfg!(target_arch = "x86_64") {
        return Err(std::io::Error::other("only known for x86-64"));
    }
    let page = std::ptr::with_exposed_provenance_mut::<c_void>(function & !(PAGE - 1));
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: the page and the next hold a function of a loaded library; making them writable
    // changes nothing for who reads or runs them.
    if unsafe { libc::mprotect(page, 2 * PAGE, all) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the code is shorter than the function it replaces, and nobody runs it yet: no call
    // has been made into the transports.
    unsafe {
        std::ptr::copy_nonoverlapping(
            code.as_ptr(),
            std::ptr::with_exposed_provenance_mut::<u8>(function),
            code.len(),
        );
    }
    Ok(())
}

/// Values of the named symbols, local ones included, from the `.symtab` of a 64-bit little-endian
/// ELF file; `None` for each that is not there.
fn symbol_values(path: &Path, names: &[&str]) -> Result<Vec<Option<usize>>, String> {
    const SHT_SYMTAB: u32 = 2;
    const SECTION_BYTES: usize = 64;
    const SYMBOL_BYTES: usize = 24;
    /// Sections larger than this are not a symbol table of any real library.
    const LIMIT: u64 = 1 << 30;
    let file = File::open(path).map_err(|e| e.to_string())?;
    let read = |offset: u64, bytes: u64| -> Result<Vec<u8>, String> {
        if bytes > LIMIT {
            return Err("not a sane elf file".to_owned());
        }
        let mut buffer = vec![0; usize::try_from(bytes).map_err(|e| e.to_string())?];
        file.read_exact_at(&mut buffer, offset)
            .map_err(|e| format!("truncated elf file: {e}"))?;
        Ok(buffer)
    };
    let header = read(0, 64)?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err("not a 64-bit little-endian elf file".to_owned());
    }
    let section_count = number::<2>(&header, 60);
    let sections = read(
        number::<8>(&header, 40),
        section_count * SECTION_BYTES as u64,
    )?;
    let mut found = vec![None; names.len()];
    for section in sections.chunks_exact(SECTION_BYTES) {
        if number::<4>(section, 4) != u64::from(SHT_SYMTAB) {
            continue;
        }
        let link = usize::try_from(number::<4>(section, 40)).unwrap_or(usize::MAX);
        let Some(text) = sections.chunks_exact(SECTION_BYTES).nth(link) else {
            continue;
        };
        let symbols = read(number::<8>(section, 24), number::<8>(section, 32))?;
        let text = read(number::<8>(text, 24), number::<8>(text, 32))?;
        for symbol in symbols.chunks_exact(SYMBOL_BYTES) {
            let value = number::<8>(symbol, 8);
            let start = usize::try_from(number::<4>(symbol, 0)).unwrap_or(usize::MAX);
            if value == 0 || start >= text.len() {
                continue;
            }
            let rest = &text[start..];
            for (slot, name) in found.iter_mut().zip(names) {
                let name = name.as_bytes();
                if rest.starts_with(name) && rest.get(name.len()) == Some(&0) {
                    *slot = usize::try_from(value).ok();
                }
            }
        }
    }
    Ok(found)
}

/// The little-endian number of `N` bytes at `offset`; the caller has checked that it is there.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    bytes[offset..offset + N]
        .iter()
        .rev()
        .fold(0, |n, &b| n << 8 | u64::from(b))
}
