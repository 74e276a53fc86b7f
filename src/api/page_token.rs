//! Page tokens: where a list goes on, opaque to clients.
//!
//! A token is `version ∥ hash of the other arguments ∥ last key ∥ HMAC-SHA256`, in URL-safe base64. The key of the HMAC is made
//! with the database, so every replica reads the tokens of the others and nobody else can make one. A token gives no
//! access: it holds a place, and the place is read under the rights of the caller who sends it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    domain::{task::Micros, task_list::Position},
    error::{Error, Result},
    ids::{BulkJobId, RetentionRunId, TaskId},
};

/// The first byte. A new form of tokens gets a new one; old tokens then list from the start.
const VERSION: u8 = 1;
/// Bytes of the hash of the arguments: enough that nobody meets a collision by accident.
const ARGUMENTS: usize = 16;
/// Bytes of the signature.
const SIGNATURE: usize = 32;
/// No token of ours is longer, in base64.
const MAX_TOKEN: usize = 1024;

/// Makes and reads page tokens.
#[derive(Clone)]
pub struct PageTokens {
    /// Ready to sign: the key is mixed in once.
    signer: Hmac<Sha256>,
}

impl PageTokens {
    /// Signs with this key.
    pub fn new(key: &[u8]) -> Self {
        // Unwrap safety: HMAC takes a key of any length.
        let signer = Hmac::new_from_slice(key).expect("a key of any length");
        Self { signer }
    }

    /// The tokens of one list: `arguments` is all that decides what is listed, but the size of the page.
    pub fn of(&self, method: &str, arguments: &[&str]) -> ListTokens {
        let mut hash = Sha256::new();
        for text in std::iter::once(&method).chain(arguments) {
            // With its length, so that ("ab", "c") is not ("a", "bc").
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let mut digest = [0; ARGUMENTS];
        digest.copy_from_slice(&hash.finalize()[..ARGUMENTS]);
        ListTokens { signer: self.signer.clone(), arguments: digest }
    }
}

/// Makes and reads the tokens of one list.
pub struct ListTokens {
    signer: Hmac<Sha256>,
    arguments: [u8; ARGUMENTS],
}

impl ListTokens {
    /// The token to go on after `last`; empty when there is nothing more.
    pub fn next(&self, last: Option<&impl PageKey>) -> String {
        let Some(last) = last else { return String::new() };
        let mut token = vec![VERSION];
        token.extend_from_slice(&self.arguments);
        last.write(&mut token);
        let signature = self.signer.clone().chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&signature);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The place a token holds; none for the empty token, which is the start.
    pub fn read<K: PageKey>(&self, token: &str) -> Result<Option<K>> {
        if token.is_empty() {
            return Ok(None);
        }
        self.place(token).map(Some).ok_or(Error::PageToken)
    }

    fn place<K: PageKey>(&self, token: &str) -> Option<K> {
        let bytes = (token.len() <= MAX_TOKEN).then(|| URL_SAFE_NO_PAD.decode(token).ok()).flatten()?;
        let (signed, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        self.signer.clone().chain_update(signed).verify_slice(signature).ok()?;
        let (version, rest) = signed.split_first()?;
        let (arguments, key) = rest.split_at_checked(ARGUMENTS)?;
        (*version == VERSION && arguments == self.arguments).then(|| K::read(key)).flatten()
    }
}

/// What a list is ordered by, and so where a page ends.
pub trait PageKey: Sized {
    /// Appends the key.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what [`PageKey::write`] wrote.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl PageKey for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl PageKey for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_le_bytes)
    }
}

impl PageKey for (Micros, Uuid) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        out.extend_from_slice(self.1.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (time, id) = bytes.split_at_checked(size_of::<Micros>())?;
        Some((Micros::read(time)?, Uuid::from_slice(id).ok()?))
    }
}

impl PageKey for (Micros, String) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (time, text) = bytes.split_at_checked(size_of::<Micros>())?;
        Some((Micros::read(time)?, String::read(text)?))
    }
}

impl PageKey for Position {
    fn write(&self, out: &mut Vec<u8>) {
        (self.create_time, self.id.0).write(out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        <(Micros, Uuid)>::read(bytes).map(|(create_time, id)| Self { create_time, id: TaskId(id) })
    }
}

impl PageKey for (Micros, BulkJobId) {
    fn write(&self, out: &mut Vec<u8>) {
        (self.0, self.1.0).write(out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        <(Micros, Uuid)>::read(bytes).map(|(time, id)| (time, BulkJobId(id)))
    }
}

impl PageKey for (Micros, RetentionRunId) {
    fn write(&self, out: &mut Vec<u8>) {
        (self.0, self.1.0).write(out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        <(Micros, Uuid)>::read(bytes).map(|(time, id)| (time, RetentionRunId(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_its_place() {
        let tokens = PageTokens::new(&[7; 32]);
        let list = tokens.of("ListTasks", &["projects/p", "state = FAILED"]);
        let place = (1_700_000_000_000_000, Uuid::now_v7());
        assert_eq!(list.read(&list.next(Some(&place))).unwrap(), Some(place));
        assert_eq!(list.read(&list.next(Some(&"queue".to_owned()))).unwrap(), Some("queue".to_owned()));
        assert_eq!(list.read(&list.next(Some(&-5_i64))).unwrap(), Some(-5_i64));
        assert_eq!(list.next(None::<&i64>), "");
        assert_eq!(list.read::<i64>("").unwrap(), None);
        // Another replica with the same database.
        let other = PageTokens::new(&[7; 32]).of("ListTasks", &["projects/p", "state = FAILED"]);
        assert_eq!(other.read(&list.next(Some(&place))).unwrap(), Some(place));
    }

    #[test]
    fn a_foreign_or_damaged_token_is_refused() {
        let tokens = PageTokens::new(&[7; 32]);
        let list = tokens.of("ListTasks", &["ab", "c"]);
        let token = list.next(Some(&5_i64));
        for other in [
            tokens.of("ListTasks", &["a", "bc"]),
            tokens.of("ListQueues", &["ab", "c"]),
            PageTokens::new(&[8; 32]).of("ListTasks", &["ab", "c"]),
        ] {
            assert!(matches!(other.read::<i64>(&token), Err(Error::PageToken)));
        }
        assert!(list.read::<(Micros, Uuid)>(&token).is_err());
        assert!(list.read::<i64>(&"A".repeat(2_000)).is_err());
        for end in 1..token.len() {
            assert!(list.read::<i64>(&token[..end]).is_err());
        }
        for place in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[place] = if damaged[place] == b'A' { b'B' } else { b'A' };
            assert!(list.read::<i64>(&String::from_utf8(damaged).unwrap()).is_err(), "{place}");
        }
    }
}
