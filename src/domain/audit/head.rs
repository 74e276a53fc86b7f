//! The newest seals of some projects as they are signed, so that they can be kept where nobody who may write to the
//! database can change them.
//!
//! The signed text is `version ∥ incarnation ∥ time ∥ heads`, each head `length ∥ project ∥ number ∥ last revision ∥ hash`.

use uuid::Uuid;

use super::seal::{Hash, Link};
use crate::{domain::task::Micros, ids::ProjectId};

/// The first byte. A new form gets a new one.
const VERSION: u8 = 1;
/// Projects in one signed text at most: 10 kB as a line of a log.
pub const MOST_HEADS: usize = 100;

/// The newest seal of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The project.
    pub project: ProjectId,
    /// The seal.
    pub link: Link,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Which database.
    pub incarnation: Uuid,
    /// When it was signed.
    pub time: Micros,
    /// The heads.
    pub heads: Vec<Head>,
}

impl Heads {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.incarnation.as_bytes());
        out.extend(self.time.to_be_bytes());
        for Head { project, link: Link { number, last, hash } } in &self.heads {
            let id = project.as_str().as_bytes();
            // Ids of projects have 63 characters at most.
            out.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
            out.extend(id);
            out.extend(number.to_be_bytes());
            out.extend(last.to_be_bytes());
            out.extend(hash);
        }
        out
    }

    /// Reads what [`Heads::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [VERSION] = *take::<1>(&mut rest)? else { return None };
        let incarnation = Uuid::from_bytes(*take(&mut rest)?);
        let time = i64::from_be_bytes(*take(&mut rest)?);
        let mut heads = Vec::new();
        while !rest.is_empty() && heads.len() < MOST_HEADS {
            let [length] = *take::<1>(&mut rest)?;
            let (id, after) = rest.split_at_checked(length.into())?;
            rest = after;
            let project = ProjectId::new(std::str::from_utf8(id).ok()?);
            let number = i64::from_be_bytes(*take(&mut rest)?);
            let last = i64::from_be_bytes(*take(&mut rest)?);
            let hash: Hash = *take(&mut rest)?;
            heads.push(Head { project, link: Link { number, last, hash } });
        }
        rest.is_empty().then_some(Self { incarnation, time, heads })
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_nothing_else_is_taken_for_some() {
        let head = |id: &str, number| Head {
            project: ProjectId::new(id),
            link: Link { number, last: 7 * number, hash: [3; 32] },
        };
        let heads = Heads { incarnation: Uuid::from_u128(9), time: 5, heads: vec![head("default", 1), head("p", 2)] };
        let bytes = heads.encode();
        assert_eq!(Heads::decode(&bytes), Some(heads));
        let whole: Vec<_> = (0..bytes.len()).filter(|end| Heads::decode(&bytes[..*end]).is_some()).collect();
        // Without the heads, and with the first alone.
        assert_eq!(whole.len(), 2);
        assert_eq!(Heads::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(Heads::decode(&[&[2], &bytes[1..]].concat()), None);
    }
}
