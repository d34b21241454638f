//! Frames out of a stream of bytes, or out of messages: what every channel does on arrival, in one
//! place, so that channels cannot differ in it.

#![allow(unsafe_code, reason = "payload is placed in user memory")]

use super::{ChannelError, Receiver};
use crate::engine::wire::{self, HEADER_BYTES_MAX, PREFIX_BYTES};
use crate::engine::{MemRange, Sink, Violation};

/// A payload whose rest is longer than this is a bulk transfer's.
const BULK_BYTES: u64 = 16 << 10;

#[derive(Debug, Clone, Copy)]
enum Arriving {
    Header,
    Place(MemRange),
    Discard(u64),
}

/// Takes in a message that is one frame, with its payload where it has one: what channels that keep
/// messages apart do on arrival. Nothing is left over for the next one, and nothing is placed of a
/// payload that is not as long as its header says.
///
/// # Errors
/// It is not our protocol.
pub fn message(
    bytes: &[u8],
    arrived_ns: u64,
    receiver: &mut dyn Receiver,
) -> Result<(), ChannelError> {
    let broken = |what| Err(Violation::Protocol(what).into());
    let Some(&prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return broken("a message that is too short for a frame");
    };
    let Some((header, payload)) = bytes.split_at_checked(wire::header_len(prefix)?) else {
        return broken("a message that is shorter than its header");
    };
    let Some(sink) = receiver.frame(header, arrived_ns)? else {
        return match payload {
            [] => Ok(()),
            _ => broken("a message that goes on after its frame"),
        };
    };
    let (Sink::Place(MemRange { len, .. }) | Sink::Discard(len)) = sink;
    if payload.len() as u64 != len {
        return broken("a payload of another length than its header says");
    }
    if let Sink::Place(range) = sink {
        // SAFETY: the engine placed `range` inside a posted buffer, which its owner keeps valid and
        // untouched until the receive ends; it is as long as `payload`, which is the channel's.
        unsafe {
            std::ptr::copy_nonoverlapping(payload.as_ptr(), range.addr as *mut u8, payload.len());
        }
    }
    receiver.payload_done();
    Ok(())
}

/// Takes a stream apart into headers and payloads.
#[derive(Debug)]
pub struct Deframer {
    arriving: Arriving,
    partial: [u8; HEADER_BYTES_MAX],
    partial_len: usize,
    data_since_ping: u32,
    bulk: bool,
}

impl Default for Deframer {
    fn default() -> Self {
        Self {
            arriving: Arriving::Header,
            partial: [0; HEADER_BYTES_MAX],
            partial_len: 0,
            data_since_ping: 0,
            bulk: false,
        }
    }
}

impl Deframer {
    /// Where the next bytes of the stream belong, if that is user memory: they may be written
    /// there directly and then be told to [`Deframer::advance`].
    #[must_use]
    pub fn place(&self) -> Option<MemRange> {
        match self.arriving {
            Arriving::Place(range) => Some(range),
            Arriving::Header | Arriving::Discard(_) => None,
        }
    }

    /// Data frames since the last probe came; none at the start.
    #[must_use]
    pub fn data_since_ping(&self) -> u32 {
        self.data_since_ping
    }

    /// Whether the last data frame was a large one.
    #[must_use]
    pub fn bulk(&self) -> bool {
        self.bulk
    }

    /// Skips the rest of the payload that is arriving: its memory is not written any more.
    pub fn discard(&mut self) {
        if let Arriving::Place(range) = self.arriving {
            self.arriving = Arriving::Discard(range.len);
        }
    }

    /// Parses `bytes`, which follow what was parsed before.
    ///
    /// # Errors
    /// What arrives is not our protocol.
    pub fn parse(
        &mut self,
        mut bytes: &[u8],
        arrived_ns: u64,
        receiver: &mut dyn Receiver,
    ) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            match self.arriving {
                Arriving::Header => {
                    let need = if self.partial_len < PREFIX_BYTES {
                        PREFIX_BYTES
                    } else {
                        let [a, b, c, d, ..] = self.partial;
                        wire::header_len([a, b, c, d])?
                    };
                    let take = (need - self.partial_len).min(bytes.len());
                    self.partial[self.partial_len..self.partial_len + take]
                        .copy_from_slice(&bytes[..take]);
                    self.partial_len += take;
                    bytes = &bytes[take..];
                    if self.partial_len == PREFIX_BYTES {
                        let [a, b, c, d, ..] = self.partial;
                        if wire::header_len([a, b, c, d])? > PREFIX_BYTES {
                            continue;
                        }
                    } else if self.partial_len < need || need == PREFIX_BYTES {
                        continue;
                    }
                    let len = std::mem::take(&mut self.partial_len);
                    let Some(sink) = receiver.frame(&self.partial[..len], arrived_ns)? else {
                        if wire::is_ping(&self.partial[..len]) {
                            self.data_since_ping = 0;
                        }
                        continue;
                    };
                    self.data_since_ping = self.data_since_ping.saturating_add(1);
                    self.arriving = match sink {
                        Sink::Place(range) => Arriving::Place(range),
                        Sink::Discard(len) => Arriving::Discard(len),
                    };
                    self.finish_if_empty(receiver);
                }
                Arriving::Place(range) => {
                    let take = bytes
                        .len()
                        .min(usize::try_from(range.len).unwrap_or(usize::MAX));
                    // SAFETY: the engine placed `range` inside a posted buffer, which its owner
                    // keeps valid and untouched until the receive ends; `bytes` is the channel's.
                    unsafe {
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), range.addr as *mut u8, take);
                    }
                    bytes = &bytes[take..];
                    self.advance(take, receiver);
                }
                Arriving::Discard(len) => {
                    let take = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
                    bytes = &bytes[take..];
                    self.advance(take, receiver);
                }
            }
        }
        Ok(())
    }

    /// So many bytes of the payload have come; no more than it has left.
    pub fn advance(&mut self, bytes: usize, receiver: &mut dyn Receiver) {
        let bytes = bytes as u64;
        match &mut self.arriving {
            Arriving::Header => {}
            Arriving::Place(range) => {
                range.addr += bytes;
                range.len -= bytes;
            }
            Arriving::Discard(len) => *len -= bytes,
        }
        self.finish_if_empty(receiver);
    }

    fn finish_if_empty(&mut self, receiver: &mut dyn Receiver) {
        let rest = match self.arriving {
            Arriving::Header => return,
            Arriving::Place(range) => range.len,
            Arriving::Discard(len) => len,
        };
        if rest == 0 {
            self.arriving = Arriving::Header;
            receiver.payload_done();
        } else {
            self.bulk = rest > BULK_BYTES;
        }
    }
}
