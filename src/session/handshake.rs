//! How a channel begins: challenge, hello, welcome.
//!
//! The listener speaks first, with a nonce; the dialler answers with one of its own, says which
//! path of which link this is to be, and proves that it knows the token (and the secret, where
//! one is set); the listener proves the same. A stranger, a wrong version or a wrong job gets
//! no further, and nothing of what it sent reaches the engine. Proofs cover every byte of the
//! message they stand in and both nonces, so that none can be replayed or altered.

use std::ops::RangeInclusive;

use crate::auth::{Key, Role};
use crate::engine::wire::{CHUNK_BYTES_MAX, IMMEDIATE_CHUNKS_MAX, MESSAGE_BYTES_MAX};
use crate::transport::verbs::End;

/// Versions of the same major number understand each other.
pub const VERSION_MAJOR: u8 = 1;
/// The smaller of two minor numbers is spoken.
pub const VERSION_MINOR: u8 = 0;

const MAGIC: [u8; 4] = *b"THWG";
const CHALLENGE: u8 = 1;
const HELLO: u8 = 2;
const WELCOME: u8 = 3;

/// Bytes of a challenge.
pub const CHALLENGE_BYTES: usize = 24;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 112;
/// Bytes of a welcome or a refusal.
pub const WELCOME_BYTES: usize = 64;

const HELLO_PROVEN: usize = HELLO_BYTES - 16;
const WELCOME_PROVEN: usize = WELCOME_BYTES - 16;

/// Why a listener refuses a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Other major version.
    Version = 1,
    /// The proof does not fit: another job's token, or another secret.
    Proof = 2,
    /// The path was to go over RDMA, and the listener cannot have it so.
    NoRdma = 3,
    /// The link has had paths, and the listener has given it up since.
    NoLink = 4,
}

impl Refusal {
    const ALL: [Self; 4] = [Self::Version, Self::Proof, Self::NoRdma, Self::NoLink];
}

impl Refusal {
    /// What the dialler's user should read.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Version => {
                "it speaks another version of the protocol: install the same release on all hosts"
            }
            Self::Proof => {
                "token or secret do not match: is THALWEG_SECRET the same on all hosts of the job?"
            }
            Self::NoRdma => {
                "its RDMA port cannot be used now: its log says why (THALWEG_TRANSPORT=tcp does without)"
            }
            Self::NoLink => "it has given the link up",
        }
    }
}

/// Why a dialler is not welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWelcome {
    /// The listener refuses.
    Refused(Refusal),
    /// What answers there is no listener of the job. For a log line.
    Other(&'static str),
}

impl NoWelcome {
    /// What the dialler's user should read.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.advice(),
            Self::Other(what) => what,
        }
    }
}

/// What a dialler asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The dialler's nonce.
    pub nonce: [u8; 16],
    /// Link, named by its dialler at random.
    pub link: [u8; 16],
    /// Path of the link.
    pub path: u8,
    /// Path slots of the link.
    pub paths: u8,
    /// Number of the channel.
    pub epoch: u16,
    /// An earlier channel of the path whose fence has not been answered.
    pub fence: Option<u16>,
    /// A path of the link has been up: a listener that does not know it has given it up, and with it all
    /// that it had taken in.
    pub is_known: bool,
    /// Where the dialler itself listens: nobody there means that it is gone.
    pub port: u16,
    /// The path goes over RDMA.
    pub rdma: Option<RdmaHello>,
}

/// What a dialler says of a path over RDMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RdmaHello {
    /// The listener's device.
    pub device: u8,
    /// Which of the ports that a link there may use.
    pub place: u8,
    /// The link's chunk size.
    pub chunk_bytes: u32,
    /// The dialler's end.
    pub end: End,
}

/// What a listener grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// How far the fenced channel came.
    pub fenced_count: u32,
    /// Eager messages up to this size are taken.
    pub eager_bytes: u32,
    /// The listener's end of a path over RDMA.
    pub end: Option<End>,
}

/// The chunks that links over RDMA may have: an immediate must name each of a message.
pub const RDMA_CHUNKS: RangeInclusive<u32> = RDMA_CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX;
const RDMA_CHUNK_BYTES_MIN: u32 = 8 << 10;
const _: () =
    assert!(RDMA_CHUNK_BYTES_MIN as u64 * IMMEDIATE_CHUNKS_MAX as u64 >= MESSAGE_BYTES_MAX);

fn put_end(out: &mut [u8], end: &End) {
    out[..4].copy_from_slice(&end.number.to_le_bytes());
    out[4..8].copy_from_slice(&end.first_packet.to_le_bytes());
    out[8..24].copy_from_slice(&end.gid.octets());
    out[24..26].copy_from_slice(&end.lid.to_le_bytes());
    out[26..28].copy_from_slice(&end.mtu.to_le_bytes());
}

fn end_at(bytes: &[u8]) -> End {
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let mut gid = [0; 16];
    gid.copy_from_slice(&bytes[8..24]);
    End {
        number: u32_at(0),
        first_packet: u32_at(4) & 0xff_ffff,
        gid: gid.into(),
        lid: u16_at(24),
        mtu: u16_at(26),
    }
}

/// Builds a challenge.
#[must_use]
pub fn challenge(nonce: &[u8; 16]) -> [u8; CHALLENGE_BYTES] {
    let mut out = [0; CHALLENGE_BYTES];
    start(&mut out, CHALLENGE, VERSION_MAJOR);
    out[8..].copy_from_slice(nonce);
    out
}

/// Reads a challenge: its nonce.
///
/// # Errors
/// What it is instead, for a log line.
pub fn read_challenge(bytes: &[u8; CHALLENGE_BYTES]) -> Result<[u8; 16], &'static str> {
    if bytes[..4] != MAGIC || bytes[4] != CHALLENGE {
        return Err("something that is not thalweg answers there");
    }
    if bytes[5] != VERSION_MAJOR {
        return Err(Refusal::Version.advice());
    }
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&bytes[8..]);
    Ok(nonce)
}

impl Hello {
    /// Builds the hello that answers a challenge.
    #[must_use]
    pub fn encode(&self, key: &Key, challenge: &[u8; 16]) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        start(&mut out, HELLO, VERSION_MAJOR);
        out[8..24].copy_from_slice(&self.nonce);
        out[24..40].copy_from_slice(&self.link);
        out[40] = self.path;
        out[41] = self.paths;
        out[42..44].copy_from_slice(&self.epoch.to_le_bytes());
        out[44..46].copy_from_slice(&self.fence.unwrap_or(0).to_le_bytes());
        out[46] = u8::from(self.fence.is_some());
        out[47] = u8::from(self.is_known);
        out[48..50].copy_from_slice(&self.port.to_le_bytes());
        if let Some(rdma) = &self.rdma {
            out[56] = 1;
            out[57] = rdma.device;
            out[58] = rdma.place;
            out[60..64].copy_from_slice(&rdma.chunk_bytes.to_le_bytes());
            put_end(&mut out[64..92], &rdma.end);
        }
        let proof = key.prove(Role::Dialler, challenge, &self.nonce, &out[..HELLO_PROVEN]);
        out[HELLO_PROVEN..].copy_from_slice(&proof);
        out
    }

    /// Reads and checks a hello.
    ///
    /// # Errors
    /// `Err(None)`: not our protocol at all, not worth an answer.
    pub fn decode(
        bytes: &[u8; HELLO_BYTES],
        key: &Key,
        challenge: &[u8; 16],
    ) -> Result<Self, Option<Refusal>> {
        if bytes[..4] != MAGIC || bytes[4] != HELLO {
            return Err(None);
        }
        if bytes[5] != VERSION_MAJOR {
            return Err(Some(Refusal::Version));
        }
        let array = |at: usize| {
            let mut field = [0; 16];
            field.copy_from_slice(&bytes[at..at + 16]);
            field
        };
        let nonce = array(8);
        let proof = array(HELLO_PROVEN);
        if !key.verify(
            Role::Listener,
            &nonce,
            challenge,
            &bytes[..HELLO_PROVEN],
            &proof,
        ) {
            return Err(Some(Refusal::Proof));
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let hello = Self {
            nonce,
            link: array(24),
            path: bytes[40],
            paths: bytes[41],
            epoch: u16_at(42),
            fence: (bytes[46] != 0).then(|| u16_at(44)),
            is_known: bytes[47] != 0,
            port: u16_at(48),
            rdma: (bytes[56] != 0).then(|| RdmaHello {
                device: bytes[57],
                place: bytes[58],
                chunk_bytes: u32::from(u16_at(60)) | u32::from(u16_at(62)) << 16,
                end: end_at(&bytes[64..92]),
            }),
        };
        let right = (1..=64).contains(&hello.paths)
            && hello.path < hello.paths
            && hello.epoch != 0
            && hello
                .rdma
                .is_none_or(|rdma| RDMA_CHUNKS.contains(&rdma.chunk_bytes));
        if right { Ok(hello) } else { Err(None) }
    }
}

impl Welcome {
    /// Builds the welcome that answers a hello.
    #[must_use]
    pub fn encode(&self, key: &Key, hello: &[u8; 16], challenge: &[u8; 16]) -> [u8; WELCOME_BYTES] {
        let mut out = [0; WELCOME_BYTES];
        start(&mut out, WELCOME, 0);
        out[8..12].copy_from_slice(&self.fenced_count.to_le_bytes());
        out[12..16].copy_from_slice(&self.eager_bytes.to_le_bytes());
        if let Some(end) = &self.end {
            out[16] = 1;
            put_end(&mut out[20..48], end);
        }
        let proof = key.prove(Role::Listener, hello, challenge, &out[..WELCOME_PROVEN]);
        out[WELCOME_PROVEN..].copy_from_slice(&proof);
        out
    }

    /// Reads and checks a welcome.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(
        bytes: &[u8; WELCOME_BYTES],
        key: &Key,
        hello: &[u8; 16],
        challenge: &[u8; 16],
    ) -> Result<Self, NoWelcome> {
        if bytes[..4] != MAGIC || bytes[4] != WELCOME {
            return Err(NoWelcome::Other(
                "something that is not thalweg answers there",
            ));
        }
        for refusal in Refusal::ALL {
            if bytes[5] == refusal as u8 {
                return Err(NoWelcome::Refused(refusal));
            }
        }
        let mut proof = [0; 16];
        proof.copy_from_slice(&bytes[WELCOME_PROVEN..]);
        if !key.verify(
            Role::Dialler,
            challenge,
            hello,
            &bytes[..WELCOME_PROVEN],
            &proof,
        ) {
            return Err(NoWelcome::Other(
                "the listener could not prove that it knows the token and the secret",
            ));
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok(Self {
            fenced_count: u32_at(8),
            eager_bytes: u32_at(12),
            end: (bytes[16] != 0).then(|| end_at(&bytes[20..48])),
        })
    }
}

/// Builds a refusal.
#[must_use]
pub fn refuse(refusal: Refusal) -> [u8; WELCOME_BYTES] {
    let mut out = [0; WELCOME_BYTES];
    start(&mut out, WELCOME, refusal as u8);
    out
}

fn start(out: &mut [u8], kind: u8, version_or_status: u8) {
    out[..4].copy_from_slice(&MAGIC);
    out[4] = kind;
    out[5] = version_or_status;
    out[6] = VERSION_MINOR;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Token;

    fn hello() -> Hello {
        Hello {
            nonce: [3; 16],
            link: [4; 16],
            path: 2,
            paths: 8,
            epoch: 7,
            fence: Some(6),
            is_known: true,
            port: 4001,
            rdma: Some(RdmaHello {
                device: 1,
                place: 2,
                chunk_bytes: 0x1_8000,
                end: end(),
            }),
        }
    }

    fn end() -> End {
        End {
            number: 0x12_3456,
            first_packet: 0xab_cdef,
            gid: "::ffff:10.0.0.7".parse().unwrap(),
            lid: 9,
            mtu: 4096,
        }
    }

    #[test]
    fn both_ends_understand_each_other() {
        let key = Key::derive(&Token::from_bytes([1; 16]), Some(b"s"));
        let nonce = read_challenge(&challenge(&[9; 16])).unwrap();
        let bytes = hello().encode(&key, &nonce);
        assert_eq!(Hello::decode(&bytes, &key, &[9; 16]), Ok(hello()));
        let welcome = Welcome {
            fenced_count: 5,
            eager_bytes: 8192,
            end: Some(end()),
        };
        let bytes = welcome.encode(&key, &[3; 16], &[9; 16]);
        assert_eq!(
            Welcome::decode(&bytes, &key, &[3; 16], &[9; 16]),
            Ok(welcome)
        );
    }

    #[test]
    fn strangers_and_tampering_are_refused() {
        let key = Key::derive(&Token::from_bytes([1; 16]), None);
        let other = Key::derive(&Token::from_bytes([2; 16]), None);
        let bytes = hello().encode(&key, &[9; 16]);
        assert_eq!(
            Hello::decode(&bytes, &other, &[9; 16]),
            Err(Some(Refusal::Proof))
        );
        assert_eq!(
            Hello::decode(&bytes, &key, &[8; 16]),
            Err(Some(Refusal::Proof)),
            "a replay"
        );
        for at in 8..HELLO_BYTES {
            let mut bent = bytes;
            bent[at] ^= 1;
            assert_eq!(
                Hello::decode(&bent, &key, &[9; 16]),
                Err(Some(Refusal::Proof)),
                "byte {at}"
            );
        }
        let mut newer = bytes;
        newer[5] = 2;
        assert_eq!(
            Hello::decode(&newer, &key, &[9; 16]),
            Err(Some(Refusal::Version))
        );
        assert_eq!(Hello::decode(&[0; HELLO_BYTES], &key, &[9; 16]), Err(None));
        let refused = Welcome::decode(&refuse(Refusal::Proof), &key, &[3; 16], &[9; 16]);
        assert_eq!(refused, Err(NoWelcome::Refused(Refusal::Proof)));
        assert!(refused.unwrap_err().advice().contains("THALWEG_SECRET"));
        let forged = Welcome {
            fenced_count: 0,
            eager_bytes: 1,
            end: None,
        }
        .encode(&other, &[3; 16], &[9; 16]);
        assert!(Welcome::decode(&forged, &key, &[3; 16], &[9; 16]).is_err());
    }
}
