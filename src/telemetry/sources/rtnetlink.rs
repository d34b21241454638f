//! Questions to the kernel about interfaces and routes (rtnetlink): the socket, the frame of a
//! message, and its attributes. What comes back is taken apart here without trust: any bytes give
//! what can be made out of them, and nothing more.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

// linux/netlink.h
const HEADER_BYTES: usize = 16; // struct nlmsghdr
const ATTRIBUTE_BYTES: usize = 4; // struct nlattr
const KIND_MASK: u16 = 0x3fff; // NLA_TYPE_MASK
const ERROR: u16 = 2; // NLMSG_ERROR
const DONE: u16 = 3; // NLMSG_DONE
const REQUEST: u16 = 1; // NLM_F_REQUEST
const MULTI: u16 = 2; // NLM_F_MULTI
const DUMP: u16 = 0x300; // NLM_F_DUMP

// linux/rtnetlink.h
const NEW_ROUTE: u16 = 24; // RTM_NEWROUTE
const GET_ROUTE: u16 = 26; // RTM_GETROUTE
const ROUTE_BYTES: usize = 12; // struct rtmsg
const ROUTE_NEXT_HOPS: u16 = 9; // RTA_MULTIPATH
const NEXT_HOP_BYTES: usize = 8; // struct rtnexthop

/// The kernel answers at once; a driver that asks its firmware may take longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The kernel's answers come in pieces of at most this.
const ANSWER_BYTES: usize = 64 << 10;
/// A host with more routes than this many bytes tell is cut off here.
const ANSWERS_BYTES_MAX: usize = 64 << 20;

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is about (`RTM_…`).
    pub kind: u16,
    flags: u16,
    /// What follows its header.
    pub body: &'a [u8],
}

/// Asks, and hands over each message of the answer.
///
/// # Errors
/// What the kernel says, or that nothing came in time.
pub fn ask(
    kind: u16,
    is_dump: bool,
    body: &[u8],
    mut take: impl FnMut(Message<'_>),
) -> io::Result<()> {
    let protocol = Protocol::from(libc::NETLINK_ROUTE);
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(|_| ErrorKind::InvalidInput)?;
    let flags = if is_dump { REQUEST | DUMP } else { REQUEST };
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend([0; 4]);
    request.extend(body);
    socket.send(&request)?;

    let mut answer = vec![0; ANSWER_BYTES];
    let mut total = 0;
    loop {
        let length = socket.read(&mut answer)?;
        total += length;
        if length == 0 || total > ANSWERS_BYTES_MAX {
            return Ok(());
        }
        let mut is_last = true;
        for message in messages(&answer[..length]) {
            match message.kind {
                ERROR => return refusal(message.body),
                DONE => return Ok(()),
                _ => take(message),
            }
            is_last = message.flags & MULTI == 0;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// What `NLMSG_ERROR` says; 0 is no error.
fn refusal(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(ErrorKind::InvalidData.into()),
    }
}

/// The messages in one piece of an answer, up to the first that is not whole.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..length.max(HEADER_BYTES))?;
        bytes = bytes
            .get(message.len().next_multiple_of(4)..)
            .unwrap_or_default();
        (length >= HEADER_BYTES).then(|| Message {
            kind: half(message, 4),
            flags: half(message, 6),
            body: &message[HEADER_BYTES..],
        })
    })
}

/// The attributes in these bytes with their kinds, up to the first that is not whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let attribute = bytes.get(..length)?;
        let value = attribute.get(ATTRIBUTE_BYTES..)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((half(attribute, 2) & KIND_MASK, value))
    })
}

/// An attribute as it is sent.
#[must_use]
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// How many IPv4 routes of this network namespace have several next hops.
///
/// # Errors
/// The kernel does not answer.
pub fn multipath_routes() -> io::Result<usize> {
    let mut body = [0; ROUTE_BYTES];
    body[0] = u8::try_from(libc::AF_INET).unwrap_or_default();
    let mut count = 0;
    ask(GET_ROUTE, true, &body, |message| {
        if message.kind == NEW_ROUTE {
            count += usize::from(next_hops(message.body) > 1);
        }
    })?;
    Ok(count)
}

/// The number of next hops in the body of a route, 0 where it names none apart.
#[must_use]
pub fn next_hops(body: &[u8]) -> usize {
    let attributes_of = |body| attributes(body).find(|(kind, _)| *kind == ROUTE_NEXT_HOPS);
    let Some((_, mut hops)) = body.get(ROUTE_BYTES..).and_then(attributes_of) else {
        return 0;
    };
    let mut count = 0;
    while let Some(length) = hops.first_chunk().map(|length| u16::from_ne_bytes(*length)) {
        let length = usize::from(length);
        if length < NEXT_HOP_BYTES || length > hops.len() {
            break;
        }
        count += 1;
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    count
}

/// Two bytes within what is known to be there.
fn half(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes
        .get(at..at + 2)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(hops: usize) -> Vec<u8> {
        // A hop to an interface, with the address of its router.
        let mut hop = 16_u16.to_ne_bytes().to_vec();
        hop.extend([0, 0, 2, 0, 0, 0]);
        hop.extend(attribute(5, &[10, 0, 0, 1]));
        let mut body = vec![0; ROUTE_BYTES];
        body.extend(attribute(1, &[10, 9, 0, 0]));
        body.extend(attribute(ROUTE_NEXT_HOPS, &hop.repeat(hops)));
        body
    }

    #[test]
    fn next_hops_are_counted() {
        assert_eq!(next_hops(&route(0)), 0);
        assert_eq!(next_hops(&route(1)), 1);
        assert_eq!(next_hops(&route(4)), 4);
        let mut plain = vec![0; ROUTE_BYTES];
        plain.extend(attribute(5, &[10, 0, 0, 1]));
        assert_eq!(next_hops(&plain), 0);
        // Cut in the middle of the attribute, which then is not there.
        let cut = route(4);
        assert_eq!(next_hops(&cut[..cut.len() - 1]), 0);
    }

    #[test]
    fn the_kernel_answers_and_refuses() {
        assert!(multipath_routes().is_ok());
        // A kind of message that there is not.
        let refused = ask(0x0fff, false, &[0; 4], |_| {}).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
    }

    #[test]
    fn a_refusal_is_an_error_and_zero_is_none() {
        assert!(refusal(&0_i32.to_ne_bytes()).is_ok());
        let error = refusal(&(-libc::ENODEV).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(refusal(&i32::MIN.to_ne_bytes()).is_err());
        assert!(refusal(&[1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for message in messages(&bytes) {
                prop_assert!(attributes(message.body).count() <= bytes.len() / ATTRIBUTE_BYTES);
            }
            prop_assert!(next_hops(&bytes) <= bytes.len() / NEXT_HOP_BYTES);
        }

        #[test]
        fn what_is_written_is_read(values in prop::collection::vec((0_u16..0x3fff, prop::collection::vec(any::<u8>(), 0..9)), 0..5)) {
            let bytes: Vec<u8> = values.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
            let read: Vec<_> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
