//! Version 11 (NCCL 2.28): a context per communicator, and an end of it.

pub use super::v9::VDeviceProps;
use super::{Name, calls};
use std::ffi::{c_char, c_int};

c_struct! {
    /// What NCCL wants to know of a device.
    "ncclNetProperties_v11_t", 112 bytes:
    pub struct Properties {
        0, 8: name: *mut c_char,
        8, 8: pci_path: *mut c_char,
        16, 8: guid: u64,
        24, 4: ptr_support: c_int,
        28, 4: reg_is_global: c_int,
        32, 4: force_flush: c_int,
        36, 4: speed: c_int,
        40, 4: port: c_int,
        44, 4: latency: f32,
        48, 4: max_comms: c_int,
        52, 4: max_recvs: c_int,
        56, 4: net_device_type: c_int,
        60, 4: net_device_version: c_int,
        64, 20: v_props: VDeviceProps,
        88, 8: max_p2p_bytes: usize,
        96, 8: max_coll_bytes: usize,
        104, 4: max_multi_request_size: c_int,
    }
}

c_struct! {
    /// The plugin's table.
    "ncclNet_v11_t", 176 bytes:
    pub struct Net {
        0, 8: name: Name,
        8, 8: init: Option<calls::InitV11>,
        16, 8: devices: Option<calls::Devices>,
        24, 8: get_properties: Option<calls::GetProperties<Properties>>,
        32, 8: listen: Option<calls::ListenV11>,
        40, 8: connect: Option<calls::ConnectV11>,
        48, 8: accept: Option<calls::AcceptV7>,
        56, 8: reg_mr: Option<calls::RegMrV8>,
        64, 8: reg_mr_dma_buf: Option<calls::RegMrDmaBuf>,
        72, 8: dereg_mr: Option<calls::DeregMr>,
        80, 8: isend: Option<calls::IsendV10>,
        88, 8: irecv: Option<calls::IrecvV10>,
        96, 8: iflush: Option<calls::Iflush>,
        104, 8: test: Option<calls::Test>,
        112, 8: close_send: Option<calls::Close>,
        120, 8: close_recv: Option<calls::Close>,
        128, 8: close_listen: Option<calls::Close>,
        136, 8: get_device_mr: Option<calls::GetDeviceMr>,
        144, 8: irecv_consumed: Option<calls::IrecvConsumed>,
        152, 8: make_v_device: Option<calls::MakeVDevice<VDeviceProps>>,
        160, 8: finalize: Option<calls::Finalize>,
        168, 8: set_net_attr: Option<calls::SetNetAttr>,
    }
}
