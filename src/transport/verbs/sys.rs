//! libibverbs as the transport needs it: devices, memory, completion queues and reliable queue
//! pairs, each freed when nobody holds it any more. Nothing here decides anything.
//!
//! The library is looked for when the first device is opened (`rdma-mummy-sys`): where there is
//! none, opening says so, and the program goes on.

#![allow(unsafe_code, reason = "libibverbs is a C library")]
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdma_mummy_sys::{
    ibv_access_flags, ibv_ack_async_event, ibv_ack_cq_events, ibv_alloc_pd, ibv_async_event,
    ibv_close_device, ibv_comp_channel, ibv_context, ibv_cq, ibv_cq_ex, ibv_cq_init_attr_ex,
    ibv_create_comp_channel, ibv_create_cq, ibv_create_cq_ex, ibv_create_cq_wc_flags,
    ibv_create_qp, ibv_dealloc_pd, ibv_dereg_mr, ibv_destroy_comp_channel, ibv_destroy_cq,
    ibv_destroy_qp, ibv_device_attr_ex, ibv_end_poll, ibv_event_type, ibv_free_device_list,
    ibv_get_async_event, ibv_get_cq_event, ibv_get_device_list, ibv_get_device_name, ibv_modify_qp,
    ibv_mr, ibv_open_device, ibv_pd, ibv_poll_cq, ibv_poll_cq_attr, ibv_port_attr, ibv_port_state,
    ibv_post_recv, ibv_post_send, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_init_attr,
    ibv_qp_state, ibv_qp_type, ibv_query_device_ex, ibv_query_port, ibv_query_rt_values_ex,
    ibv_recv_wr, ibv_reg_dmabuf_mr, ibv_reg_mr, ibv_reg_mr_iova2, ibv_req_notify_cq,
    ibv_send_flags, ibv_send_wr, ibv_sge, ibv_start_poll, ibv_values_ex, ibv_values_mask, ibv_wc,
    ibv_wc_opcode, ibv_wc_read_byte_len, ibv_wc_read_completion_ts, ibv_wc_read_imm_data,
    ibv_wc_read_opcode, ibv_wc_read_qp_num, ibv_wc_status, ibv_wc_status_str, ibv_wr_opcode,
    mlx5dv_modify_qp_udp_sport,
};
use thiserror::Error;

use super::stamps::Clock;
use super::{DmaBuf, End};
use crate::clock::Timestamp;

/// A call that failed.
#[derive(Debug, Error)]
pub enum SysError {
    /// There is no library, or it knows no devices.
    #[error("libibverbs finds no RDMA devices: {0}; without them there is TCP")]
    NoLibrary(io::Error),
    /// The device has vanished, or never was.
    #[error("there is no RDMA device called {0} (any more)")]
    NoDevice(String),
    /// Memory cannot be pinned.
    #[error(
        "{what}: the limit of locked memory is {limit}; raise it with 'ulimit -l unlimited', for good \
         with 'memlock' in /etc/security/limits.conf, in containers with 'docker run --ulimit memlock=-1'"
    )]
    Locked {
        /// What could not be had.
        what: String,
        /// The limit, in words.
        limit: String,
    },
    /// Memory that the device does not get to.
    #[error("{bytes} bytes at {addr:#x} cannot be registered: {reason} ({call}: {error})")]
    Memory {
        /// Bytes of the registration.
        bytes: usize,
        /// Where they begin.
        addr: usize,
        /// What that means.
        reason: &'static str,
        /// The function.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// Anything else.
    #[error("{call}: {error}")]
    Call {
        /// The function.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
}

/// Some requests were not taken.
#[derive(Debug)]
pub struct Refused {
    /// The first so many were.
    pub taken: usize,
    /// Why the next one was not.
    pub error: SysError,
}

/// Most calls return an error number, and a few set `errno`.
fn check(call: &'static str, returned: i32) -> Result<(), SysError> {
    match returned {
        0 => Ok(()),
        -1 => Err(last(call)),
        code => Err(SysError::Call {
            call,
            error: io::Error::from_raw_os_error(code.abs()),
        }),
    }
}

fn last(call: &'static str) -> SysError {
    let error = io::Error::last_os_error();
    match (error.raw_os_error(), locked_limit()) {
        // Queues are pinned as well.
        (Some(libc::ENOMEM), Some(limit)) => SysError::Locked {
            what: format!("{call}: {error}"),
            limit: bytes_of(limit),
        },
        _ => SysError::Call { call, error },
    }
}

/// An opened device with a protection domain.
#[derive(Clone)]
pub struct Device(Arc<Opened>);

struct Opened {
    context: NonNull<ibv_context>,
    domain: NonNull<ibv_pd>,
    name: String,
    /// That of its stamps, not read yet, if it has them.
    clock: Option<Clock>,
}

// SAFETY: verbs objects may be used from any thread, several at a time.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: both are ours, and whatever was made of them held this.
        unsafe {
            ibv_dealloc_pd(self.domain.as_ptr());
            ibv_close_device(self.context.as_ptr());
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.0.name).finish()
    }
}

/// What a port is like now, as far as sysfs does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortState {
    /// Bytes of payload of a packet: 256 to 4096.
    pub mtu: u16,
    /// Its address in an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// Its link is up.
    pub is_active: bool,
}

/// What happened to a device that nobody asked for. Ports by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The port can be used.
    PortUp(i32),
    /// Its link is down.
    PortDown(i32),
    /// Its table of addresses is another now.
    AddressesChanged(i32),
    /// The queue pair of this number has failed, and its completions may not say so.
    QueuePairFailed(u32),
    /// The completion queue of this number has overrun: what was under way on its queue pairs is not
    /// known.
    CompletionsLost(u32),
    /// All of it has failed, or it has been taken out. Nothing more is told of it.
    DeviceFailed,
    /// Something else, as libibverbs numbers it.
    Other(u32),
}

const CQ_ERR: u32 = ibv_event_type::IBV_EVENT_CQ_ERR as u32;
const QP_FATAL: u32 = ibv_event_type::IBV_EVENT_QP_FATAL as u32;
const QP_REQ_ERR: u32 = ibv_event_type::IBV_EVENT_QP_REQ_ERR as u32;
const QP_ACCESS_ERR: u32 = ibv_event_type::IBV_EVENT_QP_ACCESS_ERR as u32;
const DEVICE_FATAL: u32 = ibv_event_type::IBV_EVENT_DEVICE_FATAL as u32;
const PORT_ACTIVE: u32 = ibv_event_type::IBV_EVENT_PORT_ACTIVE as u32;
const PORT_ERR: u32 = ibv_event_type::IBV_EVENT_PORT_ERR as u32;
const GID_CHANGE: u32 = ibv_event_type::IBV_EVENT_GID_CHANGE as u32;

impl Device {
    /// Opens a device by its name.
    ///
    /// # Errors
    /// There is no library, no such device, or it cannot be opened.
    pub fn open(name: &str) -> Result<Self, SysError> {
        let mut count = 0;
        // SAFETY: the list is freed below, before which its devices are valid.
        let list = unsafe { ibv_get_device_list(&raw mut count) };
        if list.is_null() {
            return Err(SysError::NoLibrary(io::Error::last_os_error()));
        }
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the list has so many entries.
        let devices = unsafe { std::slice::from_raw_parts(list, count) };
        let named = |device: &&*mut _| {
            // SAFETY: a device's name is a C string that lives as long as it.
            unsafe { CStr::from_ptr(ibv_get_device_name(**device)) }.to_bytes() == name.as_bytes()
        };
        let context = devices.iter().find(named).map(|&device| {
            // SAFETY: the device is of the list.
            NonNull::new(unsafe { ibv_open_device(device) }).ok_or_else(|| last("ibv_open_device"))
        });
        // SAFETY: a context outlives the list that its device came from.
        unsafe { ibv_free_device_list(list) };
        let context = context.ok_or_else(|| SysError::NoDevice(name.to_owned()))??;
        // SAFETY: the context is open.
        never_wait(unsafe { context.as_ref() }.async_fd);
        // SAFETY: the context is open.
        let Some(domain) = NonNull::new(unsafe { ibv_alloc_pd(context.as_ptr()) }) else {
            let error = last("ibv_alloc_pd");
            // SAFETY: nothing was made of it.
            unsafe { ibv_close_device(context.as_ptr()) };
            return Err(error);
        };
        Ok(Self(Arc::new(Opened {
            clock: clock(context),
            context,
            domain,
            name: name.to_owned(),
        })))
    }

    /// Whether completions can tell when requests were carried out ([`Form::Stamped`]).
    #[must_use]
    pub fn has_stamps(&self) -> bool {
        self.0.clock.is_some()
    }

    /// What a port is like now.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn port(&self, number: u8) -> Result<PortState, SysError> {
        // SAFETY: plain numbers, of which zeros are valid.
        let mut port: ibv_port_attr = unsafe { mem::zeroed() };
        // SAFETY: the context is open.
        let returned = unsafe { ibv_query_port(self.0.context.as_ptr(), number, &raw mut port) };
        check("ibv_query_port", returned)?;
        Ok(PortState {
            // 1 for 256 to 5 for 4096.
            mtu: 128 << port.active_mtu.clamp(1, 5),
            lid: port.lid,
            is_active: port.state == ibv_port_state::IBV_PORT_ACTIVE,
        })
    }

    /// The descriptor that can be read when [`Device::event`] has something to tell.
    #[must_use]
    pub fn events_fd(&self) -> RawFd {
        // SAFETY: the context is open.
        unsafe { self.0.context.as_ref() }.async_fd
    }

    /// What has happened to the device that nobody asked for, if anything has. Never waits.
    #[must_use]
    pub fn event(&self) -> Option<DeviceEvent> {
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open; the event is written if there is one.
        if unsafe { ibv_get_async_event(self.0.context.as_ptr(), event.as_mut_ptr()) } != 0 {
            let nothing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            let error = io::Error::last_os_error();
            return (!nothing.contains(&error.kind())).then_some(DeviceEvent::DeviceFailed);
        }
        let event = event.as_mut_ptr();
        // SAFETY: it has been written. Its kind is read as a number: a newer library may know more
        // kinds than the bindings. What it happened to is still there, for nobody destroys it before
        // the event has been acknowledged.
        let told = unsafe {
            let kind = (&raw const (*event).event_type).cast::<u32>().read();
            let element = &(*event).element;
            match kind {
                PORT_ACTIVE => DeviceEvent::PortUp(element.port_num),
                PORT_ERR => DeviceEvent::PortDown(element.port_num),
                GID_CHANGE => DeviceEvent::AddressesChanged(element.port_num),
                QP_FATAL | QP_REQ_ERR | QP_ACCESS_ERR => {
                    DeviceEvent::QueuePairFailed((*element.qp).qp_num)
                }
                CQ_ERR => DeviceEvent::CompletionsLost((*element.cq).handle),
                DEVICE_FATAL => DeviceEvent::DeviceFailed,
                other => DeviceEvent::Other(other),
            }
        };
        // At once, for whoever frees that waits for it.
        // SAFETY: it came from the library, and is acknowledged once.
        unsafe { ibv_ack_async_event(event) };
        Some(told)
    }

    /// Registers memory: the adapter may read it, and whoever knows its key may write it. Memory of a
    /// GPU is memory like any other where its driver and the device's know each other (peer memory).
    ///
    /// # Errors
    /// It is not mapped, or cannot be pinned.
    ///
    /// # Safety
    /// The memory stays mapped until the registration is dropped.
    pub unsafe fn register(
        &self,
        addr: *mut u8,
        bytes: usize,
        access: Access,
    ) -> Result<Memory, SysError> {
        let domain = self.0.domain.as_ptr();
        let read_back = access.read_back;
        let kind = Kind::Mapped { read_back };
        let mut mr = ptr::null_mut();
        if access.relaxed {
            // SAFETY: the domain is ours; what is not mapped is refused.
            mr = unsafe {
                let iova = addr as u64;
                ibv_reg_mr_iova2(domain, addr.cast(), bytes, iova, access.flags())
            };
            // A library that is too old for it says so, and then its order stays strict.
            let is_old = io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP);
            if mr.is_null() && !is_old {
                return Err(refused(addr.addr(), bytes, "ibv_reg_mr", kind));
            }
        }
        if mr.is_null() {
            let strict = Access {
                relaxed: false,
                ..access
            };
            // SAFETY: as above.
            mr = unsafe { ibv_reg_mr(domain, addr.cast(), bytes, strict.flags().cast_signed()) };
        }
        let mr = NonNull::new(mr).ok_or_else(|| refused(addr.addr(), bytes, "ibv_reg_mr", kind))?;
        Ok(Memory {
            mr,
            _device: self.clone(),
        })
    }

    /// Registers memory that another driver has exported; requests name it by `addr`.
    ///
    /// # Errors
    /// The device takes no such memory, or not this.
    pub fn register_dmabuf(
        &self,
        addr: usize,
        bytes: usize,
        buffer: DmaBuf,
        access: Access,
    ) -> Result<Memory, SysError> {
        // Address and offset have to be the same within a page, and offsets are those of pages.
        let slack = (addr as u64).wrapping_sub(buffer.offset) % PAGE_BYTES;
        // SAFETY: the domain is ours; the kernel knows what the descriptor is.
        let mr = unsafe {
            ibv_reg_dmabuf_mr(
                self.0.domain.as_ptr(),
                buffer.offset,
                bytes + usize::try_from(slack).unwrap_or(0),
                addr as u64 - slack,
                buffer.fd,
                access.flags().cast_signed(),
            )
        };
        let mr = NonNull::new(mr)
            .ok_or_else(|| refused(addr, bytes, "ibv_reg_dmabuf_mr", Kind::DmaBuf))?;
        Ok(Memory {
            mr,
            _device: self.clone(),
        })
    }

    /// Whether kernel, library and device take DMABUF memory: a registration that cannot succeed fails
    /// for one reason or the other.
    #[must_use]
    pub fn takes_dmabuf(&self) -> bool {
        // SAFETY: the domain is ours, and there is no memory.
        let mr = unsafe { ibv_reg_dmabuf_mr(self.0.domain.as_ptr(), 0, 0, 0, -1, 0) };
        if let Some(mr) = NonNull::new(mr) {
            // SAFETY: it is ours.
            unsafe { ibv_dereg_mr(mr.as_ptr()) };
            return true;
        }
        let error = io::Error::last_os_error().raw_os_error();
        !matches!(
            error,
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOSYS)
        )
    }

    /// A completion queue for so many completions at once, which are taken out in this form.
    ///
    /// # Errors
    /// The device has no room for it, or does not know the form.
    pub fn completion_queue(
        &self,
        form: Form,
        entries: u32,
    ) -> Result<Arc<CompletionQueue>, SysError> {
        // SAFETY: the context is open.
        let events = unsafe { ibv_create_comp_channel(self.0.context.as_ptr()) };
        let events = NonNull::new(events).ok_or_else(|| last("ibv_create_comp_channel"))?;
        // SAFETY: it has just been made.
        never_wait(unsafe { events.as_ref() }.fd);
        let (context, channel) = (self.0.context.as_ptr(), events.as_ptr());
        let cq = if form == Form::Plain {
            let entries = i32::try_from(entries).unwrap_or(i32::MAX);
            // SAFETY: context and channel are open.
            unsafe { ibv_create_cq(context, entries, ptr::null_mut(), channel, 0) }
        } else {
            // SAFETY: plain numbers and pointers, of which zeros are valid.
            let mut init: ibv_cq_init_attr_ex = unsafe { mem::zeroed() };
            init.cqe = entries;
            init.channel = channel;
            init.wc_flags = form.flags();
            // SAFETY: context and channel are open. A null pointer stays one: the plain queue is the
            // beginning of the extended one.
            unsafe { ibv_create_cq_ex(context, &raw mut init).cast() }
        };
        let Some(cq) = NonNull::new(cq) else {
            let error = last("ibv_create_cq");
            // SAFETY: nothing was made of it.
            unsafe { ibv_destroy_comp_channel(events.as_ptr()) };
            return Err(error);
        };
        Ok(Arc::new(CompletionQueue {
            cq,
            form,
            events,
            device: self.clone(),
        }))
    }
}

/// The clock of a device's stamps, if it can be read.
fn clock(context: NonNull<ibv_context>) -> Option<Clock> {
    // SAFETY: plain numbers, of which zeros are valid: what an old library does not know stays zero.
    let mut attr: ibv_device_attr_ex = unsafe { mem::zeroed() };
    // SAFETY: the context is open, and asks for nothing special.
    let returned = unsafe { ibv_query_device_ex(context.as_ptr(), ptr::null(), &raw mut attr) };
    check("ibv_query_device_ex", returned).ok()?;
    ticks(context)?;
    Clock::new(attr.hca_core_clock, attr.completion_timestamp_mask)
}

/// What a device's clock says now.
fn ticks(context: NonNull<ibv_context>) -> Option<u64> {
    let only = ibv_values_mask::IBV_VALUES_MASK_RAW_CLOCK.0;
    // SAFETY: plain numbers, of which zeros are valid.
    let mut values: ibv_values_ex = unsafe { mem::zeroed() };
    values.comp_mask = only;
    // SAFETY: the context is open.
    let returned = unsafe { ibv_query_rt_values_ex(context.as_ptr(), &raw mut values) };
    // Ticks are told as if they were ns of a time.
    (returned == 0 && values.comp_mask & only != 0)
        .then(|| values.raw_clock.tv_nsec.cast_unsigned())
}

/// Events are asked for, not waited for.
fn never_wait(fd: RawFd) {
    // SAFETY: no memory is passed.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
}

/// Who gets to registered memory, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// It may be read over queue pairs that allow that: those of this host to itself.
    pub read_back: bool,
    /// What arrives may get there in any order. A completion still means that all before it is there.
    pub relaxed: bool,
}

impl Access {
    fn flags(self) -> u32 {
        let mut flags = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
            | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        if self.read_back {
            flags |= ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        }
        if self.relaxed {
            flags |= ibv_access_flags::IBV_ACCESS_RELAXED_ORDERING.0;
        }
        flags
    }
}

/// What a registration that failed with this means.
fn refused(addr: usize, bytes: usize, call: &'static str, kind: Kind) -> SysError {
    let error = io::Error::last_os_error();
    let reason = match (error.raw_os_error(), kind) {
        (Some(libc::ENOMEM), _) => {
            return SysError::Locked {
                what: format!("{bytes} bytes cannot be registered"),
                limit: locked_limit().map_or_else(
                    || "unlimited, so the memory itself is used up".to_owned(),
                    bytes_of,
                ),
            };
        }
        (Some(libc::EFAULT), Kind::Mapped { read_back: false }) => "not all of it is mapped",
        (Some(libc::EFAULT), Kind::Mapped { read_back: true }) => {
            "it is not mapped, or memory of a GPU whose driver and this device do not know each other"
        }
        (Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT), Kind::DmaBuf) => {
            "the device takes no DMABUF memory"
        }
        (Some(libc::EBADF), Kind::DmaBuf) => "the descriptor is not one of DMABUF memory",
        _ => "the device refuses it",
    };
    SysError::Memory {
        bytes,
        addr,
        reason,
        call,
        error,
    }
}

/// How memory is named to the device.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Mapped { read_back: bool },
    DmaBuf,
}

fn bytes_of(limit: u64) -> String {
    format!("{limit} bytes")
}

/// The limit of locked memory in bytes, if there is one.
fn locked_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is written.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// A registration.
pub struct Memory {
    mr: NonNull<ibv_mr>,
    _device: Device,
}

// SAFETY: verbs objects may be used from any thread, several at a time.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// By which our own requests name it.
    #[must_use]
    pub fn local_key(&self) -> u32 {
        // SAFETY: it is registered.
        unsafe { self.mr.as_ref() }.lkey
    }

    /// By which the peer's requests name it.
    #[must_use]
    pub fn remote_key(&self) -> u32 {
        // SAFETY: it is registered.
        unsafe { self.mr.as_ref() }.rkey
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { ibv_dereg_mr(self.mr.as_ptr()) };
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it is registered.
        let mr = unsafe { self.mr.as_ref() };
        write!(f, "Memory({:p}, {} bytes)", mr.addr, mr.length)
    }
}

/// In what form completions are taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Several with one call, each with what every adapter tells.
    Plain,
    /// One by one, each with what is asked of it.
    Extended,
    /// So, and with the adapter's stamp.
    Stamped,
}

impl Form {
    fn flags(self) -> u64 {
        let mut flags = ibv_create_cq_wc_flags::IBV_WC_EX_WITH_BYTE_LEN.0
            | ibv_create_cq_wc_flags::IBV_WC_EX_WITH_IMM.0
            | ibv_create_cq_wc_flags::IBV_WC_EX_WITH_QP_NUM.0;
        if self == Self::Stamped {
            flags |= ibv_create_cq_wc_flags::IBV_WC_EX_WITH_COMPLETION_TIMESTAMP.0;
        }
        flags.into()
    }
}

/// Where completions of queue pairs come.
pub struct CompletionQueue {
    cq: NonNull<ibv_cq>,
    form: Form,
    events: NonNull<ibv_comp_channel>,
    device: Device,
}

// SAFETY: verbs objects may be used from any thread, several at a time.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// One of ours has been carried out and acknowledged.
    Sent,
    /// The peer has written so many bytes, and said this.
    Written(u32, u32),
    /// The peer has sent so many bytes, which are in the receive's buffer.
    Received(u32),
    /// It failed, or was given up because one before it had; the status, as libibverbs numbers it.
    Failed(u32),
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What the request was given.
    pub id: u64,
    /// Number of its queue pair.
    pub queue_pair: u32,
    /// What happened.
    pub done: Done,
    /// The adapter's stamp: when, by its clock.
    pub stamp: Option<u64>,
}

/// Completions that are taken out at once.
const BATCH: i32 = 16;
/// The granule of DMABUF offsets: pages of x86-64.
const PAGE_BYTES: u64 = 4096;

impl CompletionQueue {
    /// The descriptor that can be read once something has come after [`CompletionQueue::arm`].
    #[must_use]
    pub fn fd(&self) -> RawFd {
        // SAFETY: it is open.
        unsafe { self.events.as_ref() }.fd
    }

    /// Its number among those of its device.
    #[must_use]
    pub fn number(&self) -> u32 {
        // SAFETY: it is ours.
        unsafe { self.cq.as_ref() }.handle
    }

    /// Lets the descriptor tell of the next completion. What has come before does not count: look
    /// for that afterwards.
    ///
    /// # Errors
    /// The device is gone.
    pub fn arm(&self) -> Result<(), SysError> {
        self.take_events();
        // SAFETY: the queue is ours.
        check("ibv_req_notify_cq", unsafe {
            ibv_req_notify_cq(self.cq.as_ptr(), 0)
        })
    }

    fn take_events(&self) {
        let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the channel is open and belongs to this queue alone; each event is acknowledged once.
        unsafe {
            while ibv_get_cq_event(self.events.as_ptr(), &raw mut cq, &raw mut context) == 0 {
                ibv_ack_cq_events(cq, 1);
            }
        }
    }

    /// Takes out what has come, up to a bound; says how much that was.
    ///
    /// # Errors
    /// The queue has overrun, or the device is gone.
    pub fn poll(&self, take: impl FnMut(Completion)) -> Result<usize, SysError> {
        match self.form {
            Form::Plain => self.poll_plain(take),
            Form::Extended | Form::Stamped => self.poll_extended(take),
        }
    }

    fn poll_plain(&self, mut take: impl FnMut(Completion)) -> Result<usize, SysError> {
        // Most looks find nothing: then no byte of this is touched.
        let mut batch = [const { MaybeUninit::<ibv_wc>::uninit() }; BATCH as usize];
        // SAFETY: the queue is ours, the array has so many entries.
        let count = unsafe { ibv_poll_cq(self.cq.as_ptr(), BATCH, batch.as_mut_ptr().cast()) };
        let count = usize::try_from(count).map_err(|_| last("ibv_poll_cq"))?;
        for wc in &batch[..count] {
            let wc = wc.as_ptr();
            // SAFETY: the call has written as many as it says, but not every field of each: of a failed
            // one only those that are read first, else what belongs to the operation.
            let completion = unsafe {
                let done = match (*wc).status {
                    ibv_wc_status::IBV_WC_SUCCESS => match (*wc).opcode {
                        ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => {
                            let data = (*wc).imm_data_invalidated_rkey_union.imm_data;
                            Done::Written((*wc).byte_len, u32::from_be(data))
                        }
                        ibv_wc_opcode::IBV_WC_RECV => Done::Received((*wc).byte_len),
                        _ => Done::Sent,
                    },
                    status => Done::Failed(status),
                };
                Completion {
                    id: (*wc).wr_id,
                    queue_pair: (*wc).qp_num,
                    done,
                    stamp: None,
                }
            };
            take(completion);
        }
        Ok(count)
    }

    /// One at a time: after the last of several, libraries disagree about what is to be called next.
    fn poll_extended(&self, mut take: impl FnMut(Completion)) -> Result<usize, SysError> {
        let cq = self.cq.as_ptr().cast::<ibv_cq_ex>();
        for count in 0..BATCH as usize {
            // SAFETY: plain numbers, of which zeros are valid.
            let mut attr: ibv_poll_cq_attr = unsafe { mem::zeroed() };
            // SAFETY: the queue is ours and was made in this form.
            match unsafe { ibv_start_poll(cq, &raw mut attr) } {
                0 => {}
                // Nothing has come, and nothing is to be ended.
                libc::ENOENT => return Ok(count),
                code => return check("ibv_start_poll", code).map(|()| count),
            }
            // SAFETY: between start and end the functions tell of one completion: of a failed one only
            // what every one has, of others what the form asks for.
            let completion = unsafe {
                let done = match (*cq).status {
                    ibv_wc_status::IBV_WC_SUCCESS => match ibv_wc_read_opcode(cq) {
                        ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => Done::Written(
                            ibv_wc_read_byte_len(cq),
                            u32::from_be(ibv_wc_read_imm_data(cq)),
                        ),
                        ibv_wc_opcode::IBV_WC_RECV => Done::Received(ibv_wc_read_byte_len(cq)),
                        _ => Done::Sent,
                    },
                    status => Done::Failed(status),
                };
                let is_stamped = self.form == Form::Stamped && done == Done::Sent;
                let completion = Completion {
                    id: (*cq).wr_id,
                    queue_pair: ibv_wc_read_qp_num(cq),
                    done,
                    stamp: is_stamped.then(|| ibv_wc_read_completion_ts(cq)),
                };
                ibv_end_poll(cq);
                completion
            };
            take(completion);
        }
        Ok(BATCH as usize)
    }
}

/// The status of a request that was given up because one before it had failed, or its queue pair had
/// been made silent.
pub const FLUSHED: u32 = ibv_wc_status::IBV_WC_WR_FLUSH_ERR;

/// A failed request's status in words.
#[must_use]
pub fn status_text(status: u32) -> String {
    // SAFETY: any number has a static text.
    let text = unsafe { ibv_wc_status_str(status) };
    if text.is_null() {
        return format!("status {status}");
    }
    // SAFETY: it is a C string.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.take_events();
        // SAFETY: both are ours, and queue pairs that used the queue held it.
        unsafe {
            ibv_destroy_cq(self.cq.as_ptr());
            ibv_destroy_comp_channel(self.events.as_ptr());
        }
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionQueue({:p})", self.cq)
    }
}

/// How many requests a queue pair holds at once.
#[derive(Debug, Clone, Copy)]
pub struct Depths {
    /// Ours.
    pub send: u32,
    /// Receives, one for each write or message of the peer.
    pub receive: u32,
    /// Bytes of a message that are handed over with its request, so that the adapter need not
    /// fetch them.
    pub inline: u32,
}

/// How this end's packets are sent.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Port of the device.
    pub port: u8,
    /// Place of its address in its table.
    pub gid_index: u8,
    /// Decides the UDP source port, and with it the way through the fabric, where it is not 0.
    pub flow_label: u32,
    /// The IP header's traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Service level: the priority on the wire, unless the adapter goes by the traffic class.
    pub service_level: u8,
    /// The adapter gives up after seven times 4.096 µs times two to the power of this without an
    /// acknowledgement.
    pub timeout: u8,
}

/// The flow label that makes adapters use this UDP source port, from 49152 up, as Linux computes
/// it.
#[must_use]
pub const fn flow_label(source_port: u16) -> u32 {
    (source_port & 0x3fff) as u32
}

/// A reliable connection.
pub struct QueuePair {
    qp: NonNull<ibv_qp>,
    completions: Arc<CompletionQueue>,
    /// Bytes that can be handed over with a request.
    inline: u32,
    /// By which its completions are stamped.
    clock: Option<Clock>,
    _device: Device,
}

// SAFETY: verbs objects may be used from any thread, several at a time.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

/// Part of our own registered memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Piece {
    /// Where it begins.
    pub addr: u64,
    /// How much it is.
    pub bytes: u32,
    /// [`Memory::local_key`].
    pub key: u32,
}

impl Piece {
    fn list(self) -> ibv_sge {
        ibv_sge {
            addr: self.addr,
            length: self.bytes,
            lkey: self.key,
        }
    }
}

/// Something to be sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// What its completion is told by.
    pub id: u64,
    /// What is read; nothing of it if it has no bytes.
    pub local: Piece,
    /// What is done with it.
    pub operation: Operation,
}

/// What is done with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Operation {
    /// They go into the memory of the peer that the address and the key name, and then the peer is
    /// told the immediate.
    Write {
        /// Address there.
        addr: u64,
        /// The peer's [`Memory::remote_key`].
        key: u32,
        /// What it is told.
        immediate: u32,
    },
    /// They go into the memory of the peer that the address and the key name, and the peer is told
    /// nothing.
    Put {
        /// Address there.
        addr: u64,
        /// The peer's [`Memory::remote_key`].
        key: u32,
    },
    /// They come from there.
    Get {
        /// Address there.
        addr: u64,
        /// The peer's [`Memory::remote_key`].
        key: u32,
    },
    /// They go into the buffer of the peer's next receive.
    #[default]
    Send,
}

/// Requests that are handed over at once: with one doorbell.
pub const REQUESTS_MAX: usize = 16;

/// A peer that has posted no receive is asked again after 0.64 ms, and for ever: our own count of
/// its receives makes that the exception.
const RNR_TIMER: u8 = 12;
const RNR_FOR_EVER: u8 = 7;
/// Times that an adapter sends again before it gives up. One less than there could be: soft-RoCE takes
/// seven for ever.
const RETRIES: u8 = 6;

impl QueuePair {
    /// A queue pair that takes receives but leads nowhere yet.
    ///
    /// # Errors
    /// The device has no room for it.
    pub fn new(
        device: &Device,
        completions: &Arc<CompletionQueue>,
        port: u8,
        depths: Depths,
    ) -> Result<Self, SysError> {
        let writes = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        Self::with_access(device, completions, port, depths, writes)
    }

    /// One for this host alone: over it memory can be read too.
    ///
    /// # Errors
    /// As for [`QueuePair::new`].
    pub fn within_host(
        device: &Device,
        completions: &Arc<CompletionQueue>,
        port: u8,
        depths: Depths,
    ) -> Result<Self, SysError> {
        let all = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
            | ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        Self::with_access(device, completions, port, depths, all)
    }

    fn with_access(
        device: &Device,
        completions: &Arc<CompletionQueue>,
        port: u8,
        depths: Depths,
        access: u32,
    ) -> Result<Self, SysError> {
        // SAFETY: plain numbers and pointers, of which zeros are valid.
        let mut init: ibv_qp_init_attr = unsafe { mem::zeroed() };
        init.send_cq = completions.cq.as_ptr();
        init.recv_cq = completions.cq.as_ptr();
        init.qp_type = ibv_qp_type::IBV_QPT_RC;
        init.sq_sig_all = 1;
        init.cap.max_send_wr = depths.send;
        init.cap.max_recv_wr = depths.receive;
        init.cap.max_send_sge = 1;
        init.cap.max_recv_sge = 1;
        init.cap.max_inline_data = depths.inline;
        // SAFETY: domain and queues are ours and outlive it.
        let qp = unsafe { ibv_create_qp(device.0.domain.as_ptr(), &raw mut init) };
        let qp = NonNull::new(qp).ok_or_else(|| last("ibv_create_qp"))?;
        let this = Self {
            qp,
            completions: Arc::clone(completions),
            // What the device has made of it: at least as much.
            inline: init.cap.max_inline_data,
            clock: device.0.clock,
            _device: device.clone(),
        };
        let mut attr = attributes(ibv_qp_state::IBV_QPS_INIT);
        attr.port_num = port;
        attr.qp_access_flags = access;
        this.modify(
            &mut attr,
            ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0
                | ibv_qp_attr_mask::IBV_QP_PORT.0
                | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS.0,
        )?;
        Ok(this)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        // SAFETY: it is ours.
        unsafe { self.qp.as_ref() }.qp_num
    }

    /// Bytes of a message that are handed over with its request.
    #[must_use]
    pub fn inline(&self) -> u32 {
        self.inline
    }

    /// Where its completions come.
    #[must_use]
    pub fn completions(&self) -> &Arc<CompletionQueue> {
        &self.completions
    }

    /// When what is stamped so was carried out; none if that cannot be told.
    pub fn time(&mut self, stamp: u64, now: Timestamp) -> Option<Timestamp> {
        let clock = self.clock.as_mut()?;
        if clock.is_due(now) {
            let before = Timestamp::now();
            let ticks = ticks(self.completions.device.0.context)?;
            clock.set(before, ticks, Timestamp::now());
        }
        clock.time(stamp, now)
    }

    /// Connects it to the other end; `first_packet` is our own. Receives that writes may need are
    /// posted before.
    ///
    /// # Errors
    /// The adapter refuses, for instance because the address has changed.
    pub fn connect(&self, first_packet: u32, to: &End, route: &Route) -> Result<(), SysError> {
        let mut attr = attributes(ibv_qp_state::IBV_QPS_RTR);
        attr.path_mtu = u32::from(to.mtu).max(256).ilog2() - 7;
        attr.dest_qp_num = to.number;
        attr.rq_psn = to.first_packet;
        attr.max_dest_rd_atomic = 1;
        attr.min_rnr_timer = RNR_TIMER;
        attr.ah_attr.is_global = 1;
        attr.ah_attr.dlid = to.lid;
        attr.ah_attr.sl = route.service_level;
        attr.ah_attr.port_num = route.port;
        attr.ah_attr.grh.dgid.raw = to.gid.octets();
        attr.ah_attr.grh.sgid_index = route.gid_index;
        attr.ah_attr.grh.hop_limit = u8::MAX;
        attr.ah_attr.grh.traffic_class = route.traffic_class;
        attr.ah_attr.grh.flow_label = route.flow_label;
        self.modify(
            &mut attr,
            ibv_qp_attr_mask::IBV_QP_AV.0
                | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
                | ibv_qp_attr_mask::IBV_QP_DEST_QPN.0
                | ibv_qp_attr_mask::IBV_QP_RQ_PSN.0
                | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
                | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0,
        )?;
        let mut attr = attributes(ibv_qp_state::IBV_QPS_RTS);
        attr.timeout = route.timeout;
        attr.retry_cnt = RETRIES;
        attr.rnr_retry = RNR_FOR_EVER;
        attr.sq_psn = first_packet;
        attr.max_rd_atomic = 1;
        self.modify(
            &mut attr,
            ibv_qp_attr_mask::IBV_QP_TIMEOUT.0
                | ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0
                | ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0
                | ibv_qp_attr_mask::IBV_QP_SQ_PSN.0
                | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0,
        )
    }

    /// Sends from another UDP port from now on, where the device can change that of a queue pair that
    /// is connected.
    ///
    /// # Errors
    /// It cannot: another maker's device, or an old one.
    pub fn set_source_port(&self, port: u16) -> Result<(), SysError> {
        // SAFETY: it is ours. Of another maker's, the library's part for mlx5 knows that it is not its
        // own; and without that part the call says that there is none.
        let returned = unsafe { mlx5dv_modify_qp_udp_sport(self.qp.as_ptr(), port) };
        check("mlx5dv_modify_qp_udp_sport", returned)
    }

    /// Makes it silent: what it was given fails, and nothing that arrives on it is written any
    /// more.
    ///
    /// # Errors
    /// The device is gone, and silent with it.
    pub fn silence(&self) -> Result<(), SysError> {
        self.modify(&mut attributes(ibv_qp_state::IBV_QPS_ERR), 0)
    }

    fn modify(&self, attr: &mut ibv_qp_attr, mask: u32) -> Result<(), SysError> {
        let mask = (mask | ibv_qp_attr_mask::IBV_QP_STATE.0).cast_signed();
        // SAFETY: it is ours, and the mask says which fields count.
        let returned = unsafe { ibv_modify_qp(self.qp.as_ptr(), attr, mask) };
        check("ibv_modify_qp", returned)
    }

    /// Posts a receive for one write or message of the peer; what a message brings goes into
    /// `buffer`.
    ///
    /// # Errors
    /// There are too many.
    ///
    /// # Safety
    /// The buffer is nobody else's until the receive is done, or the queue pair is silent and its
    /// completions have been taken out.
    pub unsafe fn post_receive(&self, id: u64, buffer: Piece) -> Result<(), SysError> {
        let mut list = buffer.list();
        let mut request = ibv_recv_wr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: &raw mut list,
            num_sge: i32::from(buffer.bytes > 0),
        };
        let mut bad = ptr::null_mut();
        // SAFETY: it is ours; request and list are read before the call returns.
        let returned = unsafe { ibv_post_recv(self.qp.as_ptr(), &raw mut request, &raw mut bad) };
        check("ibv_post_recv", returned)
    }

    /// Hands requests over, at most [`REQUESTS_MAX`], in their order and with one doorbell.
    ///
    /// # Errors
    /// Too much is under way, or the queue pair is in no state to send. It has to be silenced then;
    /// those that it took before are completed like any other.
    ///
    /// # Panics
    /// There are more than [`REQUESTS_MAX`].
    ///
    /// # Safety
    /// What is read stays as it is until the request is done, or the queue pair is silent and its
    /// completions have been taken out.
    pub unsafe fn post(&self, requests: &[Request]) -> Result<(), Refused> {
        assert!(requests.len() <= REQUESTS_MAX, "handed over in parts");
        let mut chain = [const { MaybeUninit::<ibv_send_wr>::uninit() }; REQUESTS_MAX];
        let mut lists = [Piece::default().list(); REQUESTS_MAX];
        let mut next = ptr::null_mut();
        for (at, request) in requests.iter().enumerate().rev() {
            lists[at] = request.local.list();
            // SAFETY: plain numbers and pointers, of which zeros are valid.
            let wr = chain[at].write(unsafe { mem::zeroed() });
            wr.wr_id = request.id;
            wr.sg_list = &raw mut lists[at];
            wr.num_sge = i32::from(request.local.bytes > 0);
            wr.next = next;
            let mut flags = ibv_send_flags::IBV_SEND_SIGNALED.0;
            match request.operation {
                Operation::Write {
                    addr,
                    key,
                    immediate,
                } => {
                    wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
                    wr.imm_data_invalidated_rkey_union.imm_data = immediate.to_be();
                    wr.wr.rdma.remote_addr = addr;
                    wr.wr.rdma.rkey = key;
                }
                Operation::Put { addr, key } => {
                    wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
                    wr.wr.rdma.remote_addr = addr;
                    wr.wr.rdma.rkey = key;
                }
                Operation::Get { addr, key } => {
                    wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
                    wr.wr.rdma.remote_addr = addr;
                    wr.wr.rdma.rkey = key;
                }
                Operation::Send => {
                    wr.opcode = ibv_wr_opcode::IBV_WR_SEND;
                    if request.local.bytes <= self.inline {
                        flags |= ibv_send_flags::IBV_SEND_INLINE.0;
                    }
                }
            }
            wr.send_flags = flags;
            next = &raw mut *wr;
        }
        if next.is_null() {
            return Ok(());
        }
        let mut bad = ptr::null_mut();
        // SAFETY: it is ours; requests and lists are read before the call returns.
        let returned = unsafe { ibv_post_send(self.qp.as_ptr(), next, &raw mut bad) };
        check("ibv_post_send", returned).map_err(|error| Refused {
            // The device names the first that it has not taken.
            taken: (0..requests.len())
                .find(|&at| ptr::eq(chain[at].as_ptr(), bad))
                .unwrap_or(0),
            error,
        })
    }
}

fn attributes(state: ibv_qp_state::Type) -> ibv_qp_attr {
    // SAFETY: plain numbers, of which zeros are valid.
    let mut attr: ibv_qp_attr = unsafe { mem::zeroed() };
    attr.qp_state = state;
    attr
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { ibv_destroy_qp(self.qp.as_ptr()) };
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueuePair({})", self.number())
    }
}
