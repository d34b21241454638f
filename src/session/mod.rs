//! The core's public face: sessions, listeners, connections, requests.
//!
//! A connection carries messages one way. All connections between two processes over one pair
//! of devices share a link and its paths.

#![allow(unsafe_code, reason = "buffers belong to callers that speak C; each call states what it needs of them")]

use std::sync::Arc;

use crate::error::Error;

/// Bytes of the handle that a listener gives to its peer by a channel of the application's own.
pub const HANDLE_BYTES: usize = 128;
/// Receives that one grouped receive may hold.
pub const MAX_RECVS: usize = 8;
/// Outstanding receive requests of a connection; a sender may have [`MAX_RECVS`] times as many.
pub const MAX_REQUESTS: usize = 32;

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something went wrong, or a user should act.
    Warn,
    /// One line a user wants to see at start, or when the state of a link changes.
    Info,
    /// For those who debug the library.
    Trace,
}

/// Where log lines go. Called from any thread, never from the data path of a healthy link.
pub type LogSink = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// A network device as NCCL sees it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// Unique name, e.g. `eth0`.
    pub name: String,
    /// Real path of the device under `/sys`, where it has one.
    pub pci_path: Option<String>,
    /// Same for all ports of one adapter.
    pub guid: u64,
    /// Speed in Mb/s.
    pub speed_mbps: u32,
    /// Port number, 1 for a network interface.
    pub port: u32,
}

/// An open session: the control thread, the port it listens on, and the links of this process.
/// Clones share it; it closes with the last of them.
#[derive(Clone)]
pub struct Session {}

/// A place where one peer after another can connect to.
pub struct Listener {}

/// The sending end of a connection.
pub struct SendConnection {}

/// The receiving end of a connection.
pub struct RecvConnection {}

/// One buffer of a receive.
#[derive(Debug, Clone, Copy)]
pub struct RecvBuffer {
    /// First byte.
    pub data: *mut u8,
    /// Capacity in bytes.
    pub len: usize,
    /// Which of the sender's messages goes here.
    pub tag: i32,
}

/// What a finished request moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Bytes of each message of the request; only the first `count` are meaningful.
    pub sizes: [usize; MAX_RECVS],
    /// Messages in the request: 1, or the size of the grouped receive.
    pub count: usize,
}

/// An outstanding request. Valid until [`Request::test`] says it is finished or failed, or its
/// connection is dropped, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request(std::ptr::NonNull<()>);

impl Session {
    /// Opens a session with the settings of the environment. Fails only where a setting is
    /// wrong or the system refuses a thread or a socket; a host without a usable interface gives a session without devices.
    ///
    /// # Errors
    /// `InvalidUsage` for a wrong setting, `System` otherwise.
    pub fn open(_log: LogSink) -> Result<Self, Error> {
        todo!()
    }

    /// The devices that can be used. Constant for the life of the session.
    #[must_use]
    pub fn devices(&self) -> &[DeviceInfo] {
        todo!()
    }

    /// One line for the log at start: devices, paths, algorithms, and why.
    #[must_use]
    pub fn summary(&self) -> String {
        todo!()
    }

    /// Starts to listen on a device and returns the handle for the peer. Never blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown device.
    pub fn listen(&self, _device: usize) -> Result<(Listener, [u8; HANDLE_BYTES]), Error> {
        todo!()
    }

    /// Connects to a peer's listener, without blocking: call again with the same handle buffer
    /// (it holds the state of the attempt) until a connection comes back.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown device or a damaged handle, `Remote` if the peer refuses or cannot be reached in time.
    pub fn connect(
        &self,
        _device: usize,
        _handle: &mut [u8; HANDLE_BYTES],
    ) -> Result<Option<SendConnection>, Error> {
        todo!()
    }
}

impl Listener {
    /// The next peer that has connected, if any. Never blocks.
    ///
    /// # Errors
    /// `System` if the session can no longer accept.
    pub fn accept(&self) -> Result<Option<RecvConnection>, Error> {
        todo!()
    }
}

impl SendConnection {
    /// Starts to send `len` bytes. `None`: too many requests are outstanding, ask again later.
    ///
    /// # Safety
    /// `data` stays valid and unchanged until the request is finished or the connection dropped.
    ///
    /// # Errors
    /// The error that ended the connection, if one did.
    pub unsafe fn isend(&self, _data: *const u8, _len: usize, _tag: i32) -> Result<Option<Request>, Error> {
        todo!()
    }
}

impl RecvConnection {
    /// Starts one receive into each of `buffers` (1 to [`MAX_RECVS`]). `None`: too many requests are outstanding.
    ///
    /// # Safety
    /// The buffers stay valid, and are not touched by others, until the request is finished or the connection dropped.
    ///
    /// # Errors
    /// The error that ended the connection, if one did; `InvalidArgument` for a wrong number of buffers.
    pub unsafe fn irecv(&self, _buffers: &[RecvBuffer]) -> Result<Option<Request>, Error> {
        todo!()
    }
}

impl Request {
    /// The request as an opaque pointer for C; never null, never the value 1.
    #[must_use]
    pub fn into_raw(self) -> *mut std::ffi::c_void {
        self.0.as_ptr().cast()
    }

    /// The request behind an opaque pointer.
    ///
    /// # Safety
    /// `raw` came from [`Request::into_raw`] and the request has neither been reported finished nor its connection dropped.
    #[must_use]
    pub unsafe fn from_raw(raw: std::ptr::NonNull<std::ffi::c_void>) -> Self {
        Self(raw.cast())
    }

    /// Moves the link forward and says whether the request is finished. The request is gone once
    /// this has returned a completion or an error.
    ///
    /// # Safety
    /// As for [`Request::from_raw`]; one thread at a time per connection.
    ///
    /// # Errors
    /// What ended the request: `Remote` for a dead peer, `InvalidUsage` for a message larger than its buffer.
    pub unsafe fn test(self) -> Result<Option<Completion>, Error> {
        todo!()
    }
}
