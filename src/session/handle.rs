//! The 128 bytes that a listener gives to its peer: where it can be reached, and the token that
//! proves that the peer got them from us.
//!
//! | bytes | field |
//! |---|---|
//! | 0–3 | `THWH` |
//! | 4, 5 | protocol version |
//! | 6 | number of addresses |
//! | 8–15 | listener |
//! | 16–31 | token of the listening process |
//! | 32–47 | the listening process |
//! | 48–117 | addresses: family (4 or 6), port, 4 or 16 bytes |
//! | 118 | device that the listener is at, where links go over RDMA |
//! | 119 | number of RDMA ports that a link there may use, 0 for TCP |
//! | 120–127 | the connecting side's own: its attempt, 0 at first |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::HANDLE_BYTES;
use super::handshake::{VERSION_MAJOR, VERSION_MINOR};
use crate::auth::Token;
use crate::engine::wire::KEYS_MAX;
use crate::error::{Error, ErrorKind};

const MAGIC: &[u8; 4] = b"THWH";
const ADDRS: std::ops::Range<usize> = 48..118;
const DEVICE: usize = 118;
const PORTS: usize = 119;

/// A handle, decoded.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Which listener of the process.
    pub listener: u64,
    /// The process's token.
    pub token: Token,
    /// The process.
    pub process: [u8; 16],
    /// Where it listens.
    pub addrs: Vec<SocketAddr>,
    /// The listener's RDMA device, and how many ports a link there may use; `None`: links go over TCP.
    pub rdma: Option<(u8, u8)>,
}

impl Handle {
    /// Encodes the handle; addresses that do not fit are left out.
    #[must_use]
    pub fn encode(&self) -> [u8; HANDLE_BYTES] {
        let mut out = [0; HANDLE_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4] = VERSION_MAJOR;
        out[5] = VERSION_MINOR;
        out[8..16].copy_from_slice(&self.listener.to_le_bytes());
        out[16..32].copy_from_slice(self.token.as_bytes());
        out[32..48].copy_from_slice(&self.process);
        let mut at = ADDRS.start;
        for addr in &self.addrs {
            let (family, ip): (u8, Vec<u8>) = match addr.ip() {
                IpAddr::V4(ip) => (4, ip.octets().to_vec()),
                IpAddr::V6(ip) => (6, ip.octets().to_vec()),
            };
            let end = at + 3 + ip.len();
            if end > ADDRS.end {
                break;
            }
            out[at] = family;
            out[at + 1..at + 3].copy_from_slice(&addr.port().to_le_bytes());
            out[at + 3..end].copy_from_slice(&ip);
            at = end;
            out[6] += 1;
        }
        if let Some((device, ports)) = self.rdma {
            out[DEVICE] = device;
            out[PORTS] = ports;
        }
        out
    }

    /// Decodes a handle.
    ///
    /// # Errors
    /// `InvalidArgument` if it is no handle of ours, `InvalidUsage` if it is of another version.
    pub fn decode(bytes: &[u8; HANDLE_BYTES]) -> Result<Self, Error> {
        let damaged = || {
            Error::new(
                ErrorKind::InvalidArgument,
                "the connection handle is not one of thalweg's: do all ranks load the same net plugin?",
            )
        };
        if &bytes[..4] != MAGIC {
            return Err(damaged());
        }
        if bytes[4] != VERSION_MAJOR {
            return Err(Error::new(
                ErrorKind::InvalidUsage,
                format!(
                    "the peer speaks protocol version {}.{}, this library {VERSION_MAJOR}.{VERSION_MINOR}: install the same release on all hosts",
                    bytes[4], bytes[5]
                ),
            ));
        }
        let array = |at: usize| {
            let mut field = [0; 16];
            field.copy_from_slice(&bytes[at..at + 16]);
            field
        };
        let mut listener = [0; 8];
        listener.copy_from_slice(&bytes[8..16]);
        let mut rest = &bytes[ADDRS];
        let mut addrs = Vec::new();
        for _ in 0..bytes[6] {
            let (ip, used) = match rest {
                [4, _, _, a, b, c, d, ..] => (IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)), 7),
                [6, _, _, ip @ ..] => {
                    let ip: &[u8; 16] = ip.first_chunk().ok_or_else(damaged)?;
                    (IpAddr::V6(Ipv6Addr::from(*ip)), 19)
                }
                _ => return Err(damaged()),
            };
            let port = u16::from_le_bytes([rest[1], rest[2]]);
            addrs.push(SocketAddr::new(ip, port));
            rest = &rest[used..];
        }
        let ports = bytes[PORTS];
        if addrs.is_empty() || addrs.iter().any(|a| a.port() == 0) || usize::from(ports) > KEYS_MAX
        {
            return Err(damaged());
        }
        Ok(Self {
            listener: u64::from_le_bytes(listener),
            token: Token::from_bytes(array(16)),
            process: array(32),
            addrs,
            rdma: (ports != 0).then_some((bytes[DEVICE], ports)),
        })
    }
}

/// The connecting side's own field.
#[must_use]
pub fn attempt(bytes: &[u8; HANDLE_BYTES]) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[120..]);
    u64::from_le_bytes(field)
}

/// Sets the connecting side's own field.
pub fn set_attempt(bytes: &mut [u8; HANDLE_BYTES], attempt: u64) {
    bytes[120..].copy_from_slice(&attempt.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 128), ours in any::<bool>()) {
            let mut bytes: [u8; 128] = bytes.try_into().unwrap();
            if ours {
                bytes[..5].copy_from_slice(b"THWH\x01");
            }
            let _ = Handle::decode(&bytes);
        }

        #[test]
        fn handles_come_back(rdma in prop::option::of((any::<u8>(), 1u8..=8)), v4 in prop::collection::vec((any::<u32>(), 1u16..), 1..4), v6 in prop::collection::vec((any::<u128>(), 1u16..), 0..2)) {
            let mut addrs: Vec<SocketAddr> =
                v4.iter().map(|&(ip, port)| (Ipv4Addr::from(ip), port).into()).collect();
            addrs.extend(v6.iter().map(|&(ip, port)| SocketAddr::from((Ipv6Addr::from(ip), port))));
            let handle = Handle { listener: 9, token: Token::from_bytes([7; 16]), process: [8; 16], addrs, rdma };
            let mut bytes = handle.encode();
            set_attempt(&mut bytes, 77);
            let back = Handle::decode(&bytes).unwrap();
            prop_assert_eq!(attempt(&bytes), 77);
            prop_assert_eq!(back.rdma, handle.rdma);
            prop_assert_eq!(back.addrs, handle.addrs);
            prop_assert_eq!((back.listener, back.process), (9, [8; 16]));
        }
    }

    fn handle() -> Handle {
        Handle {
            listener: 1,
            token: Token::from_bytes([1; 16]),
            process: [0; 16],
            addrs: vec![([127, 0, 0, 1], 5).into()],
            rdma: None,
        }
    }

    #[test]
    fn more_ports_than_a_buffer_has_keys_for_are_none_of_ours() {
        let with = |ports| {
            let rdma = Some((4, ports));
            Handle::decode(&Handle { rdma, ..handle() }.encode())
        };
        assert_eq!(with(8).unwrap().rdma, Some((4, 8)));
        assert_eq!(with(9).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = handle().encode();
        bytes[4] = 9;
        let error = Handle::decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUsage);
        assert!(error.to_string().contains("9.0"), "{error}");
    }
}
