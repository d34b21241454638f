//! Which of many sockets have something to read: epoll, as thin as it can be.

#![allow(unsafe_code, reason = "epoll has no safe interface in std")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// A poller that watches nothing.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is fresh and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: i32, fd: RawFd, events: i32, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: key,
        };
        // SAFETY: `event` lives through the call.
        let rc = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Watches `fd` for reading, under the name `key`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, key)
    }

    /// Watches `fd` for writing (a connect that ends) or its failure.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_writable(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLOUT, key)
    }

    /// Changes a watch to reading.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn change_to_readable(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, libc::EPOLLIN, key)
    }

    /// Watches `fd` for reading until it fires once; then [`Poller::rearm`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_once(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.control(
            libc::EPOLL_CTL_ADD,
            fd,
            libc::EPOLLIN | libc::EPOLLONESHOT,
            key,
        )
    }

    /// Watches again what has fired once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn rearm(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.control(
            libc::EPOLL_CTL_MOD,
            fd,
            libc::EPOLLIN | libc::EPOLLONESHOT,
            key,
        )
    }

    /// Watches `fd` no more.
    pub fn remove(&self, fd: RawFd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    /// Calls `ready` with the key of each descriptor that is ready. Waits at most `timeout_ms`
    /// (0: not at all; -1: for ever).
    pub fn wait(&self, timeout_ms: i32, mut ready: impl FnMut(u64)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: the kernel writes at most 32 events.
        let n = unsafe { libc::epoll_wait(self.fd(), events.as_mut_ptr(), 32, timeout_ms) };
        for event in &events[..usize::try_from(n).unwrap_or(0)] {
            ready(event.u64);
        }
    }

    /// The descriptor, to watch the whole set by another poller.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
