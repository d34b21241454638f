//! One Rust face for the C tables of NCCL net plugins, `ncclNetPlugin_v6` to `_v12`. It exists so that
//! a benchmark, a demo and a test suite can drive any plugin, of any version, through the same calls;
//! it knows nothing of this project's own library and can therefore judge it.
//!
//! A [`Net`] is a loaded table. [`Net::init`] gives a [`Context`] (what NCCL keeps per communicator);
//! [`Net::listen`], [`Net::connect`] and [`Net::accept`] give comms; none of them blocks. Comms,
//! registrations and requests are plain handles: they must be closed while their `Net` still lives.
//! Thread rules are NCCL's: a comm is driven by one thread at a time, except that memory may be
//! registered while another thread sends.
#![allow(
    unsafe_code,
    reason = "calls the functions of a C table; each block says why it may"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "what is closed is consumed, so that it cannot be used again"
)]
#![allow(
    dead_code,
    reason = "shared by programs and tests, each of which needs another part"
)]

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::fmt;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Bytes of a connection handle (`NCCL_NET_HANDLE_MAXSIZE`).
pub const HANDLE_BYTES: usize = 128;
/// Requests that a comm must be able to hold (`NCCL_NET_MAX_REQUESTS`).
pub const MAX_REQUESTS: usize = 32;
/// The most receives that this file puts into one group; NCCL's own plugins stop at 8.
pub const MAX_GROUP: usize = 8;
/// Memory kind "host" (`NCCL_PTR_HOST`).
pub const PTR_HOST: c_int = 1;
/// Versions that can be loaded, newest first: the order in which NCCL looks.
pub const VERSIONS: [u32; 7] = [12, 11, 10, 9, 8, 7, 6];
/// What NCCL stores in `*request` before an irecv whose completion may be skipped.
pub const OPTIONAL_RECV_COMPLETION: *mut c_void = ptr::without_provenance_mut(1);

type Result<T> = std::result::Result<T, NetError>;
type Ptr = *mut c_void;

/// A call of the table that returned something other than `ncclSuccess`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetError {
    /// Which call.
    pub call: &'static str,
    /// The `ncclResult_t` that it returned.
    pub code: i32,
}

/// `ncclResult_t` values.
pub mod code {
    /// `ncclSystemError`: the local network failed.
    pub const SYSTEM: i32 = 2;
    /// `ncclInternalError`: a fault of the plugin.
    pub const INTERNAL: i32 = 3;
    /// `ncclInvalidArgument`.
    pub const INVALID_ARGUMENT: i32 = 4;
    /// `ncclInvalidUsage`: among others, a message larger than its buffer.
    pub const INVALID_USAGE: i32 = 5;
    /// `ncclRemoteError`: the peer is gone.
    pub const REMOTE: i32 = 6;
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.code {
            1 => "unhandled cuda error",
            code::SYSTEM => "system error",
            code::INTERNAL => "internal error",
            code::INVALID_ARGUMENT => "invalid argument",
            code::INVALID_USAGE => "invalid usage",
            code::REMOTE => "remote error: the peer is gone",
            7 => "in progress",
            _ => "not an ncclResult_t",
        };
        write!(f, "{} returned {} ({meaning})", self.call, self.code)
    }
}

impl std::error::Error for NetError {}

/// Why a table could not be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file could not be opened as a shared library.
    Open(String),
    /// None of the wanted tables is exported.
    NoTable(String),
    /// A slot that NCCL calls unconditionally is NULL.
    EmptySlot {
        /// Version of the table.
        version: u32,
        /// Name of the slot.
        slot: &'static str,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(why) => write!(f, "cannot load the library: {why}"),
            Self::NoTable(why) => f.write_str(why),
            Self::EmptySlot { version, slot } => write!(
                f,
                "slot `{slot}` of ncclNetPlugin_v{version} is NULL, but NCCL calls it always"
            ),
        }
    }
}

impl std::error::Error for LoadError {}

// ---------------------------------------------------------------------------------------------
// The C side: tables and structures, in NCCL's order. Offsets are checked below.

/// The logger as a plugin sees it. The real one is variadic; see [`log_line`].
pub type Logger = unsafe extern "C" fn(
    c_int,
    c_ulong,
    *const c_char,
    c_int,
    *const c_char,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
);

type InitV6 = unsafe extern "C" fn(Logger) -> c_int;
type InitV10 = unsafe extern "C" fn(Logger, Ptr) -> c_int;
type InitV11 = unsafe extern "C" fn(*mut Ptr, u64, *mut CommConfig, Logger, Ptr) -> c_int;
type Devices = unsafe extern "C" fn(*mut c_int) -> c_int;
type GetProperties = unsafe extern "C" fn(c_int, Ptr) -> c_int;
type ListenV6 = unsafe extern "C" fn(c_int, Ptr, *mut Ptr) -> c_int;
type ListenV11 = unsafe extern "C" fn(Ptr, c_int, Ptr, *mut Ptr) -> c_int;
type ConnectV6 = unsafe extern "C" fn(c_int, Ptr, *mut Ptr) -> c_int;
type ConnectV7 = unsafe extern "C" fn(c_int, Ptr, *mut Ptr, *mut Ptr) -> c_int;
type ConnectV10 = unsafe extern "C" fn(c_int, *mut CommConfig, Ptr, *mut Ptr, *mut Ptr) -> c_int;
type ConnectV11 = unsafe extern "C" fn(Ptr, c_int, Ptr, *mut Ptr, *mut Ptr) -> c_int;
type AcceptV6 = unsafe extern "C" fn(Ptr, *mut Ptr) -> c_int;
type AcceptV7 = unsafe extern "C" fn(Ptr, *mut Ptr, *mut Ptr) -> c_int;
type RegMrV6 = unsafe extern "C" fn(Ptr, Ptr, c_int, c_int, *mut Ptr) -> c_int;
type RegMrV8 = unsafe extern "C" fn(Ptr, Ptr, usize, c_int, *mut Ptr) -> c_int;
type RegMrDmaBuf = unsafe extern "C" fn(Ptr, Ptr, usize, c_int, u64, c_int, *mut Ptr) -> c_int;
type DeregMr = unsafe extern "C" fn(Ptr, Ptr) -> c_int;
type IsendV6 = unsafe extern "C" fn(Ptr, Ptr, c_int, c_int, Ptr, *mut Ptr) -> c_int;
type IsendV9 = unsafe extern "C" fn(Ptr, Ptr, usize, c_int, Ptr, *mut Ptr) -> c_int;
type IsendV10 = unsafe extern "C" fn(Ptr, Ptr, usize, c_int, Ptr, Ptr, *mut Ptr) -> c_int;
type IrecvV6 =
    unsafe extern "C" fn(Ptr, c_int, *mut Ptr, *mut c_int, *mut c_int, *mut Ptr, *mut Ptr) -> c_int;
type IrecvV9 =
    unsafe extern "C" fn(Ptr, c_int, *mut Ptr, *mut usize, *mut c_int, *mut Ptr, *mut Ptr) -> c_int;
type IrecvV10 = unsafe extern "C" fn(
    Ptr,
    c_int,
    *mut Ptr,
    *mut usize,
    *mut c_int,
    *mut Ptr,
    *mut Ptr,
    *mut Ptr,
) -> c_int;
type Iflush = unsafe extern "C" fn(Ptr, c_int, *mut Ptr, *mut c_int, *mut Ptr, *mut Ptr) -> c_int;
type Test = unsafe extern "C" fn(Ptr, *mut c_int, *mut c_int) -> c_int;
type Close = unsafe extern "C" fn(Ptr) -> c_int;
type MakeVDevice = unsafe extern "C" fn(*mut c_int, Ptr) -> c_int;
type SetNetAttr = unsafe extern "C" fn(Ptr, *mut NetAttr) -> c_int;

/// Declares a table: `name` first, then one nullable slot per line.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($slot:ident: $call:ty,)* } size $size:literal) => {
        $(#[$doc])*
        #[repr(C)]
        struct $name {
            name: *const c_char,
            $($slot: Option<$call>,)*
        }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

table! {
    /// NCCL 2.13 and later.
    TableV6 {
        init: InitV6, devices: Devices, get_properties: GetProperties,
        listen: ListenV6, connect: ConnectV6, accept: AcceptV6,
        reg_mr: RegMrV6, reg_mr_dma_buf: RegMrDmaBuf, dereg_mr: DeregMr,
        isend: IsendV6, irecv: IrecvV6, iflush: Iflush, test: Test,
        close_send: Close, close_recv: Close, close_listen: Close,
    } size 136
}
table! {
    /// 2.19: device handles.
    TableV7 {
        init: InitV6, devices: Devices, get_properties: GetProperties,
        listen: ListenV6, connect: ConnectV7, accept: AcceptV7,
        reg_mr: RegMrV6, reg_mr_dma_buf: RegMrDmaBuf, dereg_mr: DeregMr,
        isend: IsendV6, irecv: IrecvV6, iflush: Iflush, test: Test,
        close_send: Close, close_recv: Close, close_listen: Close,
        get_device_mr: Close, irecv_consumed: Close,
    } size 152
}
table! {
    /// 2.20: registrations of 2 GiB and more.
    TableV8 {
        init: InitV6, devices: Devices, get_properties: GetProperties,
        listen: ListenV6, connect: ConnectV7, accept: AcceptV7,
        reg_mr: RegMrV8, reg_mr_dma_buf: RegMrDmaBuf, dereg_mr: DeregMr,
        isend: IsendV6, irecv: IrecvV6, iflush: Iflush, test: Test,
        close_send: Close, close_recv: Close, close_listen: Close,
        get_device_mr: Close, irecv_consumed: Close,
    } size 152
}
table! {
    /// 2.24: sizes of type `size_t`, virtual devices.
    TableV9 {
        init: InitV6, devices: Devices, get_properties: GetProperties,
        listen: ListenV6, connect: ConnectV7, accept: AcceptV7,
        reg_mr: RegMrV8, reg_mr_dma_buf: RegMrDmaBuf, dereg_mr: DeregMr,
        isend: IsendV9, irecv: IrecvV9, iflush: Iflush, test: Test,
        close_send: Close, close_recv: Close, close_listen: Close,
        get_device_mr: Close, irecv_consumed: Close, make_vdevice: MakeVDevice,
    } size 160
}
table! {
    /// 2.26: traffic class, profiler handles.
    TableV10 {
        init: InitV10, devices: Devices, get_properties: GetProperties,
        listen: ListenV6, connect: ConnectV10, accept: AcceptV7,
        reg_mr: RegMrV8, reg_mr_dma_buf: RegMrDmaBuf, dereg_mr: DeregMr,
        isend: IsendV10, irecv: IrecvV10, iflush: Iflush, test: Test,
        close_send: Close, close_recv: Close, close_listen: Close,
        get_device_mr: Close, irecv_consumed: Close, make_vdevice: MakeVDevice,
    } size 160
}
table! {
    /// 2.28 and 2.30 (v11 and v12): a context per communicator.
    TableV11 {
        init: InitV11, devices: Devices, get_properties: GetProperties,
        listen: ListenV11, connect: ConnectV11, accept: AcceptV7,
        reg_mr: RegMrV8, reg_mr_dma_buf: RegMrDmaBuf, dereg_mr: DeregMr,
        isend: IsendV10, irecv: IrecvV10, iflush: Iflush, test: Test,
        close_send: Close, close_recv: Close, close_listen: Close,
        get_device_mr: Close, irecv_consumed: Close, make_vdevice: MakeVDevice,
        finalize: Close, set_net_attr: SetNetAttr,
    } size 176
}

const _: () = {
    assert!(offset_of!(TableV11, isend) == 80);
    assert!(offset_of!(TableV11, test) == 104);
    assert!(offset_of!(TableV11, make_vdevice) == 152);
    assert!(offset_of!(TableV11, finalize) == 160);
    assert!(offset_of!(TableV11, set_net_attr) == 168);
};

/// `ncclNetCommConfig_t`.
#[repr(C)]
struct CommConfig {
    traffic_class: c_int,
}

/// `ncclNetAttr_t`: what NCCL tells a plugin about the operation to come; -1 is "undefined".
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NetAttr {
    /// Of the sending side: most and fewest peers at a time, most and fewest flows per peer.
    pub send: [i32; 4],
    /// The same of the receiving side.
    pub recv: [i32; 4],
    /// Bit mask of operations.
    pub op: u32,
    /// Bit mask of algorithms.
    pub algo: u32,
    /// Bit mask of protocols.
    pub proto: u32,
}

const _: () = assert!(size_of::<NetAttr>() == 44);

#[repr(C)]
#[derive(Clone, Copy)]
struct PropsV6 {
    name: *const c_char,
    pci_path: *const c_char,
    guid: u64,
    ptr_support: c_int,
    speed: c_int,
    port: c_int,
    latency: f32,
    max_comms: c_int,
    max_recvs: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PropsV7 {
    v6: PropsV6,
    net_device_type: c_int,
    net_device_version: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PropsV8 {
    name: *const c_char,
    pci_path: *const c_char,
    guid: u64,
    ptr_support: c_int,
    reg_is_global: c_int,
    speed: c_int,
    port: c_int,
    latency: f32,
    max_comms: c_int,
    max_recvs: c_int,
    net_device_type: c_int,
    net_device_version: c_int,
}

/// The part that v9 to v12 have in common.
#[repr(C)]
#[derive(Clone, Copy)]
struct PropsHead {
    name: *const c_char,
    pci_path: *const c_char,
    guid: u64,
    ptr_support: c_int,
    reg_is_global: c_int,
    force_flush: c_int,
    speed: c_int,
    port: c_int,
    latency: f32,
    max_comms: c_int,
    max_recvs: c_int,
    net_device_type: c_int,
    net_device_version: c_int,
}

/// v9, v10 (104 bytes) and v11 (8 more).
#[repr(C)]
#[derive(Clone, Copy)]
struct PropsV11 {
    head: PropsHead,
    ndevs: c_int,
    devs: [c_int; 4],
    max_p2p_bytes: usize,
    max_coll_bytes: usize,
    max_multi_request_size: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PropsV12 {
    head: PropsHead,
    ndevs: c_int,
    devs: [c_int; 8],
    max_p2p_bytes: usize,
    max_coll_bytes: usize,
    max_multi_request_size: c_int,
    rail_id: i16,
    plane_id: i16,
}

#[repr(C)]
struct VDeviceV9 {
    ndevs: c_int,
    devs: [c_int; 4],
}

#[repr(C)]
struct VDeviceV12 {
    ndevs: c_int,
    devs: [c_int; 8],
}

const _: () = {
    assert!(size_of::<PropsV6>() == 48 && size_of::<PropsV7>() == 56 && size_of::<PropsV8>() == 64);
    assert!(size_of::<PropsV11>() == 112 && size_of::<PropsV12>() == 128);
    assert!(offset_of!(PropsV11, ndevs) == 64 && offset_of!(PropsV11, max_p2p_bytes) == 88);
    assert!(offset_of!(PropsV11, max_multi_request_size) == 104);
    assert!(offset_of!(PropsV12, max_p2p_bytes) == 104 && offset_of!(PropsV12, rail_id) == 124);
    assert!(size_of::<VDeviceV9>() == 20 && size_of::<VDeviceV12>() == 36);
};

/// Room for the properties of any version, and a tail that no plugin may touch.
#[repr(C)]
union PropsRoom {
    v6: PropsV6,
    v7: PropsV7,
    v8: PropsV8,
    v11: PropsV11,
    v12: PropsV12,
    bytes: [u8; 192],
}

// ---------------------------------------------------------------------------------------------
// The uniform side.

/// A table's calls, brought to one shape; the variants are named after the version that began them.
struct Calls {
    init: Init,
    devices: Devices,
    get_properties: GetProperties,
    listen: Listen,
    connect: Connect,
    accept: Accept,
    reg_mr: RegMr,
    reg_mr_dma_buf: Option<RegMrDmaBuf>,
    dereg_mr: DeregMr,
    isend: Isend,
    irecv: Irecv,
    iflush: Option<Iflush>,
    test: Test,
    close_send: Close,
    close_recv: Close,
    close_listen: Close,
    make_vdevice: Option<MakeVDevice>,
    finalize: Option<Close>,
    set_net_attr: Option<SetNetAttr>,
}

enum Init {
    V6(InitV6),
    V10(InitV10),
    V11(InitV11),
}
enum Listen {
    V6(ListenV6),
    V11(ListenV11),
}
enum Connect {
    V6(ConnectV6),
    V7(ConnectV7),
    V10(ConnectV10),
    V11(ConnectV11),
}
enum Accept {
    V6(AcceptV6),
    V7(AcceptV7),
}
enum RegMr {
    V6(RegMrV6),
    V8(RegMrV8),
}
enum Isend {
    V6(IsendV6),
    V9(IsendV9),
    V10(IsendV10),
}
enum Irecv {
    V6(IrecvV6),
    V9(IrecvV9),
    V10(IrecvV10),
}

/// A loaded table of some version.
pub struct Net {
    calls: Calls,
    version: u32,
    name: String,
    /// Closed last: the calls live in it.
    _library: Library,
}

/// What NCCL keeps per communicator; empty before v11.
#[derive(Debug)]
pub struct Context {
    raw: Ptr,
    traffic_class: i32,
}

/// The 128 bytes that a listener hands to its peer; a plugin may keep the state of a connect in it.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Handle(pub [u8; HANDLE_BYTES]);

/// A listening endpoint.
#[derive(Debug)]
pub struct ListenComm(Ptr);
/// The sending end of a connection.
#[derive(Debug)]
pub struct SendComm(Ptr);
/// The receiving end of a connection.
#[derive(Debug)]
pub struct RecvComm(Ptr);
/// Registered memory of one comm.
#[derive(Debug)]
pub struct Mr(Ptr);
/// A send or receive in flight.
#[derive(Debug, PartialEq, Eq)]
pub struct Request(Ptr);

// SAFETY: NCCL itself passes contexts, comms, registrations and requests between its main, service
// and progress threads; a plugin must accept that. None of these types can be copied, so that two
// threads share one only by reference.
unsafe impl Send for Context {}
// SAFETY: as above; `listen` and `connect` read the context from several threads in NCCL.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for ListenComm {}
// SAFETY: as above.
unsafe impl Send for SendComm {}
// SAFETY: as above; sharing allows `reg_mr` beside the data path, the rest is `unsafe` to call.
unsafe impl Sync for SendComm {}
// SAFETY: as above.
unsafe impl Send for RecvComm {}
// SAFETY: as above.
unsafe impl Sync for RecvComm {}
// SAFETY: as above.
unsafe impl Send for Mr {}
// SAFETY: an `Mr` is only ever read.
unsafe impl Sync for Mr {}
// SAFETY: as above.
unsafe impl Send for Request {}

/// A comm on which memory can be registered.
pub trait Comm {
    /// The plugin's own pointer.
    fn raw(&self) -> *mut c_void;
}

impl Comm for SendComm {
    fn raw(&self) -> *mut c_void {
        self.0
    }
}

impl Comm for RecvComm {
    fn raw(&self) -> *mut c_void {
        self.0
    }
}

/// One receive of a group.
#[derive(Clone, Copy)]
pub struct RecvSlot<'a> {
    /// Where the message goes.
    pub data: *mut u8,
    /// Room there, in bytes.
    pub size: usize,
    /// Which send of the group it takes.
    pub tag: i32,
    /// The registration that covers `data`.
    pub mr: &'a Mr,
}

/// A device's properties; what a version does not have is filled in as NCCL's shims do.
#[derive(Clone, Debug, PartialEq)]
pub struct Properties {
    /// Name, unique per device.
    pub name: String,
    /// Path in sysfs.
    pub pci_path: Option<String>,
    /// Chip identity.
    pub guid: u64,
    /// Bit mask of memory kinds (host 1, CUDA 2, DMA-BUF 4).
    pub ptr_support: i32,
    /// Registrations hold for every comm.
    pub reg_is_global: bool,
    /// A flush is needed after every receive into GPU memory.
    pub force_flush: bool,
    /// Mb/s.
    pub speed_mbps: i32,
    /// Port number.
    pub port: i32,
    /// Microseconds; 0 lets NCCL choose.
    pub latency_us: f32,
    /// Most comms.
    pub max_comms: i32,
    /// Most receives in a group.
    pub max_recvs: i32,
    /// 0 is "host".
    pub net_device_type: i32,
    /// 0 is "invalid", as a host device must say.
    pub net_device_version: i32,
    /// The physical devices behind this one.
    pub devs: Vec<i32>,
    /// Largest message, in bytes.
    pub max_p2p_bytes: usize,
    /// Largest collective message, in bytes.
    pub max_coll_bytes: usize,
    /// Since v11; NCCL wants 1.
    pub max_multi_request_size: Option<i32>,
    /// Since v12; -1 is "undefined".
    pub rail_id: Option<i16>,
    /// Since v12; -1 is "undefined".
    pub plane_id: Option<i16>,
}

fn ok(call: &'static str, code: c_int) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(NetError { call, code })
    }
}

/// An argument that the version's narrower type cannot carry: NCCL's shim refuses it the same way.
fn narrow(call: &'static str, size: usize) -> Result<c_int> {
    c_int::try_from(size).map_err(|_| NetError {
        call,
        code: code::INVALID_ARGUMENT,
    })
}

impl Net {
    /// Opens a plugin as NCCL does and takes the newest table it exports, or the one of `version`.
    pub fn plugin(path: &Path, version: Option<u32>) -> std::result::Result<Self, LoadError> {
        let library = open(path)?;
        let wanted: Vec<u32> = match version {
            Some(v) => vec![v],
            None => VERSIONS.to_vec(),
        };
        for v in wanted {
            let symbol = format!("ncclNetPlugin_v{v}\0");
            // SAFETY: the symbol is only used as an address; `load` says what must stand there.
            let found = unsafe { library.get::<*mut c_void>(symbol.as_bytes()) };
            if let Ok(found) = found {
                let table = found.into_raw().cast_const();
                // SAFETY: by its name the symbol is NCCL's table of version `v`, immutable and
                // alive as long as the library, which the `Net` keeps.
                return unsafe { Self::load(library, v, table) };
            }
        }
        let which = version.map_or("any of ncclNetPlugin_v6 to _v12".to_owned(), |v| {
            format!("ncclNetPlugin_v{v}")
        });
        Err(LoadError::NoTable(format!(
            "{} does not export {which}",
            path.display()
        )))
    }

    /// Wraps a table found at `table` inside `library`.
    ///
    /// # Safety
    /// `table` points at an immutable `ncclNet_v<version>_t` that lives as long as the library.
    pub unsafe fn load(
        library: Library,
        version: u32,
        table: *const c_void,
    ) -> std::result::Result<Self, LoadError> {
        // SAFETY: the caller's promise.
        let (calls, name) = unsafe { read_table(version, table)? };
        let name = if name.is_null() {
            String::new()
        } else {
            // SAFETY: a table's name is a C string with static lifetime.
            unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned()
        };
        Ok(Self {
            calls,
            version,
            name,
            _library: library,
        })
    }

    /// The version of the table.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The name that NCCL compares with `NCCL_NET`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Initialises the plugin (before v11) or one communicator (since v11).
    pub fn init(&self, comm_id: u64, traffic_class: i32) -> Result<Context> {
        let mut raw = ptr::null_mut();
        let mut config = CommConfig { traffic_class };
        // SAFETY: the arguments are those of the version; the logger is a function of this program,
        // out pointers are valid during the call, and NULL is an allowed profiler callback.
        let rc = unsafe {
            match self.calls.init {
                Init::V6(f) => f(log_line),
                Init::V10(f) => f(log_line, ptr::null_mut()),
                Init::V11(f) => f(
                    &raw mut raw,
                    comm_id,
                    &raw mut config,
                    log_line,
                    ptr::null_mut(),
                ),
            }
        };
        ok("init", rc)?;
        Ok(Context { raw, traffic_class })
    }

    /// How many devices there are.
    pub fn devices(&self) -> Result<i32> {
        let mut count = 0;
        // SAFETY: one valid out pointer.
        ok("devices", unsafe { (self.calls.devices)(&raw mut count) })?;
        Ok(count)
    }

    /// The properties of a device. A plugin that writes past the structure of its version is
    /// reported as an internal error.
    pub fn properties(&self, dev: i32) -> Result<Properties> {
        const MARK: u8 = 0xa5;
        let mut room = PropsRoom { bytes: [MARK; 192] };
        let size = match self.version {
            6 => 48,
            7 => 56,
            8 => 64,
            9 | 10 => 104,
            11 => 112,
            _ => 128,
        };
        // SAFETY: plain bytes; every bit pattern is valid for them.
        unsafe { room.bytes[..size].fill(0) };
        // SAFETY: the room is larger than the structure of any version.
        ok("getProperties", unsafe {
            (self.calls.get_properties)(dev, (&raw mut room).cast())
        })?;
        // SAFETY: plain bytes.
        if unsafe { room.bytes[size..].iter().any(|&b| b != MARK) } {
            return Err(NetError {
                call: "getProperties (wrote past its structure)",
                code: code::INTERNAL,
            });
        }
        // SAFETY: the plugin filled the structure of its version, whose layout the variant has;
        // `PropsV11` only reads past v9's and v10's end where the version says so.
        Ok(unsafe { uniform_properties(self.version, &room) })
    }

    /// Starts to listen; the handle goes to the peer.
    pub fn listen(&self, context: &Context, dev: i32) -> Result<(ListenComm, Handle)> {
        let mut handle = Handle([0; HANDLE_BYTES]);
        let mut comm = ptr::null_mut();
        let h = handle.0.as_mut_ptr().cast();
        // SAFETY: `h` points at 128 bytes, `comm` is a valid out pointer, the context is the plugin's.
        let rc = unsafe {
            match self.calls.listen {
                Listen::V6(f) => f(dev, h, &raw mut comm),
                Listen::V11(f) => f(context.raw, dev, h, &raw mut comm),
            }
        };
        ok("listen", rc)?;
        if comm.is_null() {
            return Err(NetError {
                call: "listen (no comm)",
                code: code::INTERNAL,
            });
        }
        Ok((ListenComm(comm), handle))
    }

    /// One step of a connect: call again with the same handle until there is a comm.
    pub fn connect(
        &self,
        context: &Context,
        dev: i32,
        handle: &mut Handle,
    ) -> Result<Option<SendComm>> {
        let mut comm = ptr::null_mut();
        let mut device_handle = ptr::null_mut();
        let mut config = CommConfig {
            traffic_class: context.traffic_class,
        };
        let h = handle.0.as_mut_ptr().cast();
        let (c, d) = (&raw mut comm, &raw mut device_handle);
        // SAFETY: `h` points at 128 bytes that stay in place between the calls of this connect as
        // far as the plugin can tell (it may only use their content); the rest is as in `listen`.
        let rc = unsafe {
            match self.calls.connect {
                Connect::V6(f) => f(dev, h, c),
                Connect::V7(f) => f(dev, h, c, d),
                Connect::V10(f) => f(dev, &raw mut config, h, c, d),
                Connect::V11(f) => f(context.raw, dev, h, c, d),
            }
        };
        if rc != 0 && !comm.is_null() {
            // NCCL closes a comm that came with an error.
            let _ = self.close_send(SendComm(comm));
        }
        ok("connect", rc)?;
        Ok((!comm.is_null()).then_some(SendComm(comm)))
    }

    /// One step of an accept: call again until there is a comm.
    pub fn accept(&self, listener: &ListenComm) -> Result<Option<RecvComm>> {
        let mut comm = ptr::null_mut();
        let mut device_handle = ptr::null_mut();
        // SAFETY: a listener lives until `close_listen` consumes it; out pointers are valid.
        let rc = unsafe {
            match self.calls.accept {
                Accept::V6(f) => f(listener.0, &raw mut comm),
                Accept::V7(f) => f(listener.0, &raw mut comm, &raw mut device_handle),
            }
        };
        ok("accept", rc)?;
        Ok((!comm.is_null()).then_some(RecvComm(comm)))
    }

    /// Registers host memory on a comm.
    ///
    /// # Safety
    /// `data` points at `size` bytes that stay allocated until [`Self::dereg_mr`] or the close.
    pub unsafe fn reg_mr(&self, comm: &impl Comm, data: *mut u8, size: usize) -> Result<Mr> {
        let mut mr = ptr::null_mut();
        let (comm, data, out) = (comm.raw(), data.cast(), &raw mut mr);
        // SAFETY: the comm is open (closing consumes it), the memory is the caller's promise.
        let rc = unsafe {
            match self.calls.reg_mr {
                RegMr::V6(f) => f(comm, data, narrow("regMr", size)?, PTR_HOST, out),
                RegMr::V8(f) => f(comm, data, size, PTR_HOST, out),
            }
        };
        ok("regMr", rc)?;
        Ok(Mr(mr))
    }

    /// Registers memory behind a DMA-BUF descriptor; `None` where the plugin cannot.
    ///
    /// # Safety
    /// As [`Self::reg_mr`]; `kind` is a pointer kind of NCCL's, `fd` an open DMA-BUF.
    pub unsafe fn reg_mr_dma_buf(
        &self,
        comm: &impl Comm,
        data: *mut u8,
        size: usize,
        kind: i32,
        fd: i32,
    ) -> Option<Result<Mr>> {
        let call = self.calls.reg_mr_dma_buf?;
        let mut mr = ptr::null_mut();
        // SAFETY: the caller's promise.
        let rc = unsafe { call(comm.raw(), data.cast(), size, kind, 0, fd, &raw mut mr) };
        Some(ok("regMrDmaBuf", rc).map(|()| Mr(mr)))
    }

    /// Takes a registration back.
    ///
    /// # Safety
    /// `mr` was registered on this very comm.
    pub unsafe fn dereg_mr(&self, comm: &impl Comm, mr: Mr) -> Result<()> {
        // SAFETY: the caller's promise; `mr` is consumed, so that it happens once.
        ok("deregMr", unsafe {
            (self.calls.dereg_mr)(comm.raw(), mr.0)
        })
    }

    /// Posts a send; `None` when the plugin takes no more now.
    ///
    /// # Safety
    /// `data` points at `size` bytes inside `mr`, a registration of this comm, which stay allocated
    /// and unchanged until the request is done or the comm is closed. One thread per comm.
    pub unsafe fn isend(
        &self,
        comm: &SendComm,
        data: *const u8,
        size: usize,
        tag: i32,
        mr: &Mr,
    ) -> Result<Option<Request>> {
        let mut request = ptr::null_mut();
        // SAFETY: the caller's promise.
        unsafe { self.isend_into(comm, data, size, tag, mr, &mut request)? };
        Ok((!request.is_null()).then_some(Request(request)))
    }

    /// [`Self::isend`] with the caller's request slot, whose old content NCCL does not clear.
    ///
    /// # Safety
    /// As [`Self::isend`].
    pub unsafe fn isend_into(
        &self,
        comm: &SendComm,
        data: *const u8,
        size: usize,
        tag: i32,
        mr: &Mr,
        slot: &mut *mut c_void,
    ) -> Result<()> {
        let data = data.cast_mut().cast();
        // SAFETY: the caller's promise. A plugin never writes to what it sends, although the
        // interface has no `const`.
        let rc = unsafe {
            match self.calls.isend {
                Isend::V6(f) => f(comm.0, data, narrow("isend", size)?, tag, mr.0, slot),
                Isend::V9(f) => f(comm.0, data, size, tag, mr.0, slot),
                Isend::V10(f) => f(comm.0, data, size, tag, mr.0, ptr::null_mut(), slot),
            }
        };
        ok("isend", rc)
    }

    /// Posts a group of one to [`MAX_GROUP`] receives; `None` when the plugin takes no more now.
    ///
    /// # Safety
    /// Each slot's memory lies inside its `mr`, a registration of this comm, stays allocated, and
    /// is neither read nor written by anyone else until the request is done or the comm is closed.
    /// One thread per comm.
    pub unsafe fn irecv(&self, comm: &RecvComm, slots: &[RecvSlot<'_>]) -> Result<Option<Request>> {
        let mut request = ptr::null_mut();
        // SAFETY: the caller's promise.
        unsafe { self.irecv_into(comm, slots, &mut request)? };
        Ok((!request.is_null()).then_some(Request(request)))
    }

    /// [`Self::irecv`] with the caller's request slot; see [`OPTIONAL_RECV_COMPLETION`].
    ///
    /// # Safety
    /// As [`Self::irecv`].
    pub unsafe fn irecv_into(
        &self,
        comm: &RecvComm,
        slots: &[RecvSlot<'_>],
        request: &mut *mut c_void,
    ) -> Result<()> {
        let n = slots.len();
        if n == 0 || n > MAX_GROUP {
            return Err(NetError {
                call: "irecv (group of 1 to 8)",
                code: code::INVALID_ARGUMENT,
            });
        }
        let mut data = [ptr::null_mut(); MAX_GROUP];
        let mut sizes = [0usize; MAX_GROUP];
        let mut narrow_sizes = [0; MAX_GROUP];
        let mut tags = [0; MAX_GROUP];
        let mut mrs = [ptr::null_mut(); MAX_GROUP];
        let mut phandles = [ptr::null_mut(); MAX_GROUP];
        for (i, slot) in slots.iter().enumerate() {
            data[i] = slot.data.cast();
            sizes[i] = slot.size;
            tags[i] = slot.tag;
            mrs[i] = slot.mr.0;
        }
        let (n, data, tags, mrs) = (
            c_int::try_from(n).unwrap_or(c_int::MAX),
            data.as_mut_ptr(),
            tags.as_mut_ptr(),
            mrs.as_mut_ptr(),
        );
        // SAFETY: the arrays hold `n` entries and are read during the call only; the memory is the
        // caller's promise.
        let rc = unsafe {
            match self.calls.irecv {
                Irecv::V6(f) => {
                    for (narrow_size, &size) in narrow_sizes.iter_mut().zip(&sizes) {
                        *narrow_size = narrow("irecv", size)?;
                    }
                    f(
                        comm.0,
                        n,
                        data,
                        narrow_sizes.as_mut_ptr(),
                        tags,
                        mrs,
                        request,
                    )
                }
                Irecv::V9(f) => f(comm.0, n, data, sizes.as_mut_ptr(), tags, mrs, request),
                Irecv::V10(f) => {
                    let ph = phandles.as_mut_ptr();
                    f(comm.0, n, data, sizes.as_mut_ptr(), tags, mrs, ph, request)
                }
            }
        };
        ok("irecv", rc)
    }

    /// Asks whether a request is done, and drives the plugin. For receives, the first n entries of
    /// the returned array are the sizes of the messages; for a send, the first.
    ///
    /// # Safety
    /// The request has not yet been reported done, and its comm is open. One thread per comm.
    pub unsafe fn test(&self, request: &Request) -> Result<Option<[i32; MAX_GROUP]>> {
        let mut done = 0;
        let mut sizes = [0; MAX_GROUP];
        // SAFETY: the caller's promise; a plugin writes at most n <= MAX_GROUP sizes.
        ok("test", unsafe {
            (self.calls.test)(request.0, &raw mut done, sizes.as_mut_ptr())
        })?;
        Ok((done != 0).then_some(sizes))
    }

    /// [`Self::test`] with NULL for the sizes, as NCCL does for flushes.
    ///
    /// # Safety
    /// As [`Self::test`].
    pub unsafe fn test_without_sizes(&self, request: &Request) -> Result<bool> {
        let mut done = 0;
        // SAFETY: the caller's promise.
        ok("test", unsafe {
            (self.calls.test)(request.0, &raw mut done, ptr::null_mut())
        })?;
        Ok(done != 0)
    }

    /// Flushes received data to a GPU; `None` where the plugin has no such call, `Some(None)` where
    /// it is done at once.
    ///
    /// # Safety
    /// As [`Self::irecv`], for memory that has been received into.
    pub unsafe fn iflush(
        &self,
        comm: &RecvComm,
        slots: &[RecvSlot<'_>],
    ) -> Option<Result<Option<Request>>> {
        let call = self.calls.iflush?;
        let mut data: Vec<Ptr> = slots.iter().map(|s| s.data.cast()).collect();
        let mut sizes: Vec<c_int> = slots
            .iter()
            .map(|s| c_int::try_from(s.size).unwrap_or(c_int::MAX))
            .collect();
        let mut mrs: Vec<Ptr> = slots.iter().map(|s| s.mr.0).collect();
        let n = c_int::try_from(slots.len()).unwrap_or(c_int::MAX);
        let mut request = ptr::null_mut();
        // SAFETY: the arrays hold `n` entries; the memory is the caller's promise.
        let rc = unsafe {
            call(
                comm.0,
                n,
                data.as_mut_ptr(),
                sizes.as_mut_ptr(),
                mrs.as_mut_ptr(),
                &raw mut request,
            )
        };
        Some(ok("iflush", rc).map(|()| (!request.is_null()).then_some(Request(request))))
    }

    /// Closes a sending end; its requests are gone with it.
    pub fn close_send(&self, comm: SendComm) -> Result<()> {
        // SAFETY: the comm is consumed, so that it is closed once.
        ok("closeSend", unsafe { (self.calls.close_send)(comm.0) })
    }

    /// Closes a receiving end; its requests are gone with it.
    pub fn close_recv(&self, comm: RecvComm) -> Result<()> {
        // SAFETY: as above.
        ok("closeRecv", unsafe { (self.calls.close_recv)(comm.0) })
    }

    /// Stops listening.
    pub fn close_listen(&self, comm: ListenComm) -> Result<()> {
        // SAFETY: as above.
        ok("closeListen", unsafe { (self.calls.close_listen)(comm.0) })
    }

    /// Merges devices into a virtual one and gives its number; `None` where the plugin cannot.
    pub fn make_vdevice(&self, devs: &[i32]) -> Option<Result<i32>> {
        let call = self.calls.make_vdevice?;
        let mut made = -1;
        let ndevs = c_int::try_from(devs.len()).unwrap_or(c_int::MAX);
        let room = if self.version >= 12 { 8 } else { 4 };
        if devs.len() > room {
            return Some(Err(NetError {
                call: "makeVDevice (too many devices)",
                code: code::INVALID_ARGUMENT,
            }));
        }
        let mut all = [-1; 8];
        all[..devs.len()].copy_from_slice(devs);
        // v9's structure is a prefix of v12's.
        let mut props = VDeviceV12 { ndevs, devs: all };
        // SAFETY: both pointers are valid during the call.
        let rc = unsafe { call(&raw mut made, (&raw mut props).cast()) };
        Some(ok("makeVDevice", rc).map(|()| made))
    }

    /// Tells the plugin about the operation to come; `None` where it does not want to know.
    pub fn set_net_attr(&self, context: &Context, attr: &NetAttr) -> Option<Result<()>> {
        let call = self.calls.set_net_attr?;
        let mut attr = *attr;
        // SAFETY: the context is the plugin's own; the attributes are read during the call.
        let rc = unsafe { call(context.raw, &raw mut attr) };
        Some(ok("setNetAttr", rc))
    }

    /// Ends a communicator; nothing before v11.
    pub fn finalize(&self, context: Context) -> Result<()> {
        match self.calls.finalize {
            // SAFETY: the context is consumed, so that it is ended once.
            Some(f) => ok("finalize", unsafe { f(context.raw) }),
            None => Ok(()),
        }
    }
}

/// Opens a library with NCCL's own flags. A path that exists is made absolute, so that the loader
/// does not search elsewhere for a bare file name.
pub fn open(path: &Path) -> std::result::Result<Library, LoadError> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // SAFETY: loading runs the library's constructors: that is what the user asked for.
    unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| {
        // The loader's own words, which name the file, are in the source.
        let said = std::error::Error::source(&e).map(ToString::to_string);
        LoadError::Open(said.unwrap_or_else(|| e.to_string()))
    })
}

/// Takes the calls out of a table and checks that none is missing that NCCL needs.
///
/// # Safety
/// As [`Net::load`].
unsafe fn read_table(
    version: u32,
    table: *const c_void,
) -> std::result::Result<(Calls, *const c_char), LoadError> {
    macro_rules! calls {
        ($table:ident, $init:ident $listen:ident $connect:ident $accept:ident $reg:ident
         $isend:ident $irecv:ident, $vdevice:expr, $finalize:expr, $attr:expr) => {{
            // SAFETY: the caller's promise: a table of this version stands there.
            let t = unsafe { &*table.cast::<$table>() };
            macro_rules! slot {
                ($slot:ident) => {
                    t.$slot.ok_or(LoadError::EmptySlot {
                        version,
                        slot: stringify!($slot),
                    })?
                };
            }
            let calls = Calls {
                init: Init::$init(slot!(init)),
                devices: slot!(devices),
                get_properties: slot!(get_properties),
                listen: Listen::$listen(slot!(listen)),
                connect: Connect::$connect(slot!(connect)),
                accept: Accept::$accept(slot!(accept)),
                reg_mr: RegMr::$reg(slot!(reg_mr)),
                reg_mr_dma_buf: t.reg_mr_dma_buf,
                dereg_mr: slot!(dereg_mr),
                isend: Isend::$isend(slot!(isend)),
                irecv: Irecv::$irecv(slot!(irecv)),
                iflush: t.iflush,
                test: slot!(test),
                close_send: slot!(close_send),
                close_recv: slot!(close_recv),
                close_listen: slot!(close_listen),
                make_vdevice: $vdevice(t),
                finalize: $finalize(t)?,
                set_net_attr: $attr(t),
            };
            (calls, t.name)
        }};
    }
    type Slot<T> = std::result::Result<Option<T>, LoadError>;
    Ok(match version {
        6 => calls!(TableV6, V6 V6 V6 V6 V6 V6 V6,
            |_: &TableV6| None, |_: &TableV6| -> Slot<Close> { Ok(None) }, |_: &TableV6| None),
        7 => calls!(TableV7, V6 V6 V7 V7 V6 V6 V6,
            |_: &TableV7| None, |_: &TableV7| -> Slot<Close> { Ok(None) }, |_: &TableV7| None),
        8 => calls!(TableV8, V6 V6 V7 V7 V8 V6 V6,
            |_: &TableV8| None, |_: &TableV8| -> Slot<Close> { Ok(None) }, |_: &TableV8| None),
        9 => calls!(TableV9, V6 V6 V7 V7 V8 V9 V9,
            |t: &TableV9| t.make_vdevice, |_: &TableV9| -> Slot<Close> { Ok(None) }, |_: &TableV9| None),
        10 => calls!(TableV10, V10 V6 V10 V7 V8 V10 V10,
            |t: &TableV10| t.make_vdevice, |_: &TableV10| -> Slot<Close> { Ok(None) }, |_: &TableV10| None),
        11 | 12 => calls!(TableV11, V11 V11 V11 V7 V8 V10 V10,
            |t: &TableV11| t.make_vdevice,
            |t: &TableV11| -> Slot<Close> {
                // NCCL calls it without asking whether it is there.
                t.finalize.map(Some).ok_or(LoadError::EmptySlot { version, slot: "finalize" })
            },
            |t: &TableV11| t.set_net_attr),
        _ => {
            return Err(LoadError::NoTable(format!(
                "version {version} is not one of 6 to 12"
            )));
        }
    })
}

/// # Safety
/// `room` was filled by a plugin of this version.
unsafe fn uniform_properties(version: u32, room: &PropsRoom) -> Properties {
    /// What NCCL's shims report for versions that have no such field.
    const OLD_MAX_P2P_BYTES: usize = 1 << 30;
    const OLD_MAX_COLL_BYTES: usize = 512 << 20;
    let text = |p: *const c_char| {
        // SAFETY: a plugin's names are NULL or C strings with static lifetime.
        (!p.is_null()).then(|| unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned())
    };
    let devs = |ndevs: c_int, devs: &[c_int]| {
        let n = usize::try_from(ndevs).unwrap_or(0).min(devs.len());
        devs[..n].to_vec()
    };
    // Fields that a version lacks: what NCCL's shims report for it.
    let base = || Properties {
        name: String::new(),
        pci_path: None,
        guid: 0,
        ptr_support: 0,
        reg_is_global: false,
        force_flush: false,
        speed_mbps: 0,
        port: 0,
        latency_us: 0.0,
        max_comms: 0,
        max_recvs: 0,
        net_device_type: 0,
        net_device_version: 0,
        devs: Vec::new(),
        max_p2p_bytes: OLD_MAX_P2P_BYTES,
        max_coll_bytes: OLD_MAX_COLL_BYTES,
        max_multi_request_size: None,
        rail_id: None,
        plane_id: None,
    };
    macro_rules! common {
        ($p:expr, $($field:ident: $value:expr,)*) => {
            Properties {
                name: text($p.name).unwrap_or_default(),
                pci_path: text($p.pci_path),
                guid: $p.guid,
                ptr_support: $p.ptr_support,
                speed_mbps: $p.speed,
                port: $p.port,
                latency_us: $p.latency,
                max_comms: $p.max_comms,
                max_recvs: $p.max_recvs,
                $($field: $value,)*
                ..base()
            }
        };
    }
    let new = |p: &PropsHead| {
        common!(p,
            reg_is_global: p.reg_is_global != 0,
            force_flush: p.force_flush != 0,
            net_device_type: p.net_device_type,
            net_device_version: p.net_device_version,
        )
    };
    // SAFETY: the caller's promise; all fields are integers, floats and pointers, and the whole
    // room was initialised before the call.
    unsafe {
        match version {
            6 => common!(room.v6,),
            7 => common!(room.v7.v6,
                net_device_type: room.v7.net_device_type,
                net_device_version: room.v7.net_device_version,
            ),
            8 => common!(room.v8,
                reg_is_global: room.v8.reg_is_global != 0,
                net_device_type: room.v8.net_device_type,
                net_device_version: room.v8.net_device_version,
            ),
            9..=11 => {
                let v11 = &room.v11;
                Properties {
                    devs: devs(v11.ndevs, &v11.devs),
                    max_p2p_bytes: v11.max_p2p_bytes,
                    max_coll_bytes: v11.max_coll_bytes,
                    max_multi_request_size: (version == 11).then_some(v11.max_multi_request_size),
                    ..new(&v11.head)
                }
            }
            _ => {
                let v12 = &room.v12;
                Properties {
                    devs: devs(v12.ndevs, &v12.devs),
                    max_p2p_bytes: v12.max_p2p_bytes,
                    max_coll_bytes: v12.max_coll_bytes,
                    max_multi_request_size: Some(v12.max_multi_request_size),
                    rail_id: Some(v12.rail_id),
                    plane_id: Some(v12.plane_id),
                    ..new(&v12.head)
                }
            }
        }
    }
}

/// The most talkative level that [`log_line`] prints: `NCCL_LOG_WARN`, unless changed.
static LOG_LEVEL: AtomicI32 = AtomicI32::new(2);

/// Sets how much of what plugins log goes to stderr: 0 nothing, 2 warnings, 3 information, 5 all.
pub fn set_log_level(level: i32) {
    LOG_LEVEL.store(level, Ordering::Relaxed);
}

/// The logger given to plugins. NCCL's is variadic, which stable Rust cannot define; on the System V
/// x86-64 and the `AArch64` ABIs of Linux a variadic call places integers and pointers exactly as a
/// call with that many fixed arguments does, so seven of them are taken and handed to `snprintf`.
/// Floating-point arguments would print wrongly.
unsafe extern "C" fn log_line(
    level: c_int,
    _flags: c_ulong,
    file: *const c_char,
    line: c_int,
    format: *const c_char,
    arg0: usize,
    arg1: usize,
    arg2: usize,
    arg3: usize,
    arg4: usize,
    arg5: usize,
    arg6: usize,
) {
    if level > LOG_LEVEL.load(Ordering::Relaxed) || format.is_null() {
        return;
    }
    let mut text = [0u8; 1024];
    // SAFETY: the buffer's length is given; the format is the plugin's own C string, and it uses no
    // more arguments than its caller passed.
    unsafe {
        libc::snprintf(
            text.as_mut_ptr().cast(),
            text.len(),
            format,
            arg0,
            arg1,
            arg2,
            arg3,
            arg4,
            arg5,
            arg6,
        );
    }
    let text = CStr::from_bytes_until_nul(&text)
        .map(|t| t.to_string_lossy())
        .unwrap_or_default();
    let file = if file.is_null() {
        "?".into()
    } else {
        // SAFETY: a file or function name of the caller's, a C string.
        unsafe { CStr::from_ptr(file) }.to_string_lossy()
    };
    let word = match level {
        ..=1 => "version",
        2 => "warn",
        3 => "info",
        _ => "trace",
    };
    eprintln!("[{word}] {file}:{line} {text}");
}
