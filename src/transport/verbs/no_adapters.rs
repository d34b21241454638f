//! The adapters of a library that was built without the feature `verbs`: there are none.

#![allow(unsafe_code, reason = "the same face as the other")]

use std::convert::Infallible;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::device::{Choice, Port};
use super::readings::Readings;
use super::{End, GpuAccess, Made, Marking, MemoryKeys, MemoryKind, News};
use crate::config::RelaxedOrdering;
use crate::transport::AnyChannel;

/// Never there.
#[derive(Debug)]
pub struct Adapters(Infallible);

/// Never there.
#[derive(Debug)]
pub struct Registration(Infallible);

/// Never there.
#[derive(Debug)]
pub struct Unconnected(Infallible);

impl Adapters {
    /// None, and why.
    #[must_use]
    pub fn open(
        _choice: &Choice<'_>,
        _marking: Marking,
        _relaxed: RelaxedOrdering,
        _stamps: bool,
    ) -> (Option<Self>, String) {
        (None, "no RDMA in this build".into())
    }

    /// Never called.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn news_fds(&self) -> Vec<(usize, RawFd)> {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn news(&self, _port: usize) -> News {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn companions(&self, _port: usize, _most: usize) -> Vec<usize> {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn readings(&self) -> Option<Arc<Readings>> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Safety
    /// Never called.
    pub unsafe fn register(
        &self,
        _ports: &[usize],
        _addr: *mut u8,
        _bytes: usize,
        _kind: MemoryKind,
    ) -> Result<Registration, String> {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn gpu_access(&self, _ports: &[usize]) -> GpuAccess {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn within_host(&self, _index: usize) -> Made {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn sender(&self, _port: usize, _places: (usize, usize)) -> Result<Unconnected, String> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn receiver(&self, _port: usize, _eager_bytes: u32) -> Result<Unconnected, String> {
        match self.0 {}
    }
}

impl Registration {
    /// Never called.
    #[must_use]
    pub fn keys(&self) -> MemoryKeys {
        match self.0 {}
    }
}

impl Unconnected {
    /// Never called.
    #[must_use]
    pub fn end(&self) -> End {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn connect(&mut self, _to: &End, _source_port: u16) -> Result<(), String> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn ask(&mut self) -> Result<(), String> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub fn is_answered(&mut self) -> Result<bool, String> {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn into_channel(self) -> AnyChannel {
        match self.0 {}
    }
}
