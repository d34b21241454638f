//! One face for the tables of all versions, and what most tests need around it. The tables are
//! called the way NCCL calls them: through copies of their function pointers.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unsafe_code, reason = "the interface is C")]

use nccl_net_thalweg::abi::{
    CommConfig, DebugLogger, HANDLE_BYTES, NetDeviceHandle, PTR_HOST, ResultCode, calls, v6, v7,
    v8, v9, v10, v11, v12,
};
use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// No test waits longer than this for anything; longer in the guest of `lab/roce.sh`, which is slow.
fn patience() -> Duration {
    Duration::from_secs(if over_rdma() { 200 } else { 30 })
}

/// Whether the tests are to go over RDMA, between the devices of `lab/roce.sh` (`make test-roce`).
pub fn over_rdma() -> bool {
    std::env::var("THALWEG_TRANSPORT").as_deref() == Ok("verbs")
}

/// The device that the tests send from.
pub fn near() -> c_int {
    0
}

/// The device that they receive at. Over TCP there is only one; over RDMA this is the other end of a
/// wire, and the devices behind both are the ends of another.
pub fn far() -> c_int {
    if over_rdma() { 2 } else { 0 }
}

/// A table of any version.
#[derive(Debug, Clone, Copy)]
pub enum Table {
    V6(v6::Net),
    V7(v7::Net),
    V8(v8::Net),
    V9(v9::Net),
    V10(v10::Net),
    V11(v11::Net),
    V12(v12::Net),
}

impl Table {
    /// Our table of a version.
    pub fn of_version(version: u32) -> Self {
        use nccl_net_thalweg as plugin;
        match version {
            6 => Self::V6(plugin::ncclNetPlugin_v6),
            7 => Self::V7(plugin::ncclNetPlugin_v7),
            8 => Self::V8(plugin::ncclNetPlugin_v8),
            9 => Self::V9(plugin::ncclNetPlugin_v9),
            10 => Self::V10(plugin::ncclNetPlugin_v10),
            11 => Self::V11(plugin::ncclNetPlugin_v11),
            12 => Self::V12(plugin::ncclNetPlugin_v12),
            _ => panic!("there is no version {version}"),
        }
    }

    pub fn version(&self) -> u32 {
        match self {
            Self::V6(_) => 6,
            Self::V7(_) => 7,
            Self::V8(_) => 8,
            Self::V9(_) => 9,
            Self::V10(_) => 10,
            Self::V11(_) => 11,
            Self::V12(_) => 12,
        }
    }
}

/// A function that all versions have with the same signature.
macro_rules! slot {
    ($table:expr, $slot:ident) => {
        match $table {
            Table::V6(net) => net.$slot,
            Table::V7(net) => net.$slot,
            Table::V8(net) => net.$slot,
            Table::V9(net) => net.$slot,
            Table::V10(net) => net.$slot,
            Table::V11(net) => net.$slot,
            Table::V12(net) => net.$slot,
        }
    };
}

/// A device's properties; where a version lacks one it is what NCCL takes it for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Properties {
    pub name: *mut c_char,
    pub pci_path: *mut c_char,
    pub guid: u64,
    pub ptr_support: c_int,
    pub speed: c_int,
    pub port: c_int,
    pub latency: f32,
    pub max_comms: c_int,
    pub max_recvs: c_int,
    pub net_device_type: c_int,
    pub net_device_version: c_int,
    /// The devices that it consists of: their number, and places for 8.
    pub vdevice: (c_int, [c_int; 8]),
    pub max_p2p_bytes: usize,
    pub max_coll_bytes: usize,
    pub max_multi_request_size: c_int,
    pub rail_id: i16,
    pub plane_id: i16,
}

/// What all versions have.
macro_rules! common {
    ($props:expr, $device:expr) => {
        Properties {
            name: $props.name,
            pci_path: $props.pci_path,
            guid: $props.guid,
            ptr_support: $props.ptr_support,
            speed: $props.speed,
            port: $props.port,
            latency: $props.latency,
            max_comms: $props.max_comms,
            max_recvs: $props.max_recvs,
            net_device_type: 0,
            net_device_version: 0,
            vdevice: (1, first_of_8(&[$device])),
            max_p2p_bytes: 1 << 30,
            max_coll_bytes: 1 << 30,
            max_multi_request_size: 1,
            rail_id: -1,
            plane_id: -1,
        }
    };
}

/// What came with version 7.
macro_rules! common_v7 {
    ($props:expr, $device:expr) => {
        Properties {
            net_device_type: $props.net_device_type,
            net_device_version: $props.net_device_version,
            ..common!($props, $device)
        }
    };
}

/// What came with version 9.
macro_rules! common_v9 {
    ($props:expr, $device:expr) => {
        Properties {
            vdevice: ($props.v_props.ndevs, first_of_8(&$props.v_props.devs)),
            max_p2p_bytes: $props.max_p2p_bytes,
            max_coll_bytes: $props.max_coll_bytes,
            ..common_v7!($props, $device)
        }
    };
}

/// An array of any version's length in that of the newest.
pub fn first_of_8(devices: &[c_int]) -> [c_int; 8] {
    let mut all = [0; 8];
    all[..devices.len()].copy_from_slice(devices);
    all
}

fn raw_properties<P>(
    function: Option<calls::GetProperties<P>>,
    device: c_int,
) -> Result<P, ResultCode> {
    let mut props = MaybeUninit::<P>::uninit();
    // SAFETY: the structure is of the function's own version.
    check(unsafe { function.expect("getProperties")(device, props.as_mut_ptr()) })?;
    // SAFETY: the function succeeded, so it has written all of it.
    Ok(unsafe { props.assume_init() })
}

pub fn check(code: ResultCode) -> Result<(), ResultCode> {
    match code {
        ResultCode::SUCCESS => Ok(()),
        error => Err(error),
    }
}

/// One buffer of a receive.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub data: *mut u8,
    pub len: usize,
    pub tag: c_int,
    pub handle: *mut c_void,
}

/// A plugin's table after `init`.
#[derive(Debug, Clone, Copy)]
pub struct Net {
    pub table: Table,
    pub context: *mut c_void,
}

// SAFETY: tables are constant and contexts may be used by any thread.
unsafe impl Send for Net {}
// SAFETY: as above.
unsafe impl Sync for Net {}

impl Net {
    /// Our plugin after `init`, on the loopback interface.
    pub fn open(version: u32) -> Self {
        use_loopback();
        Self::init(Table::of_version(version)).expect("init")
    }

    pub fn init(table: Table) -> Result<Self, ResultCode> {
        let mut context = null_mut();
        let log = Some(logger());
        let config = CommConfig { traffic_class: -1 };
        // SAFETY: the arguments are what each version of the interface asks for.
        let code = unsafe {
            match table {
                Table::V6(net) => net.init.expect("init")(log),
                Table::V7(net) => net.init.expect("init")(log),
                Table::V8(net) => net.init.expect("init")(log),
                Table::V9(net) => net.init.expect("init")(log),
                Table::V10(net) => net.init.expect("init")(log, None),
                Table::V11(net) => {
                    net.init.expect("init")(&raw mut context, 1, &raw const config, log, None)
                }
                Table::V12(net) => {
                    net.init.expect("init")(&raw mut context, 1, &raw const config, log, None)
                }
            }
        };
        check(code).map(|()| Self { table, context })
    }

    /// Where the version has it.
    pub fn finalize(&self) -> Result<(), ResultCode> {
        let finalize = match self.table {
            Table::V11(net) => net.finalize,
            Table::V12(net) => net.finalize,
            _ => return Ok(()),
        };
        // SAFETY: any context may be finalised.
        check(unsafe { finalize.expect("finalize")(self.context) })
    }

    pub fn devices(&self) -> Result<c_int, ResultCode> {
        let mut count = -1;
        // SAFETY: the pointer is valid.
        check(unsafe { slot!(self.table, devices).expect("devices")(&raw mut count) })?;
        Ok(count)
    }

    pub fn properties(&self, device: c_int) -> Result<Properties, ResultCode> {
        Ok(match self.table {
            Table::V6(net) => {
                let props = raw_properties(net.get_properties, device)?;
                common!(props, device)
            }
            Table::V7(net) => {
                let props = raw_properties(net.get_properties, device)?;
                common_v7!(props, device)
            }
            Table::V8(net) => {
                let props = raw_properties(net.get_properties, device)?;
                common_v7!(props, device)
            }
            Table::V9(net) => {
                let props = raw_properties(net.get_properties, device)?;
                common_v9!(props, device)
            }
            Table::V10(net) => {
                let props = raw_properties(net.get_properties, device)?;
                common_v9!(props, device)
            }
            Table::V11(net) => {
                let props = raw_properties(net.get_properties, device)?;
                Properties {
                    max_multi_request_size: props.max_multi_request_size,
                    ..common_v9!(props, device)
                }
            }
            Table::V12(net) => {
                let props = raw_properties(net.get_properties, device)?;
                Properties {
                    max_multi_request_size: props.max_multi_request_size,
                    rail_id: props.rail_id,
                    plane_id: props.plane_id,
                    ..common_v9!(props, device)
                }
            }
        })
    }

    /// Makes one device of `count` of these; `None` where the version has no such function.
    pub fn make_v_device(
        &self,
        count: c_int,
        devices: &[c_int],
    ) -> Option<Result<c_int, ResultCode>> {
        let (mut made, devs) = (-7, first_of_8(devices));
        let out = &raw mut made;
        let [a, b, c, d, ..] = devs;
        let mut small = v9::VDeviceProps {
            ndevs: count,
            devs: [a, b, c, d],
        };
        let mut large = v12::VDeviceProps { ndevs: count, devs };
        // SAFETY: the structure is of the function's own version.
        let code = unsafe {
            match self.table {
                Table::V6(_) | Table::V7(_) | Table::V8(_) => return None,
                Table::V9(net) => net.make_v_device.expect("makeVDevice")(out, &raw mut small),
                Table::V10(net) => net.make_v_device.expect("makeVDevice")(out, &raw mut small),
                Table::V11(net) => net.make_v_device.expect("makeVDevice")(out, &raw mut small),
                Table::V12(net) => net.make_v_device.expect("makeVDevice")(out, &raw mut large),
            }
        };
        let checked = check(code);
        assert!(checked.is_ok() || made == -7, "written on an error");
        Some(checked.map(|()| made))
    }

    pub fn listen(&self, device: c_int) -> Result<(*mut c_void, Handle), ResultCode> {
        let mut handle = Handle([0; HANDLE_BYTES]);
        let mut comm = STALE;
        let bytes = (&raw mut handle).cast();
        let out = &raw mut comm;
        // SAFETY: the handle has the size that the interface asks for.
        let code = unsafe {
            match self.table {
                Table::V6(net) => net.listen.expect("listen")(device, bytes, out),
                Table::V7(net) => net.listen.expect("listen")(device, bytes, out),
                Table::V8(net) => net.listen.expect("listen")(device, bytes, out),
                Table::V9(net) => net.listen.expect("listen")(device, bytes, out),
                Table::V10(net) => net.listen.expect("listen")(device, bytes, out),
                Table::V11(net) => net.listen.expect("listen")(self.context, device, bytes, out),
                Table::V12(net) => net.listen.expect("listen")(self.context, device, bytes, out),
            }
        };
        check(code).map(|()| (comm, handle))
    }

    /// Null if the connection isn't there yet. Passes rubbish where a device handle may be wanted.
    pub fn connect(&self, device: c_int, handle: &mut Handle) -> Result<*mut c_void, ResultCode> {
        let bytes: *mut c_void = std::ptr::from_mut(handle).cast();
        let mut comm = STALE;
        let out = &raw mut comm;
        let config = CommConfig { traffic_class: -1 };
        // SAFETY: the handle has the size that the interface asks for.
        let code = unsafe {
            match self.table {
                Table::V6(net) => net.connect.expect("connect")(device, bytes, out),
                Table::V7(net) => net.connect.expect("connect")(device, bytes, out, RUBBISH),
                Table::V8(net) => net.connect.expect("connect")(device, bytes, out, RUBBISH),
                Table::V9(net) => net.connect.expect("connect")(device, bytes, out, RUBBISH),
                Table::V10(net) => {
                    net.connect.expect("connect")(device, &raw const config, bytes, out, RUBBISH)
                }
                Table::V11(net) => {
                    net.connect.expect("connect")(self.context, device, bytes, out, RUBBISH)
                }
                Table::V12(net) => {
                    net.connect.expect("connect")(self.context, device, bytes, out, RUBBISH)
                }
            }
        };
        check(code).map(|()| comm)
    }

    /// Null if nobody has connected yet.
    pub fn accept(&self, listen: *mut c_void) -> Result<*mut c_void, ResultCode> {
        let mut comm = STALE;
        let out = &raw mut comm;
        // SAFETY: the listen comm is open.
        let code = unsafe {
            match self.table {
                Table::V6(net) => net.accept.expect("accept")(listen, out),
                Table::V7(net) => net.accept.expect("accept")(listen, out, RUBBISH),
                Table::V8(net) => net.accept.expect("accept")(listen, out, RUBBISH),
                Table::V9(net) => net.accept.expect("accept")(listen, out, RUBBISH),
                Table::V10(net) => net.accept.expect("accept")(listen, out, RUBBISH),
                Table::V11(net) => net.accept.expect("accept")(listen, out, RUBBISH),
                Table::V12(net) => net.accept.expect("accept")(listen, out, RUBBISH),
            }
        };
        check(code).map(|()| comm)
    }

    pub fn reg_mr(
        &self,
        comm: *mut c_void,
        data: *mut u8,
        len: usize,
    ) -> Result<*mut c_void, ResultCode> {
        let mut handle = STALE;
        let out = &raw mut handle;
        let data = data.cast();
        let int = || c_int::try_from(len).expect("a size for this version");
        // SAFETY: the comm is open.
        let code = unsafe {
            match self.table {
                Table::V6(net) => net.reg_mr.expect("regMr")(comm, data, int(), PTR_HOST, out),
                Table::V7(net) => net.reg_mr.expect("regMr")(comm, data, int(), PTR_HOST, out),
                Table::V8(net) => net.reg_mr.expect("regMr")(comm, data, len, PTR_HOST, out),
                Table::V9(net) => net.reg_mr.expect("regMr")(comm, data, len, PTR_HOST, out),
                Table::V10(net) => net.reg_mr.expect("regMr")(comm, data, len, PTR_HOST, out),
                Table::V11(net) => net.reg_mr.expect("regMr")(comm, data, len, PTR_HOST, out),
                Table::V12(net) => net.reg_mr.expect("regMr")(comm, data, len, PTR_HOST, out),
            }
        };
        check(code).map(|()| handle)
    }

    /// With a descriptor that is none; the handle as well where it is refused.
    pub fn reg_mr_dma_buf(
        &self,
        comm: *mut c_void,
        data: *mut u8,
        len: usize,
        kind: c_int,
    ) -> Result<*mut c_void, (ResultCode, *mut c_void)> {
        let mut handle = STALE;
        let out = &raw mut handle;
        let call = slot!(self.table, reg_mr_dma_buf).expect("regMrDmaBuf");
        // SAFETY: the comm is open.
        let code = unsafe { call(comm, data.cast(), len, kind, 0, -1, out) };
        match check(code) {
            Ok(()) => Ok(handle),
            Err(code) => Err((code, handle)),
        }
    }

    /// Null if there is nothing to wait for.
    pub fn iflush(&self, comm: *mut c_void, slots: &[Slot]) -> Result<*mut c_void, ResultCode> {
        let mut request = STALE;
        let out = &raw mut request;
        let count = c_int::try_from(slots.len()).expect("a small number");
        let mut data: Vec<*mut c_void> = slots.iter().map(|slot| slot.data.cast()).collect();
        let mut sizes: Vec<c_int> = slots
            .iter()
            .map(|slot| c_int::try_from(slot.len).unwrap_or(c_int::MAX))
            .collect();
        let mut handles: Vec<*mut c_void> = slots.iter().map(|slot| slot.handle).collect();
        let (data, sizes, handles) = (data.as_mut_ptr(), sizes.as_mut_ptr(), handles.as_mut_ptr());
        let call = slot!(self.table, iflush).expect("iflush");
        // SAFETY: the comm is open, and the tests keep their buffers until the request is done.
        check(unsafe { call(comm, count, data, sizes, handles, out) }).map(|()| request)
    }

    pub fn dereg_mr(&self, comm: *mut c_void, handle: *mut c_void) -> Result<(), ResultCode> {
        // SAFETY: the comm is open.
        check(unsafe { slot!(self.table, dereg_mr).expect("deregMr")(comm, handle) })
    }

    /// Null if the request was not accepted.
    pub fn isend(
        &self,
        comm: *mut c_void,
        data: *mut u8,
        len: usize,
        tag: c_int,
        handle: *mut c_void,
    ) -> Result<*mut c_void, ResultCode> {
        let mut request = STALE;
        let out = &raw mut request;
        let data = data.cast();
        let int = || c_int::try_from(len).expect("a size for this version");
        // SAFETY: the comm is open, and the tests keep their buffers until the request is done.
        let code = unsafe {
            match self.table {
                Table::V6(net) => net.isend.expect("isend")(comm, data, int(), tag, handle, out),
                Table::V7(net) => net.isend.expect("isend")(comm, data, int(), tag, handle, out),
                Table::V8(net) => net.isend.expect("isend")(comm, data, int(), tag, handle, out),
                Table::V9(net) => net.isend.expect("isend")(comm, data, len, tag, handle, out),
                Table::V10(net) => {
                    net.isend.expect("isend")(comm, data, len, tag, handle, STALE, out)
                }
                Table::V11(net) => {
                    net.isend.expect("isend")(comm, data, len, tag, handle, STALE, out)
                }
                Table::V12(net) => {
                    net.isend.expect("isend")(comm, data, len, tag, handle, STALE, out)
                }
            }
        };
        check(code).map(|()| request)
    }

    /// Null if the request was not accepted. `preset` is what the request holds before.
    pub fn irecv(
        &self,
        comm: *mut c_void,
        slots: &[Slot],
        preset: *mut c_void,
    ) -> Result<*mut c_void, ResultCode> {
        let mut request = preset;
        let out = &raw mut request;
        let count = c_int::try_from(slots.len()).expect("a small number");
        let mut data: Vec<*mut c_void> = slots.iter().map(|slot| slot.data.cast()).collect();
        let mut sizes: Vec<usize> = slots.iter().map(|slot| slot.len).collect();
        let mut ints: Vec<c_int> = sizes
            .iter()
            .map(|&len| c_int::try_from(len).unwrap_or(c_int::MAX))
            .collect();
        let mut tags: Vec<c_int> = slots.iter().map(|slot| slot.tag).collect();
        let mut handles: Vec<*mut c_void> = slots.iter().map(|slot| slot.handle).collect();
        let mut events = vec![STALE; slots.len()];
        let (data, sizes, ints) = (data.as_mut_ptr(), sizes.as_mut_ptr(), ints.as_mut_ptr());
        let (tags, handles, events) =
            (tags.as_mut_ptr(), handles.as_mut_ptr(), events.as_mut_ptr());
        // SAFETY: the comm is open, and the tests keep their buffers until the request is done.
        let code = unsafe {
            match self.table {
                Table::V6(net) => {
                    net.irecv.expect("irecv")(comm, count, data, ints, tags, handles, out)
                }
                Table::V7(net) => {
                    net.irecv.expect("irecv")(comm, count, data, ints, tags, handles, out)
                }
                Table::V8(net) => {
                    net.irecv.expect("irecv")(comm, count, data, ints, tags, handles, out)
                }
                Table::V9(net) => {
                    net.irecv.expect("irecv")(comm, count, data, sizes, tags, handles, out)
                }
                Table::V10(net) => {
                    net.irecv.expect("irecv")(comm, count, data, sizes, tags, handles, events, out)
                }
                Table::V11(net) => {
                    net.irecv.expect("irecv")(comm, count, data, sizes, tags, handles, events, out)
                }
                Table::V12(net) => {
                    net.irecv.expect("irecv")(comm, count, data, sizes, tags, handles, events, out)
                }
            }
        };
        check(code).map(|()| request)
    }

    /// Whether a request is done. `sizes` may be null.
    pub fn test(&self, request: *mut c_void, sizes: *mut c_int) -> Result<bool, ResultCode> {
        let mut done = -1;
        // SAFETY: the request is outstanding, and `sizes` has room for its messages.
        check(unsafe { slot!(self.table, test).expect("test")(request, &raw mut done, sizes) })?;
        assert!(done == 0 || done == 1, "done is {done}");
        Ok(done == 1)
    }

    pub fn close_send(&self, comm: *mut c_void) {
        // SAFETY: the comm is open and not used afterwards.
        check(unsafe { slot!(self.table, close_send).expect("closeSend")(comm) })
            .expect("closeSend");
    }

    pub fn close_recv(&self, comm: *mut c_void) {
        // SAFETY: the comm is open and not used afterwards.
        check(unsafe { slot!(self.table, close_recv).expect("closeRecv")(comm) })
            .expect("closeRecv");
    }

    pub fn close_listen(&self, comm: *mut c_void) {
        // SAFETY: the comm is open and not used afterwards.
        check(unsafe { slot!(self.table, close_listen).expect("closeListen")(comm) })
            .expect("closeListen");
    }

    /// A request's sizes, once it and all of `others` are done; in any order.
    pub fn finish(&self, requests: &[*mut c_void]) -> Vec<[c_int; 8]> {
        let mut sizes = vec![[-1; 8]; requests.len()];
        let mut done = vec![false; requests.len()];
        wait_for("requests", || {
            for (i, &request) in requests.iter().enumerate() {
                if !done[i] {
                    done[i] = self.test(request, sizes[i].as_mut_ptr()).expect("test");
                }
            }
            done.iter().all(|&done| done)
        });
        sizes
    }

    /// How a request ends that is not going to succeed.
    pub fn fails(&self, request: *mut c_void) -> ResultCode {
        let mut code = None;
        wait_for("an error", || {
            match self.test(request, null_mut()) {
                Ok(done) => assert!(!done, "the request succeeded"),
                Err(error) => code = Some(error),
            }
            code.is_some()
        });
        code.expect("there was one")
    }
}

/// A handle in the alignment that a C array of chars has, which is none.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Handle(pub [u8; HANDLE_BYTES]);

/// What an earlier call left behind, where a result is going to be.
pub const STALE: *mut c_void = std::ptr::without_provenance_mut(0xdead_beef);
/// Some callers pass a pointer here that doesn't point to a device handle. Whoever follows this
/// one crashes.
pub const RUBBISH: *mut *mut NetDeviceHandle = std::ptr::without_provenance_mut(8);

/// A connection with both ends in this process.
pub struct Pair {
    pub net: Net,
    pub send: *mut c_void,
    pub recv: *mut c_void,
}

impl Pair {
    pub fn open(version: u32) -> Self {
        Self::on(Net::open(version))
    }

    pub fn on(net: Net) -> Self {
        Self::between(net, near(), far())
    }

    /// From one device to another.
    pub fn between(net: Net, from: c_int, to: c_int) -> Self {
        let (listen, mut handle) = net.listen(to).expect("listen");
        let pair = Self::from_through(net, from, listen, &mut handle);
        // As NCCL does, before the first message.
        net.close_listen(listen);
        pair
    }

    pub fn through(net: Net, listen: *mut c_void, handle: &mut Handle) -> Self {
        Self::from_through(net, near(), listen, handle)
    }

    fn from_through(net: Net, from: c_int, listen: *mut c_void, handle: &mut Handle) -> Self {
        let (mut send, mut recv): (*mut c_void, *mut c_void) = (null_mut(), null_mut());
        wait_for("a connection", || {
            if send.is_null() {
                send = net
                    .connect(from, handle)
                    .unwrap_or_else(|code| panic!("connect: {code:?}; log: {:#?}", logged("")));
            }
            if recv.is_null() {
                recv = net.accept(listen).expect("accept");
            }
            !send.is_null() && !recv.is_null()
        });
        Self { net, send, recv }
    }

    /// Sends one message and receives it; both buffers are registered for the occasion.
    pub fn transfer(&self, message: &mut [u8], buffer: &mut [u8]) -> usize {
        let to = self.slot(buffer, 7);
        let from = self
            .net
            .reg_mr(self.send, message.as_mut_ptr(), message.len())
            .expect("regMr");
        let requests = [
            accepted("irecv", || self.net.irecv(self.recv, &[to], STALE)),
            accepted("isend", || {
                self.net
                    .isend(self.send, message.as_mut_ptr(), message.len(), 7, from)
            }),
        ];
        let sizes = self.net.finish(&requests);
        self.net.dereg_mr(self.recv, to.handle).expect("deregMr");
        self.net.dereg_mr(self.send, from).expect("deregMr");
        usize::try_from(sizes[0][0]).expect("a size")
    }

    /// A buffer, registered to be received into.
    pub fn slot(&self, buffer: &mut [u8], tag: c_int) -> Slot {
        let data = buffer.as_mut_ptr();
        let handle = self
            .net
            .reg_mr(self.recv, data, buffer.len())
            .expect("regMr");
        Slot {
            data,
            len: buffer.len(),
            tag,
            handle,
        }
    }

    pub fn close(self) {
        self.net.close_send(self.send);
        self.net.close_recv(self.recv);
    }
}

/// Repeats a call until its request is accepted.
pub fn accepted(
    what: &str,
    mut call: impl FnMut() -> Result<*mut c_void, ResultCode>,
) -> *mut c_void {
    let mut request = null_mut();
    wait_for(what, || {
        request = call().expect(what);
        !request.is_null()
    });
    assert_ne!(request, STALE, "{what} left the request as it was");
    assert_ne!(request.addr(), 1, "{what} left the request as it was");
    request
}

/// Calls `done` until it says so.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut calls = 0_u32;
    while !done() {
        assert!(
            start.elapsed() < patience(),
            "still waiting for {what}; log: {:#?}",
            logged("")
        );
        calls += 1;
        if calls.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}

/// Bytes that depend on their position and on `seed`.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| {
            let x = (i + seed * 7919).wrapping_mul(0x9e37_79b1);
            (x >> 11).to_le_bytes()[0]
        })
        .collect()
}

/// Lets the plugin use the loopback interface and nothing else: paths over RDMA begin there, too.
pub fn use_loopback() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all readers of the environment in this process come through here first.
        unsafe { std::env::set_var("THALWEG_IFNAME", "=lo") };
    });
}

static LOG: Mutex<Vec<(c_int, String)>> = Mutex::new(Vec::new());

/// A logger as NCCL's: variadic, and only ever called with one string.
pub fn logger() -> DebugLogger {
    extern "C" fn log(
        level: c_int,
        _flags: c_ulong,
        _file: *const c_char,
        _line: c_int,
        format: *const c_char,
        text: *const c_char,
    ) {
        // SAFETY: both are strings of the caller's.
        let (format, text) = unsafe { (CStr::from_ptr(format), CStr::from_ptr(text)) };
        assert_eq!(format, c"%s");
        let line = text.to_string_lossy().into_owned();
        LOG.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((level, line));
    }
    type Fixed = extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, *const c_char);
    // SAFETY: Rust cannot define a variadic function yet. On the platforms that NCCL runs on, a
    // pointer among the first arguments travels the same way whether or not it is variadic.
    unsafe { std::mem::transmute::<Fixed, DebugLogger>(log) }
}

/// The lines that were logged so far and hold `text`, with their levels.
pub fn logged(text: &str) -> Vec<(c_int, String)> {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.iter()
        .filter(|(_, line)| line.contains(text))
        .cloned()
        .collect()
}

/// The plugin as NCCL loads it; Cargo builds it together with the tests.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("libnccl_net_thalweg.so"))
        .find(|path| path.exists())
        .expect("libnccl_net_thalweg.so beside the test")
}

/// Whether a program that a test needs is here. Says so if not, so that nobody takes a skipped
/// test for a passed one.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// What a command prints; it must succeed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    out
}
