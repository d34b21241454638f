//! Version 9 (NCCL 2.24): messages larger than an int, devices made of several devices.

use super::{Name, calls};
use std::ffi::{c_char, c_int};

c_struct! {
    /// A device made of others, or of itself alone.
    "ncclNetVDeviceProps_v9_t", 20 bytes:
    pub struct VDeviceProps {
        0, 4: ndevs: c_int,
        4, 16: devs: [c_int; 4],
    }
}

c_struct! {
    /// What NCCL wants to know of a device.
    "ncclNetProperties_v9_t", 104 bytes:
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
    }
}

c_struct! {
    /// The plugin's table.
    "ncclNet_v9_t", 160 bytes:
    pub struct Net {
        0, 8: name: Name,
        8, 8: init: Option<calls::InitV6>,
        16, 8: devices: Option<calls::Devices>,
        24, 8: get_properties: Option<calls::GetProperties<Properties>>,
        32, 8: listen: Option<calls::ListenV6>,
        40, 8: connect: Option<calls::ConnectV7>,
        48, 8: accept: Option<calls::AcceptV7>,
        56, 8: reg_mr: Option<calls::RegMrV8>,
        64, 8: reg_mr_dma_buf: Option<calls::RegMrDmaBuf>,
        72, 8: dereg_mr: Option<calls::DeregMr>,
        80, 8: isend: Option<calls::IsendV9>,
        88, 8: irecv: Option<calls::IrecvV9>,
        96, 8: iflush: Option<calls::Iflush>,
        104, 8: test: Option<calls::Test>,
        112, 8: close_send: Option<calls::Close>,
        120, 8: close_recv: Option<calls::Close>,
        128, 8: close_listen: Option<calls::Close>,
        136, 8: get_device_mr: Option<calls::GetDeviceMr>,
        144, 8: irecv_consumed: Option<calls::IrecvConsumed>,
        152, 8: make_v_device: Option<calls::MakeVDevice<VDeviceProps>>,
    }
}
