//! Version 10 (NCCL 2.26): a profiler to report to, a configuration per connection.

pub use super::v9::{Properties, VDeviceProps};
use super::{Name, calls};

c_struct! {
    /// The plugin's table.
    "ncclNet_v10_t", 160 bytes:
    pub struct Net {
        0, 8: name: Name,
        8, 8: init: Option<calls::InitV10>,
        16, 8: devices: Option<calls::Devices>,
        24, 8: get_properties: Option<calls::GetProperties<Properties>>,
        32, 8: listen: Option<calls::ListenV6>,
        40, 8: connect: Option<calls::ConnectV10>,
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
    }
}
