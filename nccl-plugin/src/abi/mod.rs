//! NCCL's net plugin interface in Rust's words: what version 6 to 12 look like in memory. Written
//! by hand from the interface's facts, and asserted at compile time, because a table that is one
//! slot off calls the wrong function with the right arguments.

use std::ffi::{c_char, c_int, c_ulong, c_void};

/// Declares a `#[repr(C)]` structure with the offset and the size of each field, asserts them,
/// and keeps them in `LAYOUT` for the test that asks the official binary.
macro_rules! c_struct {
    ($(#[$about:meta])* $c_name:literal, $total:literal bytes: pub struct $name:ident {
        $($offset:literal, $size:literal: $field:ident: $type:ty,)+
    }) => {
        $(#[$about])*
        #[allow(missing_docs, reason = "the fields are NCCL's, and so is what they mean")]
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type,)+ }

        impl $name {
            /// Where each field is, to be compared with NCCL's debug information.
            pub const LAYOUT: $crate::abi::Layout = $crate::abi::Layout {
                c_name: $c_name,
                bytes: $total,
                fields: &[$((stringify!($field), $offset, $size)),+],
            };
        }

        const _: () = {
            assert!(size_of::<$name>() == $total);
            $(
                assert!(std::mem::offset_of!($name, $field) == $offset);
                assert!($crate::abi::field_bytes(|s: &$name| &s.$field) == $size);
            )+
        };
    };
}

pub mod v10;
pub mod v11;
pub mod v12;
pub mod v6;
pub mod v7;
pub mod v8;
pub mod v9;

/// Where the fields of a structure are, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The structure's name in C.
    pub c_name: &'static str,
    /// Its size.
    pub bytes: usize,
    /// Name in Rust, offset and size of each field.
    pub fields: &'static [(&'static str, usize, usize)],
}

/// The size of the field that a function returns a reference to.
const fn field_bytes<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Bytes of a connection handle.
pub const HANDLE_BYTES: usize = 128;
/// Requests that NCCL may have outstanding on a connection.
pub const MAX_REQUESTS: usize = 32;
/// A registration of host memory.
pub const PTR_HOST: c_int = 1;
/// A registration of a GPU's memory, CUDA's or HIP's.
pub const PTR_CUDA: c_int = 2;
/// In `ptrSupport`: a GPU's memory may be registered as a DMABUF.
pub const PTR_DMABUF: c_int = 4;
/// What `irecv` finds in its request if NCCL doesn't need to know when the data has arrived.
pub const OPTIONAL_RECV_COMPLETION: usize = 1;
/// `netDeviceType` of a plugin whose work the host does.
pub const NET_DEVICE_HOST: c_int = 0;
/// `netDeviceVersion` of such a plugin.
pub const NET_DEVICE_INVALID_VERSION: c_int = 0;
/// `railId` and `planeId` of a device that belongs to no particular rail or plane.
pub const NET_ID_UNDEF: i16 = -1;

/// `ncclResult_t`: an integer and not a Rust enum, since a foreign plugin may return what is not
/// in our list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct ResultCode(pub c_int);

#[allow(missing_docs, reason = "NCCL's names")]
impl ResultCode {
    pub const SUCCESS: Self = Self(0);
    pub const SYSTEM_ERROR: Self = Self(2);
    pub const INTERNAL_ERROR: Self = Self(3);
    pub const INVALID_ARGUMENT: Self = Self(4);
    pub const INVALID_USAGE: Self = Self(5);
    pub const REMOTE_ERROR: Self = Self(6);
}

/// A plugin's name: a pointer to a string that is never freed.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Name(pub *const c_char);

// SAFETY: points to a string that nobody writes or frees.
unsafe impl Sync for Name {}
// SAFETY: as above.
unsafe impl Send for Name {}

/// `ncclDebugLogger_t`: level, subsystems, file, line, format and its arguments.
pub type DebugLogger =
    unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, ...);
/// `ncclProfilerCallback_t`: event handle, what to do, parent, plugin id, description.
pub type ProfilerCallback =
    unsafe extern "C" fn(*mut *mut c_void, c_int, *mut c_void, i64, *mut c_void) -> ResultCode;

c_struct! {
    /// For plugins whose connections a GPU drives. We only ever pass by a pointer to one.
    "ncclNetDeviceHandle_v7_t", 32 bytes:
    pub struct NetDeviceHandle {
        0, 4: net_device_type: c_int,
        4, 4: net_device_version: c_int,
        8, 8: handle: *mut c_void,
        16, 8: size: usize,
        24, 4: needs_proxy_progress: c_int,
    }
}

c_struct! {
    /// What a communicator asks of its connections.
    "ncclNetCommConfig_v10_t", 4 bytes:
    pub struct CommConfig {
        0, 4: traffic_class: c_int,
    }
}

c_struct! {
    /// How many peers and flows an operation has in one direction.
    "ncclNetCommAttr_v12_t", 16 bytes:
    pub struct CommAttr {
        0, 4: max_concurrent_peers: i32,
        4, 4: min_concurrent_peers: i32,
        8, 4: max_flows_per_peer: i32,
        12, 4: min_flows_per_peer: i32,
    }
}

c_struct! {
    /// What the next operation of a communicator looks like.
    "ncclNetAttr_v12_t", 44 bytes:
    pub struct NetAttr {
        0, 16: send_comm_attr: CommAttr,
        16, 16: recv_comm_attr: CommAttr,
        32, 4: op: u32,
        36, 4: algo: u32,
        40, 4: proto: u32,
    }
}

/// Signatures of the table's functions, each with the version that introduced it.
#[allow(missing_docs, reason = "the names are NCCL's, with a version behind")]
pub mod calls {
    use super::{
        CommConfig, DebugLogger, NetAttr, NetDeviceHandle, ProfilerCallback, ResultCode, c_int,
        c_void,
    };

    pub type InitV6 = unsafe extern "C" fn(Option<DebugLogger>) -> ResultCode;
    pub type InitV10 =
        unsafe extern "C" fn(Option<DebugLogger>, Option<ProfilerCallback>) -> ResultCode;
    pub type InitV11 = unsafe extern "C" fn(
        *mut *mut c_void,
        u64,
        *const CommConfig,
        Option<DebugLogger>,
        Option<ProfilerCallback>,
    ) -> ResultCode;
    pub type Devices = unsafe extern "C" fn(*mut c_int) -> ResultCode;
    pub type GetProperties<P> = unsafe extern "C" fn(c_int, *mut P) -> ResultCode;
    pub type ListenV6 = unsafe extern "C" fn(c_int, *mut c_void, *mut *mut c_void) -> ResultCode;
    pub type ListenV11 =
        unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, *mut *mut c_void) -> ResultCode;
    pub type ConnectV6 = ListenV6;
    pub type ConnectV7 = unsafe extern "C" fn(
        c_int,
        *mut c_void,
        *mut *mut c_void,
        *mut *mut NetDeviceHandle,
    ) -> ResultCode;
    pub type ConnectV10 = unsafe extern "C" fn(
        c_int,
        *const CommConfig,
        *mut c_void,
        *mut *mut c_void,
        *mut *mut NetDeviceHandle,
    ) -> ResultCode;
    pub type ConnectV11 = unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut c_void,
        *mut *mut c_void,
        *mut *mut NetDeviceHandle,
    ) -> ResultCode;
    pub type AcceptV6 = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> ResultCode;
    pub type AcceptV7 = unsafe extern "C" fn(
        *mut c_void,
        *mut *mut c_void,
        *mut *mut NetDeviceHandle,
    ) -> ResultCode;
    pub type RegMrV6 = unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        c_int,
        c_int,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type RegMrV8 = unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        usize,
        c_int,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type RegMrDmaBuf = unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        usize,
        c_int,
        u64,
        c_int,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type DeregMr = unsafe extern "C" fn(*mut c_void, *mut c_void) -> ResultCode;
    pub type IsendV6 = unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        c_int,
        c_int,
        *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type IsendV9 = unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        usize,
        c_int,
        *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type IsendV10 = unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        usize,
        c_int,
        *mut c_void,
        *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type IrecvV6 = unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut *mut c_void,
        *mut c_int,
        *mut c_int,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type IrecvV9 = unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut *mut c_void,
        *mut usize,
        *mut c_int,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type IrecvV10 = unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut *mut c_void,
        *mut usize,
        *mut c_int,
        *mut *mut c_void,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type Iflush = unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut *mut c_void,
        *mut c_int,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> ResultCode;
    pub type Test = unsafe extern "C" fn(*mut c_void, *mut c_int, *mut c_int) -> ResultCode;
    pub type Close = unsafe extern "C" fn(*mut c_void) -> ResultCode;
    pub type GetDeviceMr =
        unsafe extern "C" fn(*mut c_void, *mut c_void, *mut *mut c_void) -> ResultCode;
    pub type IrecvConsumed = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> ResultCode;
    pub type MakeVDevice<V> = unsafe extern "C" fn(*mut c_int, *mut V) -> ResultCode;
    pub type Finalize = unsafe extern "C" fn(*mut c_void) -> ResultCode;
    pub type SetNetAttr = unsafe extern "C" fn(*mut c_void, *mut NetAttr) -> ResultCode;
}
