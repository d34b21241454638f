//! Proof that a stranger at the listening port is a peer of this job: the challenge and response
//! of the handshake. Each end shows that it knows a random token, which travels only in the
//! connection handle, and the shared secret if there is one; neither of them crosses the wire.
//!
//! Each end sends a nonce and then a proof: a MAC over its role, both nonces and whatever else
//! the handshake has agreed on. The fresh nonce of the other end makes a recorded proof useless
//! next time; the role keeps an end from being shown its own proof; what was agreed (versions,
//! capabilities) can't be changed on the way without the proof failing. It protects the handshake
//! only: what follows is neither encrypted nor signed.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::io;

/// The length of a token and of a nonce: 128 bits can neither be guessed nor repeat by chance.
pub const TOKEN_BYTES: usize = 16;
/// The length of a proof: half of the MAC, which an attacker has one try at per connection.
pub const PROOF_BYTES: usize = 16;

/// What a MAC is about comes first in it, so that one can't be taken for another. The digit is
/// the version of the scheme.
const KEY_LABEL: &[u8] = b"thalweg key 1";
const PROOF_LABEL: &[u8] = b"thalweg proof 1";

/// A random number that only the peers of a listener are told, in its connection handle.
#[derive(Clone, Copy)]
pub struct Token([u8; TOKEN_BYTES]);

/// What two ends must share to let each other in: made of the token and the secret.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Which end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that connected.
    Dialler,
    /// The end that accepted.
    Listener,
}

impl Role {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }

    /// As it stands in a proof; part of the protocol.
    const fn code(self) -> u8 {
        match self {
            Self::Dialler => 1,
            Self::Listener => 2,
        }
    }
}

/// Fresh random bytes for one handshake.
///
/// # Errors
/// If the kernel has no source of randomness.
pub fn nonce() -> io::Result<[u8; TOKEN_BYTES]> {
    let mut bytes = [0; TOKEN_BYTES];
    loop {
        // SAFETY: the pointer and the length are those of `bytes`, which the call may write.
        #[expect(unsafe_code, reason = "std has no randomness to offer")]
        let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(filled) {
            // So few bytes come at once or not at all: the kernel promises it up to 256.
            Ok(filled) if filled == bytes.len() => return Ok(bytes),
            Ok(_) => {}
            Err(_) => {
                let error = io::Error::last_os_error();
                // A signal while the kernel was still gathering entropy, early after boot.
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

impl Token {
    /// A new token.
    ///
    /// # Errors
    /// If the kernel has no source of randomness.
    pub fn random() -> io::Result<Self> {
        nonce().map(Self)
    }

    /// The token that travelled in a handle.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(bytes)
    }

    /// The token for a handle, and for nothing else.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }
}

impl Key {
    /// The key of everybody who knows this token and this secret. No secret and an empty one are
    /// different.
    #[must_use]
    pub fn derive(token: &Token, secret: Option<&[u8]>) -> Self {
        // The token is the key of the MAC and the secret its message, as in HKDF's extraction
        // (RFC 5869): the secret may then have any length, without two of them becoming one key
        // as HMAC's own padding would make "a" and "a\0".
        let mut mac = mac(&token.0);
        mac.update(KEY_LABEL);
        mac.update(&[u8::from(secret.is_some())]);
        mac.update(secret.unwrap_or_default());
        Self(mac.finalize().into_bytes().into())
    }

    /// This end's proof. `role` is this end's own; `nonce_peer` is what the other end has sent,
    /// `nonce_own` what this end has sent; `context` is all that both ends must agree on.
    #[must_use]
    pub fn prove(
        &self,
        role: Role,
        nonce_peer: &[u8; TOKEN_BYTES],
        nonce_own: &[u8; TOKEN_BYTES],
        context: &[u8],
    ) -> [u8; PROOF_BYTES] {
        let full = self
            .proof(role, nonce_peer, nonce_own, context)
            .finalize()
            .into_bytes();
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&full[..PROOF_BYTES]);
        proof
    }

    /// Whether `proof` is the other end's. All arguments are as this end sees them, the same as
    /// for its own [`Key::prove`]: `role` is this end's own, `nonce_peer` what the other end has
    /// sent, `nonce_own` what this end has sent. Takes the same time wherever a difference is.
    #[must_use]
    pub fn verify(
        &self,
        role: Role,
        nonce_peer: &[u8; TOKEN_BYTES],
        nonce_own: &[u8; TOKEN_BYTES],
        context: &[u8],
        proof: &[u8; PROOF_BYTES],
    ) -> bool {
        self.proof(role.other(), nonce_own, nonce_peer, context)
            .verify_truncated_left(proof)
            .is_ok()
    }

    /// The MAC of the end that is `role`, has been sent `challenge` and has sent `nonce`. All but
    /// the last part has a fixed length, so two different sets of parts never read the same.
    fn proof(
        &self,
        role: Role,
        challenge: &[u8; TOKEN_BYTES],
        nonce: &[u8; TOKEN_BYTES],
        context: &[u8],
    ) -> Hmac<Sha256> {
        let mut mac = mac(&self.0);
        mac.update(PROOF_LABEL);
        mac.update(&[role.code()]);
        mac.update(challenge);
        mac.update(nonce);
        mac.update(context);
        mac
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXT: &[u8] = b"v1 link 7";

    fn token() -> Token {
        Token::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()))
    }

    fn nonces() -> ([u8; 16], [u8; 16]) {
        let from = |start: u8| std::array::from_fn(|i| start + u8::try_from(i).unwrap());
        (from(0xa0), from(0xb0))
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    /// The figures come from Python's `hmac` and `hashlib`:
    /// `key = H(token, b"thalweg key 1" + (b"\1" + secret or b"\0"))` and
    /// `proof = H(key, b"thalweg proof 1" + role + challenge + nonce + context)[:16]`.
    #[test]
    fn agrees_with_an_independent_implementation() {
        let long = [0x5a; 4096];
        let vectors: [(Option<&[u8]>, &str, &str, &str); 4] = [
            (
                None,
                "14b532a5263afe8ec42e8ef33da10817a9c39cf8330e7b3821b5a564e5f64031",
                "ca09371637fb6ffd5bb96360786fd3c5",
                "f564a1737161163a14668a35199a2f97",
            ),
            (
                Some(b""),
                "6408201bc56be000560c228899e2c4b59d8006a00c08ab11155365f645b991ba",
                "aea1d6ac92208556b906274f816a3322",
                "041edcc8aab6b3d660df12b376c257e7",
            ),
            (
                Some(b"open sesame"),
                "4ffa6350a9f4ee34e318a169eb740918e6a4de95e6e7fa3e3689b2727c9c2b6e",
                "60ce9359d6fca9a14af4e6c29c691905",
                "5153f6a910aeb1879d05dffd671d675c",
            ),
            (
                Some(&long),
                "90db4c3060325bf06c3db58c47a32a45bff3701e81659198242e0b1c089b7716",
                "2fba14be303410bfefdc1a090d5ed599",
                "242e76527e19b9ceadd580400e84b920",
            ),
        ];
        let (dialler, listener) = nonces();
        for (secret, key_hex, dialler_hex, listener_hex) in vectors {
            let key = Key::derive(&token(), secret);
            assert_eq!(hex(&key.0), key_hex);
            let proof = key.prove(Role::Dialler, &listener, &dialler, CONTEXT);
            assert_eq!(hex(&proof), dialler_hex);
            let proof = key.prove(Role::Listener, &dialler, &listener, CONTEXT);
            assert_eq!(hex(&proof), listener_hex);
        }
    }

    #[test]
    fn each_end_accepts_the_other() {
        let (dialler, listener) = nonces();
        let key = Key::derive(&token(), Some(b"open sesame"));
        let proof = key.prove(Role::Dialler, &listener, &dialler, CONTEXT);
        assert!(key.verify(Role::Listener, &dialler, &listener, CONTEXT, &proof));
        let proof = key.prove(Role::Listener, &dialler, &listener, CONTEXT);
        assert!(key.verify(Role::Dialler, &listener, &dialler, CONTEXT, &proof));
    }

    #[test]
    fn an_end_refuses_its_own_proof_sent_back() {
        let (dialler, listener) = nonces();
        let key = Key::derive(&token(), None);
        let proof = key.prove(Role::Dialler, &listener, &dialler, CONTEXT);
        assert!(!key.verify(Role::Dialler, &listener, &dialler, CONTEXT, &proof));
        // Also where the attacker echoes the nonce, so that both are the same.
        let proof = key.prove(Role::Dialler, &dialler, &dialler, CONTEXT);
        assert!(!key.verify(Role::Dialler, &dialler, &dialler, CONTEXT, &proof));
    }

    #[test]
    fn random_tokens_differ() {
        let first = Token::random().unwrap();
        let second = Token::random().unwrap();
        assert_ne!(first.as_bytes(), second.as_bytes());
    }

    #[test]
    fn debug_shows_nothing() {
        let token = Token::from_bytes([0x77; 16]);
        let key = Key::derive(&token, None);
        assert_eq!(format!("{token:?} {key:?}"), "Token(hidden) Key(hidden)");
    }

    proptest! {
        /// A change of a single bit anywhere, or any other length, is noticed.
        #[test]
        fn any_difference_is_refused(
            token: [u8; 16],
            secret in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
            own: [u8; 16],
            peer: [u8; 16],
            context in prop::collection::vec(any::<u8>(), 0..40),
            where_ in 0_usize..6,
            bit in 0_usize..128,
        ) {
            let key = Key::derive(&Token::from_bytes(token), secret.as_deref());
            let proof = key.prove(Role::Dialler, &peer, &own, &context);
            prop_assert!(key.verify(Role::Listener, &own, &peer, &context, &proof));

            let flip = |bytes: &[u8; 16]| {
                let mut bytes = *bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            let mut longer_context = context.clone();
            longer_context.push(0);
            let mut longer_secret = secret.clone().unwrap_or_default();
            longer_secret.push(0);
            let accepted = match where_ {
                0 => key.verify(Role::Listener, &flip(&own), &peer, &context, &proof),
                1 => key.verify(Role::Listener, &own, &flip(&peer), &context, &proof),
                2 => key.verify(Role::Listener, &own, &peer, &longer_context, &proof),
                3 => key.verify(Role::Listener, &own, &peer, &context, &flip(&proof)),
                4 => Key::derive(&Token::from_bytes(flip(&token)), secret.as_deref())
                    .verify(Role::Listener, &own, &peer, &context, &proof),
                _ => Key::derive(&Token::from_bytes(token), Some(&longer_secret))
                    .verify(Role::Listener, &own, &peer, &context, &proof),
            };
            prop_assert!(!accepted);
        }
    }
}
