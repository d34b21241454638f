//! The frames that two endpoints exchange, and nothing else: encoding and checked decoding.
//!
//! Every frame starts with four bytes: kind, flags, and the length of its header in bytes (the
//! payload of a chunk or an eager message follows the header and is not counted). All integers
//! are little-endian. A decoder reads only what is there, and a frame that does not decode ends
//! the path it came on: nothing that a stranger sends reaches memory. `docs/protocol.md` shows
//! each frame.

use thiserror::Error;

/// Bytes that every frame starts with.
pub const PREFIX_BYTES: usize = 4;
/// No header is longer than this: a longer one is refused before it is collected.
pub const HEADER_BYTES_MAX: usize = 80;
/// Boundaries of chunks are multiples of this, so that NCCL's LL128 lines stay whole.
pub const CHUNK_ALIGN: u32 = 128;
/// A message is cut into chunks of at least this size unless it is one chunk.
pub const CHUNK_BYTES_MIN: u32 = 4096;
/// The largest chunk.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// The largest message: 1 GiB is what NCCL sends, and its sizes are C ints.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Devices of a host that a link can use: as many ports as a virtual device of NCCL has.
pub const KEYS_MAX: usize = 8;

/// The keys of a buffer, one for each device of its host; empty where the transport needs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    each: [u32; KEYS_MAX],
    count: u8,
    is_gpu: bool,
}

impl Keys {
    /// None at all.
    pub const NONE: Self = Self {
        each: [0; KEYS_MAX],
        count: 0,
        is_gpu: false,
    };

    /// Keys in the order of the host's devices; `None` for more than [`KEYS_MAX`].
    #[must_use]
    pub fn new(keys: &[u32]) -> Option<Self> {
        let mut out = Self {
            count: u8::try_from(keys.len()).ok()?,
            ..Self::NONE
        };
        out.each.get_mut(..keys.len())?.copy_from_slice(keys);
        Some(out)
    }

    /// The same for memory of a GPU: adapters read and write it, the host's processors never do.
    #[must_use]
    pub fn of_gpu(self) -> Self {
        Self {
            is_gpu: true,
            ..self
        }
    }

    /// Whether the host's processors must leave the buffer alone.
    #[must_use]
    pub fn is_gpu(&self) -> bool {
        self.is_gpu
    }

    /// The keys, in the order of the host's devices.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.each[..usize::from(self.count)]
    }
}

/// A slice of a credited message; its payload follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The receiver's slot for the message, from its credit.
    pub slot: u16,
    /// Which use of the slot, from the credit.
    pub generation: u32,
    /// Which chunk of the message; its offset is `index * chunk_bytes`.
    pub index: u32,
    /// Size of every chunk of the message but the last.
    pub chunk_bytes: u32,
    /// Bytes that follow.
    pub payload: u32,
    /// The message ends with this chunk.
    pub last: bool,
}

impl Chunk {
    /// Where it begins in its message.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.index) * u64::from(self.chunk_bytes)
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset() + u64::from(self.payload)
    }
}

/// A small message, sent whole and without a credit; its payload follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eager {
    /// Connection.
    pub conn: u32,
    /// The sender's tag.
    pub tag: i32,
    /// How many messages with this tag the connection carried before.
    pub ordinal: u32,
    /// Bytes that follow.
    pub payload: u32,
}

/// A receive buffer is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Connection.
    pub conn: u32,
    /// The receiver's tag.
    pub tag: i32,
    /// How many receives with this tag the connection posted before.
    pub ordinal: u32,
    /// Slot that the message's chunks name.
    pub slot: u16,
    /// Which use of the slot.
    pub generation: u32,
    /// Bytes the buffer holds.
    pub capacity: u64,
    /// The buffer's address for RDMA; 0 where the transport needs none.
    pub addr: u64,
    /// The buffer's remote keys.
    pub rkeys: Keys,
}

/// How far one path has come, cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathCount {
    /// Path.
    pub path: u8,
    /// Which channel of the path.
    pub epoch: u16,
    /// Data frames (chunks and eager messages) received whole on that channel, modulo 2^32.
    pub count: u32,
}

/// The acknowledgement's fixed part; [`PathCount`]s follow in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Bytes of eager messages that have left the receiver's pool, modulo 2^64.
    pub eager_consumed: u64,
}

/// Any frame. Acknowledgement entries are decoded apart, by [`ack_entries`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Slice of a message.
    Chunk(Chunk),
    /// Small message.
    Eager(Eager),
    /// Progress of paths.
    Ack(Ack),
    /// A buffer is ready.
    Credit(Credit),
    /// The sender has a message and no credit for it (or found its credit too small).
    Announce {
        /// Connection.
        conn: u32,
        /// Tag.
        tag: i32,
        /// Ordinal within the tag.
        ordinal: u32,
        /// Bytes of the message.
        size: u64,
    },
    /// A connection to a listener of the peer.
    Open {
        /// Connection, named by its sender.
        conn: u32,
        /// The listener, from its handle.
        listener: u64,
    },
    /// Answer to `Open`.
    Opened {
        /// Connection.
        conn: u32,
        /// The listener exists.
        accepted: bool,
    },
    /// One end of a connection has been closed; repeated until the other end is closed too.
    Close {
        /// Connection.
        conn: u32,
    },
    /// Make the path silent and say how far it came.
    Fence {
        /// Path.
        path: u8,
        /// Which channel of the path.
        epoch: u16,
    },
    /// The path is silent; it came so far.
    Fenced(PathCount),
    /// The receiver lost the channel of this path.
    Lost {
        /// Path.
        path: u8,
        /// Which channel of the path.
        epoch: u16,
    },
    /// A probe of the path it comes on.
    Ping {
        /// Names the probe.
        id: u32,
        /// Sender's wall clock, ns.
        sent_ns: u64,
    },
    /// Answer to `Ping`, on the same path.
    Pong {
        /// Names the probe.
        id: u32,
        /// Copied from the probe.
        sent_ns: u64,
        /// Receiver's wall clock when the probe reached its host, ns.
        received_ns: u64,
    },
    /// So many bytes follow that mean nothing: whether so large a message gets through.
    Padding {
        /// At most [`PADDING_MAX`].
        bytes: u32,
    },
    /// The process closes the link in good order.
    Goodbye,
    /// The sender has begun messages of so many bytes since the link began, more than it has been
    /// granted; so many of them will never be sent.
    Demand {
        /// Bytes.
        wanted: u64,
        /// Bytes.
        abandoned: u64,
    },
    /// The sender may send so many bytes, since the link began.
    Grant {
        /// Bytes.
        granted: u64,
    },
}

/// Why a frame was refused. It names what the peer did; the caller adds which peer and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// A kind this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The header's length does not fit its kind.
    #[error("frame kind {kind} with a header of {bytes} bytes")]
    BadLength {
        /// Frame kind.
        kind: u8,
        /// Length it claimed.
        bytes: usize,
    },
    /// A field holds what can't be.
    #[error("frame kind {kind}: {field} out of range")]
    BadField {
        /// Frame kind.
        kind: u8,
        /// Field.
        field: &'static str,
    },
}

const CHUNK: u8 = 1;
const EAGER: u8 = 2;
const ACK: u8 = 3;
const CREDIT: u8 = 4;
const ANNOUNCE: u8 = 5;
const OPEN: u8 = 6;
const OPENED: u8 = 7;
const CLOSE: u8 = 8;
const FENCE: u8 = 9;
const FENCED: u8 = 10;
const LOST: u8 = 11;
const PING: u8 = 12;
const PONG: u8 = 13;
const GOODBYE: u8 = 14;
const DEMAND: u8 = 15;
const GRANT: u8 = 16;
const PADDING: u8 = 17;

/// Bytes of padding in a message: those of the largest packet that there is over RDMA.
pub const PADDING_MAX: u32 = 4096;

const FLAG_LAST: u8 = 1;
const FLAG_ACCEPTED: u8 = 1;
const FLAG_GPU: u8 = 1;
const ACK_FIXED: usize = 12;
const ACK_ENTRY: usize = 8;

/// An encoded header: small enough to live on the stack, or in the queue of a path.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    bytes: [u8; 80],
    len: u8,
}

impl Header {
    fn new(kind: u8, flags: u8) -> Self {
        let mut header = Self {
            bytes: [0; 80],
            len: 4,
        };
        header.bytes[0] = kind;
        header.bytes[1] = flags;
        header
    }

    fn put(mut self, field: &[u8]) -> Self {
        let at = usize::from(self.len);
        self.bytes[at..at + field.len()].copy_from_slice(field);
        self.len += u8::try_from(field.len()).unwrap_or(u8::MAX);
        self
    }

    fn end(mut self) -> Self {
        self.bytes[2..4].copy_from_slice(&u16::from(self.len).to_le_bytes());
        self
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Frame {
    /// Encodes the frame's header. An `Ack` gets no entries here: see [`encode_ack`].
    #[must_use]
    pub fn encode(&self) -> Header {
        match *self {
            Self::Chunk(c) => Header::new(CHUNK, if c.last { FLAG_LAST } else { 0 })
                .put(&c.slot.to_le_bytes())
                .put(&[0, 0])
                .put(&c.generation.to_le_bytes())
                .put(&c.index.to_le_bytes())
                .put(&c.chunk_bytes.to_le_bytes())
                .put(&c.payload.to_le_bytes()),
            Self::Eager(e) => Header::new(EAGER, 0)
                .put(&e.conn.to_le_bytes())
                .put(&e.tag.to_le_bytes())
                .put(&e.ordinal.to_le_bytes())
                .put(&e.payload.to_le_bytes()),
            Self::Ack(a) => Header::new(ACK, 0).put(&a.eager_consumed.to_le_bytes()),
            Self::Credit(c) => {
                let mut header = Header::new(CREDIT, if c.rkeys.is_gpu { FLAG_GPU } else { 0 })
                    .put(&c.conn.to_le_bytes())
                    .put(&c.tag.to_le_bytes())
                    .put(&c.ordinal.to_le_bytes())
                    .put(&c.slot.to_le_bytes())
                    .put(&[c.rkeys.count, 0])
                    .put(&c.generation.to_le_bytes())
                    .put(&c.capacity.to_le_bytes())
                    .put(&c.addr.to_le_bytes());
                for key in c.rkeys.as_slice() {
                    header = header.put(&key.to_le_bytes());
                }
                header
            }
            Self::Announce {
                conn,
                tag,
                ordinal,
                size,
            } => Header::new(ANNOUNCE, 0)
                .put(&conn.to_le_bytes())
                .put(&tag.to_le_bytes())
                .put(&ordinal.to_le_bytes())
                .put(&size.to_le_bytes()),
            Self::Open { conn, listener } => Header::new(OPEN, 0)
                .put(&conn.to_le_bytes())
                .put(&listener.to_le_bytes()),
            Self::Opened { conn, accepted } => {
                Header::new(OPENED, if accepted { FLAG_ACCEPTED } else { 0 })
                    .put(&conn.to_le_bytes())
            }
            Self::Close { conn } => Header::new(CLOSE, 0).put(&conn.to_le_bytes()),
            Self::Fence { path, epoch } => Header::new(FENCE, 0)
                .put(&[path, 0])
                .put(&epoch.to_le_bytes()),
            Self::Fenced(c) => Header::new(FENCED, 0)
                .put(&[c.path, 0])
                .put(&c.epoch.to_le_bytes())
                .put(&c.count.to_le_bytes()),
            Self::Lost { path, epoch } => Header::new(LOST, 0)
                .put(&[path, 0])
                .put(&epoch.to_le_bytes()),
            Self::Ping { id, sent_ns } => Header::new(PING, 0)
                .put(&id.to_le_bytes())
                .put(&sent_ns.to_le_bytes()),
            Self::Pong {
                id,
                sent_ns,
                received_ns,
            } => Header::new(PONG, 0)
                .put(&id.to_le_bytes())
                .put(&sent_ns.to_le_bytes())
                .put(&received_ns.to_le_bytes()),
            Self::Padding { bytes } => Header::new(PADDING, 0).put(&bytes.to_le_bytes()),
            Self::Goodbye => Header::new(GOODBYE, 0),
            Self::Demand { wanted, abandoned } => Header::new(DEMAND, 0)
                .put(&wanted.to_le_bytes())
                .put(&abandoned.to_le_bytes()),
            Self::Grant { granted } => Header::new(GRANT, 0).put(&granted.to_le_bytes()),
        }
        .end()
    }

    /// Decodes a whole header (`header_len` bytes).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(header: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader {
            kind: header.first().copied().unwrap_or(0),
            rest: header,
            all: header.len(),
        };
        let [kind, flags] = r.take()?;
        let _len: [u8; 2] = r.take()?;
        let frame = match kind {
            CHUNK => {
                let slot = r.u16()?;
                let _: [u8; 2] = r.take()?;
                let chunk = Chunk {
                    slot,
                    generation: r.u32()?,
                    index: r.u32()?,
                    chunk_bytes: r.u32()?,
                    payload: r.u32()?,
                    last: flags & FLAG_LAST != 0,
                };
                r.check(chunk.chunk_bytes.is_multiple_of(CHUNK_ALIGN), "chunk size")?;
                r.check(
                    (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk.chunk_bytes),
                    "chunk size",
                )?;
                r.check(chunk.payload <= chunk.chunk_bytes, "payload")?;
                r.check(chunk.last || chunk.payload == chunk.chunk_bytes, "payload")?;
                Self::Chunk(chunk)
            }
            EAGER => {
                let eager = Eager {
                    conn: r.u32()?,
                    tag: r.i32()?,
                    ordinal: r.u32()?,
                    payload: r.u32()?,
                };
                r.check(eager.payload <= 1 << 16, "payload")?;
                Self::Eager(eager)
            }
            ACK => {
                let ack = Ack {
                    eager_consumed: r.u64()?,
                };
                r.check(r.rest.len().is_multiple_of(ACK_ENTRY), "entries")?;
                r.rest = &[];
                Self::Ack(ack)
            }
            CREDIT => {
                let (conn, tag, ordinal, slot) = (r.u32()?, r.i32()?, r.u32()?, r.u16()?);
                let [keys, _] = r.take()?;
                let (generation, capacity, addr) = (r.u32()?, r.u64()?, r.u64()?);
                r.check(usize::from(keys) <= KEYS_MAX, "remote keys")?;
                let mut rkeys = Keys {
                    count: keys,
                    is_gpu: flags & FLAG_GPU != 0,
                    ..Keys::default()
                };
                for key in &mut rkeys.each[..usize::from(keys)] {
                    *key = r.u32()?;
                }
                Self::Credit(Credit {
                    conn,
                    tag,
                    ordinal,
                    slot,
                    generation,
                    capacity,
                    addr,
                    rkeys,
                })
            }
            ANNOUNCE => Self::Announce {
                conn: r.u32()?,
                tag: r.i32()?,
                ordinal: r.u32()?,
                size: r.u64()?,
            },
            OPEN => Self::Open {
                conn: r.u32()?,
                listener: r.u64()?,
            },
            OPENED => Self::Opened {
                conn: r.u32()?,
                accepted: flags & FLAG_ACCEPTED != 0,
            },
            CLOSE => Self::Close { conn: r.u32()? },
            FENCE | LOST => {
                let [path, _] = r.take()?;
                let epoch = r.u16()?;
                if kind == FENCE {
                    Self::Fence { path, epoch }
                } else {
                    Self::Lost { path, epoch }
                }
            }
            FENCED => {
                let [path, _] = r.take()?;
                Self::Fenced(PathCount {
                    path,
                    epoch: r.u16()?,
                    count: r.u32()?,
                })
            }
            PING => Self::Ping {
                id: r.u32()?,
                sent_ns: r.u64()?,
            },
            PONG => Self::Pong {
                id: r.u32()?,
                sent_ns: r.u64()?,
                received_ns: r.u64()?,
            },
            GOODBYE => Self::Goodbye,
            DEMAND => Self::Demand {
                wanted: r.u64()?,
                abandoned: r.u64()?,
            },
            GRANT => Self::Grant { granted: r.u64()? },
            PADDING => {
                let bytes = r.u32()?;
                r.check(bytes <= PADDING_MAX, "bytes")?;
                Self::Padding { bytes }
            }
            other => return Err(WireError::UnknownKind(other)),
        };
        if r.rest.is_empty() {
            Ok(frame)
        } else {
            Err(r.length())
        }
    }
}

/// The length of the header that starts with `prefix`.
///
/// # Errors
/// A length that no frame has.
pub fn header_len(prefix: [u8; PREFIX_BYTES]) -> Result<usize, WireError> {
    let bytes = usize::from(u16::from_le_bytes([prefix[2], prefix[3]]));
    if (PREFIX_BYTES..=HEADER_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(WireError::BadLength {
            kind: prefix[0],
            bytes,
        })
    }
}

/// Whether this is the header of a probe.
#[must_use]
pub fn is_ping(header: &[u8]) -> bool {
    header.first() == Some(&PING)
}

/// Paths that one acknowledgement can speak of.
pub const ACK_ENTRIES_MAX: usize = 8;

/// Encodes an acknowledgement with as many entries as fit (at most [`ACK_ENTRIES_MAX`]).
pub fn encode_ack(ack: Ack, entries: impl Iterator<Item = PathCount>) -> Header {
    let mut header = Frame::Ack(ack).encode();
    for entry in entries.take(ACK_ENTRIES_MAX) {
        header = header
            .put(&[entry.path, 0])
            .put(&entry.epoch.to_le_bytes())
            .put(&entry.count.to_le_bytes());
    }
    header.end()
}

/// The entries of an acknowledgement whose header has been decoded without an error.
pub fn ack_entries(header: &[u8]) -> impl Iterator<Item = PathCount> + '_ {
    header
        .get(ACK_FIXED..)
        .unwrap_or(&[])
        .chunks_exact(ACK_ENTRY)
        .map(|e| PathCount {
            path: e[0],
            epoch: u16::from_le_bytes([e[2], e[3]]),
            count: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        })
}

struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
    all: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some((field, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.length());
        };
        self.rest = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        self.take().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_le_bytes)
    }

    fn length(&self) -> WireError {
        WireError::BadLength {
            kind: self.kind,
            bytes: self.all,
        }
    }

    fn check(&self, right: bool, field: &'static str) -> Result<(), WireError> {
        if right {
            Ok(())
        } else {
            Err(WireError::BadField {
                kind: self.kind,
                field,
            })
        }
    }
}

/// The 32-bit immediate of an RDMA WRITE: what a verbs receiver learns of a chunk.
///
/// | bits | field |
/// |---|---|
/// | 0–16 | chunk: 131 072 chunks of 8 KiB make the largest message, 1 GiB |
/// | 17–28 | slot: 4 096 messages outstanding on a link |
/// | 29–30 | generation of the slot, modulo 4 |
/// | 31 | last chunk |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Immediate {
    /// Slot of the message.
    pub slot: u16,
    /// Generation of the slot, modulo 4.
    pub generation: u8,
    /// Which chunk.
    pub index: u32,
    /// The message ends with this chunk.
    pub last: bool,
}

/// Slots that an [`Immediate`] can name.
pub const SLOTS_MAX: usize = 1 << 12;
/// Chunks of one message that an [`Immediate`] can name.
pub const IMMEDIATE_CHUNKS_MAX: u32 = 1 << 17;

impl Immediate {
    /// That of a chunk.
    #[must_use]
    pub fn of(chunk: &Chunk) -> Self {
        Self {
            slot: chunk.slot,
            generation: (chunk.generation & 3) as u8,
            index: chunk.index,
            last: chunk.last,
        }
    }

    /// Packs the fields; `None` if one does not fit.
    #[must_use]
    pub fn pack(self) -> Option<u32> {
        (self.index < IMMEDIATE_CHUNKS_MAX && usize::from(self.slot) < SLOTS_MAX).then(|| {
            self.index
                | u32::from(self.slot) << 17
                | u32::from(self.generation & 3) << 29
                | u32::from(self.last) << 31
        })
    }

    /// Unpacks any immediate: every value names something, the receiver checks what.
    #[must_use]
    pub fn unpack(imm: u32) -> Self {
        Self {
            slot: ((imm >> 17) & 0xfff) as u16,
            generation: ((imm >> 29) & 3) as u8,
            index: imm & 0x1_ffff,
            last: imm >> 31 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        prop_oneof![
            (
                any::<u16>(),
                any::<u32>(),
                any::<u32>(),
                32u32..512,
                any::<bool>()
            )
                .prop_map(|(slot, generation, index, units, last)| Frame::Chunk(
                    Chunk {
                        slot,
                        generation,
                        index,
                        chunk_bytes: units * CHUNK_ALIGN,
                        payload: if last { units } else { units * CHUNK_ALIGN },
                        last,
                    }
                )),
            (any::<u32>(), any::<i32>(), any::<u32>(), 0u32..65536).prop_map(
                |(conn, tag, ordinal, payload)| Frame::Eager(Eager {
                    conn,
                    tag,
                    ordinal,
                    payload
                })
            ),
            (
                any::<u32>(),
                any::<i32>(),
                any::<u64>(),
                prop::collection::vec(any::<u32>(), 0..=8)
            )
                .prop_map(|(conn, tag, addr, keys)| Frame::Credit(Credit {
                    conn,
                    tag,
                    ordinal: conn ^ 1,
                    slot: 7,
                    generation: 9,
                    capacity: addr >> 8,
                    addr,
                    rkeys: match Keys::new(&keys).unwrap() {
                        keys if tag < 0 => keys.of_gpu(),
                        keys => keys,
                    },
                })),
            (any::<u32>(), any::<i32>(), any::<u64>()).prop_map(|(conn, tag, size)| {
                Frame::Announce {
                    conn,
                    tag,
                    ordinal: 3,
                    size,
                }
            }),
            (any::<u32>(), any::<u64>())
                .prop_map(|(conn, listener)| Frame::Open { conn, listener }),
            (any::<u32>(), any::<bool>())
                .prop_map(|(conn, accepted)| Frame::Opened { conn, accepted }),
            any::<u32>().prop_map(|conn| Frame::Close { conn }),
            (any::<u8>(), any::<u16>()).prop_map(|(path, epoch)| Frame::Fence { path, epoch }),
            (any::<u8>(), any::<u16>()).prop_map(|(path, epoch)| Frame::Lost { path, epoch }),
            (any::<u8>(), any::<u16>(), any::<u32>())
                .prop_map(|(path, epoch, count)| Frame::Fenced(PathCount { path, epoch, count })),
            (any::<u32>(), any::<u64>()).prop_map(|(id, sent_ns)| Frame::Ping { id, sent_ns }),
            (any::<u32>(), any::<u64>()).prop_map(|(id, sent_ns)| Frame::Pong {
                id,
                sent_ns,
                received_ns: !sent_ns
            }),
            Just(Frame::Goodbye),
            any::<u64>().prop_map(|wanted| Frame::Demand {
                wanted,
                abandoned: wanted / 3
            }),
            any::<u64>().prop_map(|granted| Frame::Grant { granted }),
            (0..=PADDING_MAX).prop_map(|bytes| Frame::Padding { bytes }),
        ]
    }

    proptest! {
        #[test]
        fn every_frame_comes_back(frame in frames()) {
            let header = frame.encode();
            let bytes = header.as_bytes();
            let prefix: [u8; 4] = bytes[..4].try_into().unwrap();
            prop_assert_eq!(header_len(prefix), Ok(bytes.len()));
            prop_assert_eq!(Frame::decode(bytes), Ok(frame));
            prop_assert!(Frame::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if Frame::decode(&bytes).is_ok() {
                let _ = ack_entries(&bytes).count();
            }
        }

        #[test]
        fn immediates_come_back(imm in any::<u32>()) {
            prop_assert_eq!(Immediate::unpack(imm).pack(), Some(imm));
        }

        #[test]
        fn acks_come_back(counts in prop::collection::vec((any::<u8>(), any::<u16>(), any::<u32>()), 0..8)) {
            let entries: Vec<_> = counts
                .iter()
                .map(|&(path, epoch, count)| PathCount { path, epoch, count })
                .collect();
            let header = encode_ack(Ack { eager_consumed: 77 }, entries.iter().copied());
            let out = header.as_bytes();
            prop_assert_eq!(Frame::decode(out), Ok(Frame::Ack(Ack { eager_consumed: 77 })));
            prop_assert_eq!(ack_entries(out).collect::<Vec<_>>(), entries);
        }
    }

    #[test]
    fn the_largest_message_fits_the_immediate() {
        let chunks = MESSAGE_BYTES_MAX / u64::from(IMMEDIATE_CHUNKS_MAX);
        assert_eq!(chunks, 8192, "1 GiB in 8 KiB chunks");
    }
}
