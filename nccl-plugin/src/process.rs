//! What a process has once: the session that all communicators share, and the strings whose
//! addresses NCCL keeps.
//!
//! From version 11 on NCCL calls `init` and `finalize` for each communicator; before, it calls
//! `init` once and never says when it is done. The library itself is never unmapped (see
//! `build.rs`), so this state outlives a `dlclose` and is found again by the next `init`.

use crate::abi::{self, DebugLogger};
use crate::guard::Failure;
use crate::log;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_int, c_void};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thalweg::session::{DEVICE_MEMBERS_MAX, DeviceInfo, GpuAccess, LogLevel, Session};

static PROCESS: Mutex<Process> = Mutex::new(Process {
    pid: 0,
    session: None,
    contexts: BTreeSet::new(),
    last_context: 0,
    held_for_ever: false,
    virtual_devices: Vec::new(),
    is_fresh: false,
});

/// Strings that were handed to NCCL. It keeps their addresses, so none is ever freed; there are
/// only as many as the host has had devices.
static STRINGS: Mutex<BTreeSet<&'static CStr>> = Mutex::new(BTreeSet::new());

struct Process {
    /// Whose state this is: after a fork the child finds its parent's.
    pid: u32,
    session: Option<Session>,
    /// The communicators' contexts that were initialised and not finalised yet. What NCCL calls a
    /// context is one of these numbers in the form of a pointer, so that a stale one does no harm.
    contexts: BTreeSet<usize>,
    last_context: usize,
    /// An `init` without a context has no `finalize` to match it.
    held_for_ever: bool,
    /// Of what devices NCCL has made one, in this order. Where it keeps the library (it does with
    /// `NCCL_NET_PLUGIN_REF_COUNT`) it goes on to use such a device after the last `finalize`, and does
    /// not make it again; where it lets go of the library, it begins by counting the devices.
    virtual_devices: Vec<Vec<usize>>,
    /// The session has just been opened, and does not have those devices.
    is_fresh: bool,
}

/// A device's properties in a form that all versions are made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    pub(crate) name: &'static CStr,
    pub(crate) pci_path: Option<&'static CStr>,
    pub(crate) guid: u64,
    pub(crate) speed_mbps: c_int,
    pub(crate) port: c_int,
    members: [c_int; DEVICE_MEMBERS_MAX],
    member_count: usize,
    pub(crate) ptr_support: c_int,
}

/// `init` of a communicator: opens the session if it is the first, and returns a new context.
pub(crate) fn init_context(logger: Option<DebugLogger>) -> Result<*mut c_void, Failure> {
    let mut process = lock();
    process.open(logger)?;
    process.last_context += 1;
    let context = process.last_context;
    process.contexts.insert(context);
    Ok(std::ptr::without_provenance_mut(context))
}

/// `init` of the versions without a context.
pub(crate) fn init_once(logger: Option<DebugLogger>) -> Result<(), Failure> {
    let mut process = lock();
    process.open(logger)?;
    process.held_for_ever = true;
    Ok(())
}

/// Ends a communicator's use of the session, which closes with the last. A context that is
/// unknown, or was finalised before, is passed over.
pub(crate) fn finalize(context: *mut c_void) {
    let mut process = lock();
    let known = process.contexts.remove(&context.addr());
    if known && process.contexts.is_empty() && !process.held_for_ever {
        // In this order, so that the last lines still find the logger.
        process.session = None;
        log::forget_logger();
    }
}

/// The session, for calls that name no context.
pub(crate) fn session() -> Result<Session, Failure> {
    lock().session()
}

/// The session on behalf of a context; none at all is accepted, for not every caller keeps it.
pub(crate) fn session_of(context: *mut c_void) -> Result<Session, Failure> {
    if !context.is_null() && !lock().contexts.contains(&context.addr()) {
        return Err(Failure::argument(
            "the context was finalised before, or never came from init",
        ));
    }
    session()
}

/// How many devices there are; none is no error, NCCL then goes on to its next transport.
pub(crate) fn device_count() -> Result<c_int, Failure> {
    let mut process = lock();
    if process.is_fresh {
        process.virtual_devices.clear();
    }
    Ok(to_c_int(process.session()?.devices().len()))
}

/// Makes one device of several; the new one's number.
pub(crate) fn make_virtual_device(members: &[c_int]) -> Result<c_int, Failure> {
    let members: Vec<usize> = members
        .iter()
        .map(|&member| usize::try_from(member))
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::argument(format!("there are no such devices: {members:?}")))?;
    let mut process = lock();
    let session = process.session()?;
    let devices = session.devices();
    let is_placeless = |&member: &usize| devices.get(member).is_some_and(|d| d.pci_path.is_none());
    if members.len() > 1 && members.iter().any(is_placeless) {
        return Err(Failure::usage(format!(
            "devices {members:?} stay apart: NCCL finds no way to a merged device that has no place on PCI"
        )));
    }
    let index = session.make_virtual_device(&members)?;
    process.virtual_devices.push(members);
    Ok(to_c_int(index))
}

/// The properties of a device.
pub(crate) fn device(index: c_int) -> Result<Device, Failure> {
    let session = session()?;
    let devices = session.devices();
    let device = usize::try_from(index)
        .ok()
        .and_then(|index| devices.get(index))
        .ok_or_else(|| {
            Failure::argument(format!(
                "there is no device {index}; devices() said {}",
                devices.len()
            ))
        })?;
    Ok(Device::new(device))
}

impl Device {
    fn new(info: &DeviceInfo) -> Self {
        let mut members = [0; DEVICE_MEMBERS_MAX];
        for (place, &member) in members.iter_mut().zip(&info.members) {
            *place = to_c_int(member);
        }
        Self {
            name: static_string(&info.name),
            pci_path: info.pci_path.as_deref().map(static_string),
            guid: info.guid,
            speed_mbps: to_c_int(info.speed_mbps),
            port: to_c_int(info.port),
            members,
            member_count: info.members.len(),
            ptr_support: ptr_support(info.gpu),
        }
    }

    /// The devices that it consists of, as `vProps` has them: their number, and an array of which a
    /// version's own `makeVDevice` takes no more than fit.
    pub(crate) fn members<const N: usize>(&self) -> (c_int, [c_int; N]) {
        let mut members = [0; N];
        let count = self.member_count.min(N);
        members[..count].copy_from_slice(&self.members[..count]);
        (to_c_int(count), members)
    }
}

/// What memory a device takes, in NCCL's words.
fn ptr_support(gpu: GpuAccess) -> c_int {
    let mut kinds = abi::PTR_HOST;
    if gpu.peer_memory {
        kinds |= abi::PTR_CUDA;
    }
    if gpu.dmabuf {
        kinds |= abi::PTR_DMABUF;
    }
    kinds
}

impl Process {
    fn open(&mut self, logger: Option<DebugLogger>) -> Result<(), Failure> {
        log::set_logger(logger);
        if self.session.is_none() {
            let session = Session::open(log::sink())?;
            log::write(LogLevel::Info, &session.summary());
            self.session = Some(session);
            self.is_fresh = true;
        }
        Ok(())
    }

    /// The session, with the virtual devices that an earlier one had.
    fn session(&mut self) -> Result<Session, Failure> {
        let session = self
            .session
            .clone()
            .ok_or_else(|| Failure::usage("called before init"))?;
        if std::mem::take(&mut self.is_fresh) {
            // Behind one that cannot be made again, numbers would mean other devices.
            let made = self
                .virtual_devices
                .iter()
                .take_while(|members| session.make_virtual_device(members).is_ok())
                .count();
            self.virtual_devices.truncate(made);
        }
        Ok(session)
    }
}

fn lock() -> MutexGuard<'static, Process> {
    // A panic while it was held came from the core, between two consistent states of the table.
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if process.pid != pid {
        // The parent's session has threads and sockets that are not ours: leave it alone, for
        // closing it would wait for a thread that doesn't exist here and speak to its peers.
        let _ = ManuallyDrop::new(process.session.take());
        process.contexts.clear();
        process.held_for_ever = false;
        process.pid = pid;
    }
    process
}

fn static_string(text: &str) -> &'static CStr {
    let text = CString::new(text.replace('\0', "")).unwrap_or_default();
    let mut strings = STRINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = strings.get(text.as_c_str()) {
        return known;
    }
    let text: &'static CStr = Box::leak(text.into_boxed_c_str());
    strings.insert(text);
    text
}

fn to_c_int(number: impl TryInto<c_int>) -> c_int {
    number.try_into().unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_keeps_its_address() {
        let first = static_string("eth0");
        assert_eq!(first, c"eth0");
        assert!(std::ptr::eq(first, static_string("eth0")));
        assert!(!std::ptr::eq(first, static_string("eth1")));
        assert_eq!(static_string("a\0b"), c"ab");
    }

    #[test]
    fn memory_is_shown_as_nccl_wants_it() {
        for (peer_memory, dmabuf, expected) in [
            (false, false, 1),
            (true, false, 3),
            (false, true, 5),
            (true, true, 7),
        ] {
            let gpu = GpuAccess {
                peer_memory,
                dmabuf,
            };
            assert_eq!(ptr_support(gpu), expected);
        }
    }

    #[test]
    fn a_stale_context_is_harmless() {
        finalize(std::ptr::null_mut());
        finalize(std::ptr::without_provenance_mut(77));
        let Err(failure) = session_of(std::ptr::without_provenance_mut(77)) else {
            panic!("a context that never was has a session");
        };
        assert_eq!(failure.code, abi::ResultCode::INVALID_ARGUMENT);
    }
}
