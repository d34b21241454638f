//! Questions to the kernel by netlink: the socket, requests, and what answers are made of. `ethtool_netlink`,
//! `dcb` and `routes` each ask a few, about single interfaces or all routes: less code than it would take to
//! use a crate that knows netlink and not these messages.
//!
//! What comes back is taken apart here without trust: any bytes give what can be made out of them, and
//! nothing more.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as Descriptor, Type};

// linux/netlink.h
const HEADER_BYTES: usize = 16; // struct nlmsghdr
const ATTRIBUTE_BYTES: usize = 4; // struct nlattr
const KIND_MASK: u16 = !(3 << 14); // NLA_TYPE_MASK
const ERROR: u16 = 2; // NLMSG_ERROR
const DONE: u16 = 3; // NLMSG_DONE
const REQUEST: u16 = 1; // NLM_F_REQUEST
const MULTI: u16 = 2; // NLM_F_MULTI
const DUMP: u16 = 0x300; // NLM_F_DUMP

/// Marks an attribute that has others inside (`NLA_F_NESTED`).
pub(super) const NESTED: u16 = 1 << 15;

/// The kernel answers at once, unless a driver's firmware does not.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel's answers come in pieces of at most this.
const PIECE_BYTES: usize = 64 << 10;
/// An answer that is longer is cut off here, as that of a host with a million routes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is about.
    pub kind: u16,
    flags: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// What follows its header.
    pub body: &'a [u8],
}

/// Asks the kernel.
#[derive(Debug)]
pub struct Socket {
    descriptor: Descriptor,
    sequence: u32,
    piece: Vec<u8>,
}

impl Socket {
    /// One for this network namespace, of this family of questions (`NETLINK_…`).
    ///
    /// # Errors
    /// The kernel does not know the family.
    pub fn open(family: i32) -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let descriptor = Descriptor::new(domain, Type::RAW, Some(Protocol::from(family)))?;
        descriptor.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            descriptor,
            sequence: 0,
            piece: vec![0; PIECE_BYTES],
        })
    }

    /// Asks for one thing, and gives the body of the answer, which is of the same kind as the question.
    ///
    /// # Errors
    /// What the kernel says, or that nothing came in time.
    pub fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut answer = None;
        self.exchange(kind, REQUEST, body, |message| {
            if message.kind == kind {
                answer = Some(message.body.to_owned());
            }
        })?;
        answer.ok_or_else(|| ErrorKind::InvalidData.into())
    }

    /// Asks for all things of a kind, and hands over each message of the answer.
    ///
    /// # Errors
    /// What the kernel says, or that nothing came in time.
    pub fn ask_all(
        &mut self,
        kind: u16,
        body: &[u8],
        take: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.exchange(kind, REQUEST | DUMP, body, take)
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + body.len());
        let length = length.map_err(|_| ErrorKind::InvalidInput)?;
        let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(body);
        self.descriptor.write_all(&request)?;
        let mut total = 0;
        while total <= ANSWER_BYTES_MAX {
            let length = match self.descriptor.read(&mut self.piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            total += length;
            // What answers an earlier question has come too late.
            let ours = |message: &Message<'_>| message.sequence == self.sequence;
            for message in messages(&self.piece[..length]).filter(ours) {
                match message.kind {
                    ERROR => return refusal(message.body),
                    DONE => return Ok(()),
                    _ => take(message),
                }
                if message.flags & MULTI == 0 {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// What `NLMSG_ERROR` says; 0 is no error.
fn refusal(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code));
    match code.and_then(i32::checked_neg) {
        Some(0) => Ok(()),
        Some(errno @ 1..) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// The messages in one piece of an answer, up to the first that is not whole.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..length)?;
        let body = message.get(HEADER_BYTES..)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            body,
        })
    })
}

/// The attributes in these bytes with their kinds, up to the first that is not whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND_MASK;
        let value = bytes.get(ATTRIBUTE_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this kind.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// An attribute as it is sent.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).expect("requests are short");
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_told_apart() {
        let piece = [message(30, 4, b"early"), message(31, 5, b"ours")].concat();
        let read: Vec<_> = messages(&piece)
            .map(|message| (message.kind, message.sequence, message.body))
            .collect();
        assert_eq!(read, [(30, 4, &b"early"[..]), (31, 5, &b"ours"[..])]);
        // The last byte of the second is missing.
        assert_eq!(messages(&piece[..piece.len() - 1]).count(), 1);
        assert_eq!(messages(&piece[..HEADER_BYTES - 1]).count(), 0);
        // Shorter than its own header.
        assert_eq!(messages(&[3, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn a_refusal_is_an_error_and_zero_is_none() {
        assert!(refusal(&0_i32.to_ne_bytes()).is_ok());
        let error = refusal(&(-libc::ENODEV).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        for odd in [i32::MIN, 5] {
            let error = refusal(&odd.to_ne_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{odd}");
        }
        assert!(refusal(&[1]).is_err());
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know() {
        let mut socket = Socket::open(libc::NETLINK_ROUTE).unwrap();
        for _ in 0..2 {
            let refused = socket.ask(0x0fff, &[0; 4]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for message in messages(&bytes) {
                prop_assert!(attributes(message.body).count() <= bytes.len() / ATTRIBUTE_BYTES);
                let _ = refusal(message.body);
            }
        }

        #[test]
        fn what_is_written_is_read(values in prop::collection::vec((0_u16..0x3fff, prop::collection::vec(any::<u8>(), 0..20)), 0..8)) {
            let bytes: Vec<u8> = values.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
            let read: Vec<_> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
