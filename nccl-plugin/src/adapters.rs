//! The functions behind the tables, and all that differs between the versions. Most functions
//! serve several: each is named after the first version that has it.
//!
//! What NCCL relies on, and each function therefore keeps:
//! - `listen`, `connect` and `accept` never wait, and say "not yet" with a null pointer;
//! - `*request` is written in any case, since it holds the pointer of an earlier request before;
//! - an `irecv` whose request is preset to 1 is a receive like any other;
//! - `sizes` is written up to the number of messages of the request, and not at all if null;
//! - `connect` and `accept` leave the device handle alone: some callers pass a pointer to
//!   something else there.

use crate::abi::{self, CommConfig, DebugLogger, Name, NetDeviceHandle, ProfilerCallback};
use crate::abi::{ResultCode, v6, v7, v8, v9, v10, v11, v12};
use crate::comm::{Comm, MESSAGE_BYTES_MAX, Progress, Slot};
use crate::guard::{Failure, guard};
use crate::process::{self, Device};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use thalweg::session::{DmaBuf, HANDLE_BYTES, Listener, MAX_RECVS, MemoryKind, Session};

const _: () = assert!(HANDLE_BYTES == abi::HANDLE_BYTES);

/// What a user writes in `NCCL_NET`.
const NAME: Name = Name(c"thalweg".as_ptr());
/// As many connections as there are ports: in practice, other limits come first.
const MAX_COMMS: c_int = 65_536;
/// [`MAX_RECVS`] as NCCL wants it.
const MAX_RECVS_C: c_int = 8;
const _: () = assert!(MAX_RECVS_C as usize == MAX_RECVS);

pub(crate) const V6: v6::Net = v6::Net {
    name: NAME,
    init: Some(init_v6),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v6),
    connect: Some(connect_v6),
    accept: Some(accept_v6),
    reg_mr: Some(reg_mr_v6),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v6),
    irecv: Some(irecv_v6),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
};

pub(crate) const V7: v7::Net = v7::Net {
    name: NAME,
    init: Some(init_v6),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v6),
    connect: Some(connect_v7),
    accept: Some(accept_v7),
    reg_mr: Some(reg_mr_v6),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v6),
    irecv: Some(irecv_v6),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
    get_device_mr: None,
    irecv_consumed: None,
};

pub(crate) const V8: v8::Net = v8::Net {
    name: NAME,
    init: Some(init_v6),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v6),
    connect: Some(connect_v7),
    accept: Some(accept_v7),
    reg_mr: Some(reg_mr_v8),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v6),
    irecv: Some(irecv_v6),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
    get_device_mr: None,
    irecv_consumed: None,
};

pub(crate) const V9: v9::Net = v9::Net {
    name: NAME,
    init: Some(init_v6),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v6),
    connect: Some(connect_v7),
    accept: Some(accept_v7),
    reg_mr: Some(reg_mr_v8),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v9),
    irecv: Some(irecv_v9),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
    get_device_mr: None,
    irecv_consumed: None,
    make_v_device: Some(make_v_device),
};

pub(crate) const V10: v10::Net = v10::Net {
    name: NAME,
    init: Some(init_v10),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v6),
    connect: Some(connect_v10),
    accept: Some(accept_v7),
    reg_mr: Some(reg_mr_v8),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v10),
    irecv: Some(irecv_v10),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
    get_device_mr: None,
    irecv_consumed: None,
    make_v_device: Some(make_v_device),
};

pub(crate) const V11: v11::Net = v11::Net {
    name: NAME,
    init: Some(init_v11),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v11),
    connect: Some(connect_v11),
    accept: Some(accept_v7),
    reg_mr: Some(reg_mr_v8),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v10),
    irecv: Some(irecv_v10),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
    get_device_mr: None,
    irecv_consumed: None,
    make_v_device: Some(make_v_device),
    finalize: Some(finalize),
    // It speaks of a communicator's next operation; nothing in the core depends on that.
    set_net_attr: None,
};

pub(crate) const V12: v12::Net = v12::Net {
    name: NAME,
    init: Some(init_v11),
    devices: Some(devices),
    get_properties: Some(get_properties),
    listen: Some(listen_v11),
    connect: Some(connect_v11),
    accept: Some(accept_v7),
    reg_mr: Some(reg_mr_v8),
    reg_mr_dma_buf: Some(reg_mr_dma_buf),
    dereg_mr: Some(dereg_mr),
    isend: Some(isend_v10),
    irecv: Some(irecv_v10),
    iflush: Some(iflush),
    test: Some(test),
    close_send: Some(close_comm),
    close_recv: Some(close_comm),
    close_listen: Some(close_listen),
    get_device_mr: None,
    irecv_consumed: None,
    make_v_device: Some(make_v_device),
    finalize: Some(finalize),
    set_net_attr: None,
};

/// Writes a result to where the caller wants it.
///
/// # Safety
/// `place` is null or may be written.
unsafe fn put<T>(place: *mut T, value: T, name: &str) -> Result<(), Failure> {
    if place.is_null() {
        return Err(Failure::argument(format!("{name} is null")));
    }
    // SAFETY: not null, and the caller's promise holds for the rest.
    unsafe { place.write(value) };
    Ok(())
}

// init and finalize

unsafe extern "C" fn init_v6(logger: Option<DebugLogger>) -> ResultCode {
    guard("init", || process::init_once(logger))
}

unsafe extern "C" fn init_v10(
    logger: Option<DebugLogger>,
    _profiler: Option<ProfilerCallback>,
) -> ResultCode {
    guard("init", || process::init_once(logger))
}

unsafe extern "C" fn init_v11(
    context: *mut *mut c_void,
    _comm_id: u64,
    _config: *const CommConfig,
    logger: Option<DebugLogger>,
    _profiler: Option<ProfilerCallback>,
) -> ResultCode {
    guard("init", || {
        // SAFETY: NCCL's pointer to where it wants the context. Written before anything is
        // opened, because without it nothing could be finalised.
        unsafe { put(context, null_mut(), "ctx") }?;
        let opened = process::init_context(logger)?;
        // SAFETY: as above.
        unsafe { put(context, opened, "ctx") }
    })
}

unsafe extern "C" fn finalize(context: *mut c_void) -> ResultCode {
    guard("finalize", || {
        process::finalize(context);
        Ok(())
    })
}

// Devices

unsafe extern "C" fn devices(count: *mut c_int) -> ResultCode {
    guard("devices", || {
        // SAFETY: NCCL's pointer to where it wants the number.
        unsafe { put(count, process::device_count()?, "ndev") }
    })
}

unsafe extern "C" fn get_properties<P: From<Device>>(
    device: c_int,
    properties: *mut P,
) -> ResultCode {
    guard("getProperties", || {
        // SAFETY: NCCL's pointer to a structure of this table's version.
        unsafe { put(properties, process::device(device)?.into(), "props") }
    })
}

/// Devices of which one is to be made, in a version's structure: how many, and a place for each that
/// there may be.
trait Members {
    fn members(&self) -> (c_int, &[c_int]);
}

impl Members for v9::VDeviceProps {
    fn members(&self) -> (c_int, &[c_int]) {
        (self.ndevs, &self.devs)
    }
}

impl Members for v12::VDeviceProps {
    fn members(&self) -> (c_int, &[c_int]) {
        (self.ndevs, &self.devs)
    }
}

unsafe extern "C" fn make_v_device<P: Members>(device: *mut c_int, props: *mut P) -> ResultCode {
    guard("makeVDevice", || {
        // SAFETY: what NCCL passes to `makeVDevice`: a structure of this table's version.
        let props = unsafe { props.as_ref() }.ok_or_else(|| Failure::argument("props is null"))?;
        let (count, devs) = props.members();
        let members = usize::try_from(count)
            .ok()
            .and_then(|count| devs.get(..count))
            .filter(|members| !members.is_empty())
            .ok_or_else(|| {
                let most = devs.len();
                Failure::argument(format!("{count} devices in one; it takes 1 to {most}"))
            })?;
        // Looked at first: a device that nobody hears of would stay.
        if device.is_null() {
            return Err(Failure::argument("d is null"));
        }
        // SAFETY: NCCL's pointer to where it wants the number.
        unsafe { put(device, process::make_virtual_device(members)?, "d") }
    })
}

/// NCCL's structures point to `char` without `const`, but are only read.
fn c_string(string: &'static CStr) -> *mut c_char {
    string.as_ptr().cast_mut()
}

fn pci_path(device: &Device) -> *mut c_char {
    device.pci_path.map_or(null_mut(), c_string)
}

impl From<Device> for v6::Properties {
    fn from(device: Device) -> Self {
        Self {
            name: c_string(device.name),
            pci_path: pci_path(&device),
            guid: device.guid,
            ptr_support: device.ptr_support,
            speed: device.speed_mbps,
            port: device.port,
            latency: 0.0,
            max_comms: MAX_COMMS,
            max_recvs: MAX_RECVS_C,
        }
    }
}

impl From<Device> for v7::Properties {
    fn from(device: Device) -> Self {
        Self {
            name: c_string(device.name),
            pci_path: pci_path(&device),
            guid: device.guid,
            ptr_support: device.ptr_support,
            speed: device.speed_mbps,
            port: device.port,
            latency: 0.0,
            max_comms: MAX_COMMS,
            max_recvs: MAX_RECVS_C,
            net_device_type: abi::NET_DEVICE_HOST,
            net_device_version: abi::NET_DEVICE_INVALID_VERSION,
        }
    }
}

impl From<Device> for v8::Properties {
    fn from(device: Device) -> Self {
        Self {
            name: c_string(device.name),
            pci_path: pci_path(&device),
            guid: device.guid,
            ptr_support: device.ptr_support,
            reg_is_global: 0,
            speed: device.speed_mbps,
            port: device.port,
            latency: 0.0,
            max_comms: MAX_COMMS,
            max_recvs: MAX_RECVS_C,
            net_device_type: abi::NET_DEVICE_HOST,
            net_device_version: abi::NET_DEVICE_INVALID_VERSION,
        }
    }
}

/// Version 10 has the same structure.
impl From<Device> for v9::Properties {
    fn from(device: Device) -> Self {
        Self {
            name: c_string(device.name),
            pci_path: pci_path(&device),
            guid: device.guid,
            ptr_support: device.ptr_support,
            reg_is_global: 0,
            force_flush: 0,
            speed: device.speed_mbps,
            port: device.port,
            latency: 0.0,
            max_comms: MAX_COMMS,
            max_recvs: MAX_RECVS_C,
            net_device_type: abi::NET_DEVICE_HOST,
            net_device_version: abi::NET_DEVICE_INVALID_VERSION,
            v_props: {
                let (ndevs, devs) = device.members();
                v9::VDeviceProps { ndevs, devs }
            },
            max_p2p_bytes: MESSAGE_BYTES_MAX,
            max_coll_bytes: MESSAGE_BYTES_MAX,
        }
    }
}

impl From<Device> for v11::Properties {
    fn from(device: Device) -> Self {
        Self {
            name: c_string(device.name),
            pci_path: pci_path(&device),
            guid: device.guid,
            ptr_support: device.ptr_support,
            reg_is_global: 0,
            force_flush: 0,
            speed: device.speed_mbps,
            port: device.port,
            latency: 0.0,
            max_comms: MAX_COMMS,
            max_recvs: MAX_RECVS_C,
            net_device_type: abi::NET_DEVICE_HOST,
            net_device_version: abi::NET_DEVICE_INVALID_VERSION,
            v_props: {
                let (ndevs, devs) = device.members();
                v11::VDeviceProps { ndevs, devs }
            },
            max_p2p_bytes: MESSAGE_BYTES_MAX,
            max_coll_bytes: MESSAGE_BYTES_MAX,
            max_multi_request_size: 1,
        }
    }
}

impl From<Device> for v12::Properties {
    fn from(device: Device) -> Self {
        Self {
            name: c_string(device.name),
            pci_path: pci_path(&device),
            guid: device.guid,
            ptr_support: device.ptr_support,
            reg_is_global: 0,
            force_flush: 0,
            speed: device.speed_mbps,
            port: device.port,
            latency: 0.0,
            max_comms: MAX_COMMS,
            max_recvs: MAX_RECVS_C,
            net_device_type: abi::NET_DEVICE_HOST,
            net_device_version: abi::NET_DEVICE_INVALID_VERSION,
            v_props: {
                let (ndevs, devs) = device.members();
                v12::VDeviceProps { ndevs, devs }
            },
            max_p2p_bytes: MESSAGE_BYTES_MAX,
            max_coll_bytes: MESSAGE_BYTES_MAX,
            max_multi_request_size: 1,
            rail_id: abi::NET_ID_UNDEF,
            plane_id: abi::NET_ID_UNDEF,
        }
    }
}

// Connections

/// # Safety
/// `handle` is null or points to [`HANDLE_BYTES`] bytes, and `listen_comm` to a pointer if it isn't null.
unsafe fn listen(
    session: impl FnOnce() -> Result<Session, Failure>,
    device: c_int,
    handle: *mut c_void,
    listen_comm: *mut *mut c_void,
) -> ResultCode {
    guard("listen", || {
        // SAFETY: the caller's promise, here and below.
        unsafe { put(listen_comm, null_mut(), "listenComm") }?;
        let (listener, bytes) = session()?.listen(device_index(device)?)?;
        // SAFETY: as above.
        unsafe { put(handle.cast::<[u8; HANDLE_BYTES]>(), bytes, "handle") }?;
        let listener = Box::into_raw(Box::new(listener));
        // SAFETY: as above.
        unsafe { put(listen_comm, listener.cast(), "listenComm") }
    })
}

/// # Safety
/// As for [`listen`].
unsafe fn connect(
    session: impl FnOnce() -> Result<Session, Failure>,
    device: c_int,
    handle: *mut c_void,
    send_comm: *mut *mut c_void,
) -> ResultCode {
    guard("connect", || {
        // SAFETY: the caller's promise, here and below.
        unsafe { put(send_comm, null_mut(), "sendComm") }?;
        // SAFETY: as above; between calls the handle is NCCL's, during one it is ours alone.
        let handle = unsafe { handle.cast::<[u8; HANDLE_BYTES]>().as_mut() }
            .ok_or_else(|| Failure::argument("handle is null"))?;
        let Some(connection) = session()?.connect(device_index(device)?, handle)? else {
            return Ok(());
        };
        // SAFETY: as above.
        unsafe { put(send_comm, Comm::sending(connection), "sendComm") }
    })
}

/// # Safety
/// `listen_comm` is null or came from [`listen`] and isn't closed; `recv_comm` is null or may be written.
unsafe fn accept(listen_comm: *mut c_void, recv_comm: *mut *mut c_void) -> ResultCode {
    guard("accept", || {
        // SAFETY: the caller's promise, here and below.
        unsafe { put(recv_comm, null_mut(), "recvComm") }?;
        // SAFETY: as above.
        let listener = unsafe { listen_comm.cast::<Listener>().as_ref() }
            .ok_or_else(|| Failure::argument("listenComm is null"))?;
        let Some(connection) = listener.accept()? else {
            return Ok(());
        };
        // SAFETY: as above.
        unsafe { put(recv_comm, Comm::receiving(connection), "recvComm") }
    })
}

fn device_index(device: c_int) -> Result<usize, Failure> {
    usize::try_from(device).map_err(|_| Failure::argument(format!("there is no device {device}")))
}

unsafe extern "C" fn listen_v6(
    device: c_int,
    handle: *mut c_void,
    listen_comm: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `listen`.
    unsafe { listen(process::session, device, handle, listen_comm) }
}

unsafe extern "C" fn listen_v11(
    context: *mut c_void,
    device: c_int,
    handle: *mut c_void,
    listen_comm: *mut *mut c_void,
) -> ResultCode {
    let session = || process::session_of(context);
    // SAFETY: what NCCL passes to `listen`.
    unsafe { listen(session, device, handle, listen_comm) }
}

unsafe extern "C" fn connect_v6(
    device: c_int,
    handle: *mut c_void,
    send_comm: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `connect`.
    unsafe { connect(process::session, device, handle, send_comm) }
}

unsafe extern "C" fn connect_v7(
    device: c_int,
    handle: *mut c_void,
    send_comm: *mut *mut c_void,
    _device_handle: *mut *mut NetDeviceHandle,
) -> ResultCode {
    // SAFETY: what NCCL passes to `connect`.
    unsafe { connect(process::session, device, handle, send_comm) }
}

unsafe extern "C" fn connect_v10(
    device: c_int,
    _config: *const CommConfig,
    handle: *mut c_void,
    send_comm: *mut *mut c_void,
    _device_handle: *mut *mut NetDeviceHandle,
) -> ResultCode {
    // SAFETY: what NCCL passes to `connect`.
    unsafe { connect(process::session, device, handle, send_comm) }
}

unsafe extern "C" fn connect_v11(
    context: *mut c_void,
    device: c_int,
    handle: *mut c_void,
    send_comm: *mut *mut c_void,
    _device_handle: *mut *mut NetDeviceHandle,
) -> ResultCode {
    let session = || process::session_of(context);
    // SAFETY: what NCCL passes to `connect`.
    unsafe { connect(session, device, handle, send_comm) }
}

unsafe extern "C" fn accept_v6(
    listen_comm: *mut c_void,
    recv_comm: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `accept`.
    unsafe { accept(listen_comm, recv_comm) }
}

unsafe extern "C" fn accept_v7(
    listen_comm: *mut c_void,
    recv_comm: *mut *mut c_void,
    _device_handle: *mut *mut NetDeviceHandle,
) -> ResultCode {
    // SAFETY: what NCCL passes to `accept`.
    unsafe { accept(listen_comm, recv_comm) }
}

unsafe extern "C" fn close_comm(comm: *mut c_void) -> ResultCode {
    guard("close", || {
        // SAFETY: NCCL closes a comm once, and doesn't use it afterwards.
        unsafe { Comm::close(comm) };
        Ok(())
    })
}

unsafe extern "C" fn close_listen(listen_comm: *mut c_void) -> ResultCode {
    guard("closeListen", || {
        if !listen_comm.is_null() {
            // SAFETY: came from `listen`; NCCL closes it once, and doesn't use it afterwards.
            drop(unsafe { Box::from_raw(listen_comm.cast::<Listener>()) });
        }
        Ok(())
    })
}

// Memory

unsafe extern "C" fn reg_mr_v6(
    comm: *mut c_void,
    data: *mut c_void,
    size: c_int,
    kind: c_int,
    handle: *mut *mut c_void,
) -> ResultCode {
    guard("regMr", || {
        // SAFETY: what NCCL passes to `regMr`.
        unsafe { reg_mr(comm, data, bytes(size)?, kind, handle) }
    })
}

unsafe extern "C" fn reg_mr_v8(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    kind: c_int,
    handle: *mut *mut c_void,
) -> ResultCode {
    guard("regMr", || {
        // SAFETY: what NCCL passes to `regMr`.
        unsafe { reg_mr(comm, data, size, kind, handle) }
    })
}

/// # Safety
/// `comm` is as [`Comm::from_raw`] wants it; `handle` is null or may be written.
unsafe fn reg_mr(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    kind: c_int,
    handle: *mut *mut c_void,
) -> Result<(), Failure> {
    let kind = match kind {
        abi::PTR_HOST => Ok(MemoryKind::Host),
        abi::PTR_CUDA => Ok(MemoryKind::Gpu),
        _ => Err(Failure::argument(format!(
            "memory of type {kind} cannot be registered so, only the host's (1) and a GPU's (2)"
        ))),
    };
    // SAFETY: the caller's promise.
    unsafe { register(comm, data, size, kind, handle) }
}

unsafe extern "C" fn reg_mr_dma_buf(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    kind: c_int,
    offset: u64,
    fd: c_int,
    handle: *mut *mut c_void,
) -> ResultCode {
    guard("regMrDmaBuf", || {
        let buffer = match kind {
            // The descriptor is NCCL's, which closes it right afterwards.
            abi::PTR_CUDA => Ok(MemoryKind::DmaBuf(DmaBuf { fd, offset })),
            _ => Err(Failure::argument(format!(
                "memory of type {kind} cannot be a DMABUF, only a GPU's (2)"
            ))),
        };
        // SAFETY: what NCCL passes to `regMrDmaBuf`.
        unsafe { register(comm, data, size, buffer, handle) }
    })
}

/// # Safety
/// As for [`reg_mr`].
unsafe fn register(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    kind: Result<MemoryKind, Failure>,
    handle: *mut *mut c_void,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise, here and below.
    unsafe { put(handle, null_mut(), "mhandle") }?;
    let kind = kind?;
    // SAFETY: as above.
    let comm = unsafe { Comm::from_raw(comm) }?;
    // SAFETY: NCCL deregisters memory before it frees it.
    let registered = unsafe { comm.register(data, size, kind) }?;
    // SAFETY: as above.
    unsafe { put(handle, registered, "mhandle") }
}

unsafe extern "C" fn dereg_mr(comm: *mut c_void, handle: *mut c_void) -> ResultCode {
    guard("deregMr", || {
        // SAFETY: a comm that NCCL hasn't closed.
        unsafe { Comm::from_raw(comm) }?.deregister(handle)
    })
}

/// A size from the versions where it is an int.
fn bytes(size: c_int) -> Result<usize, Failure> {
    usize::try_from(size).map_err(|_| Failure::argument(format!("the size is negative: {size}")))
}

// Messages

/// # Safety
/// As for [`Comm::from_raw`] and [`Comm::isend`]; `request` is null or may be written.
unsafe fn isend(
    comm: *mut c_void,
    data: *mut c_void,
    size: impl FnOnce() -> Result<usize, Failure>,
    tag: c_int,
    handle: *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    guard("isend", || {
        // SAFETY: the caller's promise, here and below.
        unsafe { put(request, null_mut(), "request") }?;
        // SAFETY: as above.
        let comm = unsafe { Comm::from_raw(comm) }?;
        // SAFETY: as above.
        let started = unsafe { comm.isend(data, size()?, tag, handle) }?;
        // SAFETY: as above.
        unsafe { put(request, started, "request") }
    })
}

unsafe extern "C" fn isend_v6(
    comm: *mut c_void,
    data: *mut c_void,
    size: c_int,
    tag: c_int,
    handle: *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `isend`.
    unsafe { isend(comm, data, || bytes(size), tag, handle, request) }
}

unsafe extern "C" fn isend_v9(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    tag: c_int,
    handle: *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `isend`.
    unsafe { isend(comm, data, || Ok(size), tag, handle, request) }
}

unsafe extern "C" fn isend_v10(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    tag: c_int,
    handle: *mut c_void,
    _profiler_handle: *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `isend`.
    unsafe { isend(comm, data, || Ok(size), tag, handle, request) }
}

const NO_SLOT: Slot = Slot {
    data: null_mut(),
    len: 0,
    tag: 0,
    handle: null_mut(),
};

/// The number of messages of a grouped receive.
fn messages(count: c_int) -> Result<usize, Failure> {
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=MAX_RECVS).contains(count))
        .ok_or_else(|| Failure::argument(format!("{count} buffers; it takes 1 to {MAX_RECVS}")))
}

/// # Safety
/// As for [`Comm::from_raw`] and [`Comm::irecv`]; each array is null or has `count` elements,
/// and `request` is null or may be written.
#[expect(clippy::too_many_arguments, reason = "NCCL's function has as many")]
unsafe fn irecv<S: Copy>(
    comm: *mut c_void,
    count: c_int,
    data: *mut *mut c_void,
    sizes: *mut S,
    to_bytes: fn(S) -> Result<usize, Failure>,
    tags: *mut c_int,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    guard("irecv", || {
        // SAFETY: the caller's promise, here and below.
        unsafe { put(request, null_mut(), "request") }?;
        let count = messages(count)?;
        if data.is_null() || sizes.is_null() || tags.is_null() || handles.is_null() {
            return Err(Failure::argument("an array is null"));
        }
        let mut slots = [NO_SLOT; MAX_RECVS];
        for (i, slot) in slots.iter_mut().enumerate().take(count) {
            // SAFETY: as above: the arrays have `count` elements.
            unsafe {
                *slot = Slot {
                    data: *data.add(i),
                    len: to_bytes(*sizes.add(i))?,
                    tag: *tags.add(i),
                    handle: *handles.add(i),
                };
            }
        }
        // SAFETY: as above.
        let comm = unsafe { Comm::from_raw(comm) }?;
        // SAFETY: as above.
        let started = unsafe { comm.irecv(&slots[..count]) }?;
        // SAFETY: as above.
        unsafe { put(request, started, "request") }
    })
}

unsafe extern "C" fn irecv_v6(
    comm: *mut c_void,
    count: c_int,
    data: *mut *mut c_void,
    sizes: *mut c_int,
    tags: *mut c_int,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `irecv`.
    unsafe { irecv(comm, count, data, sizes, bytes, tags, handles, request) }
}

unsafe extern "C" fn irecv_v9(
    comm: *mut c_void,
    count: c_int,
    data: *mut *mut c_void,
    sizes: *mut usize,
    tags: *mut c_int,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `irecv`.
    unsafe { irecv(comm, count, data, sizes, Ok, tags, handles, request) }
}

unsafe extern "C" fn irecv_v10(
    comm: *mut c_void,
    count: c_int,
    data: *mut *mut c_void,
    sizes: *mut usize,
    tags: *mut c_int,
    handles: *mut *mut c_void,
    _profiler_handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    // SAFETY: what NCCL passes to `irecv`.
    unsafe { irecv(comm, count, data, sizes, Ok, tags, handles, request) }
}

unsafe extern "C" fn iflush(
    comm: *mut c_void,
    count: c_int,
    data: *mut *mut c_void,
    sizes: *mut c_int,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> ResultCode {
    guard("iflush", || {
        // SAFETY: what NCCL passes to `iflush`, here and below. A null request is one that is done.
        unsafe { put(request, null_mut(), "request") }?;
        let count = messages(count)?;
        if data.is_null() || sizes.is_null() || handles.is_null() {
            return Err(Failure::argument("an array is null"));
        }
        let mut slots = [NO_SLOT; MAX_RECVS];
        for (i, slot) in slots.iter_mut().enumerate().take(count) {
            // SAFETY: as above: the arrays have `count` elements.
            unsafe {
                *slot = Slot {
                    data: *data.add(i),
                    len: bytes(*sizes.add(i))?,
                    tag: 0,
                    handle: *handles.add(i),
                };
            }
        }
        // SAFETY: as above.
        let comm = unsafe { Comm::from_raw(comm) }?;
        // SAFETY: as above.
        let started = unsafe { comm.iflush(&slots[..count]) }?;
        // SAFETY: as above.
        unsafe { put(request, started, "request") }
    })
}

unsafe extern "C" fn test(request: *mut c_void, done: *mut c_int, sizes: *mut c_int) -> ResultCode {
    guard("test", || {
        // SAFETY: NCCL's pointer to where it wants the answer.
        unsafe { put(done, 0, "done") }?;
        let request = NonNull::new(request).ok_or_else(|| Failure::argument("request is null"))?;
        // SAFETY: a request that NCCL got from us and hasn't seen done.
        match unsafe { Comm::test(request) }? {
            Progress::NotYet => Ok(()),
            Progress::Done(count, bytes) => {
                if !sizes.is_null() {
                    // SAFETY: NCCL's array has room for the messages of the request, not more.
                    unsafe { sizes.copy_from_nonoverlapping(bytes.as_ptr(), count) };
                }
                // SAFETY: as above.
                unsafe { put(done, 1, "done") }
            }
        }
    })
}
