//! Notes: calls that were refused, and payloads that people read, for the audit of the system.
//!
//! Whoever knows of one hands it over and goes on: nothing is awaited, nothing can fail. Notes that are alike are counted, and
//! a loop writes them: the first of a kind within a second, how many more there were when its minute is over. What is kept in
//! memory, and so what is written, has a bound for each principal and one for all; beyond it notes are still counted, only
//! without saying of what. A process that is killed loses the notes of its last second, and counts of the last minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
};
use crate::{
    context::{Caller, CallerInfo, PrincipalKind},
    domain::event::ResourceKind,
    error::Result,
    ids::{ProjectId, SYSTEM_PROJECT},
    store::{
        Tx,
        journal::{self, Entry},
    },
};

/// Notes that are alike are counted for this long.
const WINDOW: Duration = Duration::from_secs(60);
/// Notes of one principal that are told apart in a window: more is a program that tries things.
const MOST_OF_ONE: usize = 20;
/// Notes that are told apart in a window. Each becomes two rows at most.
const MOST: usize = 300;
/// Stands for any method, and for any resource.
const ANY: &str = "-";
/// Who stands for everybody.
const EVERYBODY: &str = "system:everybody";
/// Most bytes kept of the name of a resource, which is what the caller wrote.
const MAX_RESOURCE: usize = 256;
/// Stands for a character that no database and no terminal is to be given.
const UNPRINTABLE: &str = "\u{fffd}";

/// The notes of this process that are not written yet. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Window>>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    notes: HashMap<Key, Note>,
}

/// What makes notes alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: NoteKind,
    /// The principal; of those that are not known, the address.
    who: Arc<str>,
    method: Arc<str>,
    resource: String,
    reason: String,
}

/// What is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoteKind {
    /// A call was refused: its caller may not do that.
    Refused,
    /// A call was refused: its caller is not known.
    Unauthenticated,
    /// Somebody read payloads.
    Read,
}

impl NoteKind {
    fn kind(self) -> ResourceKind {
        match self {
            Self::Refused => ResourceKind::CallRefused,
            Self::Unauthenticated => ResourceKind::CallUnauthenticated,
            Self::Read => ResourceKind::PayloadRead,
        }
    }
}

#[derive(Clone, Debug)]
struct Note {
    /// The last one.
    caller: Caller,
    /// Not written yet.
    count: i64,
    /// Was written in this window.
    is_written: bool,
}

impl Notes {
    /// Takes a note. `resource` is what the call was about, as far as that is known; `reason` says why it was refused.
    pub fn take(&self, kind: NoteKind, caller: &Caller, resource: &str, reason: &str) {
        let who: Arc<str> = match (&caller.address, kind) {
            (Some(address), NoteKind::Unauthenticated) => Arc::from(address.as_str()),
            _ => caller.principal.clone(),
        };
        let method = caller.method.clone().unwrap_or_else(|| Arc::from(ANY));
        let resource = resource[..resource.floor_char_boundary(MAX_RESOURCE)].replace(char::is_control, UNPRINTABLE);
        let key = Key { kind, who, method, resource, reason: reason.to_owned() };
        self.lock().count(key, caller);
    }

    /// Notes that a person read a payload; what programs read is their work.
    pub fn read(&self, caller: &Caller, resource: &str) {
        if caller.kind == PrincipalKind::User {
            self.take(NoteKind::Read, caller, resource, "");
        }
    }

    /// Those to be written now, with how many each stands for.
    fn due(&self, now: Instant) -> Vec<(Key, Caller, i64)> {
        self.lock().due(now)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn count(&mut self, mut key: Key, caller: &Caller) {
        if !self.notes.contains_key(&key) {
            if self.notes.keys().filter(|other| other.who == key.who).count() >= MOST_OF_ONE {
                key = Key { method: Arc::from(ANY), resource: ANY.to_owned(), reason: String::new(), ..key };
            }
            if self.notes.len() >= MOST && !self.notes.contains_key(&key) {
                key = Key {
                    who: Arc::from(EVERYBODY),
                    method: Arc::from(ANY),
                    resource: ANY.to_owned(),
                    reason: String::new(),
                    ..key
                };
            }
        }
        let note =
            self.notes.entry(key).or_insert_with(|| Note { caller: caller.clone(), count: 0, is_written: false });
        note.count += 1;
        note.caller = caller.clone();
    }

    fn due(&mut self, now: Instant) -> Vec<(Key, Caller, i64)> {
        let began = *self.began.get_or_insert(now);
        let is_over = now.saturating_duration_since(began) >= WINDOW;
        let mut due = Vec::new();
        for (key, note) in &mut self.notes {
            if note.count > 0 && (is_over || !note.is_written) {
                due.push((key.clone(), note.caller.clone(), note.count));
                note.count = 0;
                note.is_written = true;
            }
        }
        if is_over {
            *self = Self::default();
        }
        due
    }
}

impl App {
    /// Where notes are handed over.
    pub fn notes(&self) -> &Notes {
        &self.0.notes
    }

    /// Writes the notes that are due; called by a loop.
    pub async fn write_notes(&self) -> Result<()> {
        let due = self.notes().due(Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        self.write(WriteNotes(due.into_iter().map(|(key, caller, count)| row(key, &caller, count)).collect())).await?;
        self.hub().journal_moved(&ProjectId::new(SYSTEM_PROJECT));
        Ok(())
    }
}

/// A note as it is written.
struct NoteRow {
    kind: ResourceKind,
    caller: CallerInfo,
    resource: String,
    diff: String,
}

fn row(key: Key, caller: &Caller, count: i64) -> NoteRow {
    let Key { kind, who, method, resource, reason } = key;
    // Of many that are not alike nothing is said that is true of one only.
    let is_one = &*who != EVERYBODY;
    let caller = CallerInfo {
        request_id: if count == 1 { caller.request_id.clone() } else { String::new() },
        address: caller.address.clone().filter(|_| is_one),
        agent: caller.agent.clone().filter(|_| is_one),
        credential: caller.credential.clone().filter(|_| is_one),
        method: Some(method),
        ..CallerInfo::of_server(if is_one { caller.principal.clone() } else { who })
    };
    let diff = json!({ "count": [null, count], "reason": [null, reason] }).to_string();
    NoteRow { kind: kind.kind(), caller, resource, diff }
}

struct WriteNotes(Vec<NoteRow>);

impl NamedWrite for WriteNotes {
    const NAME: &'static str = "write-notes";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        let now = tx.now();
        let entries = self.0.iter().map(|NoteRow { kind, caller, resource, diff }| {
            Entry::of_resource(*kind, resource.clone(), now, Some(diff.clone()), caller)
        });
        let entries: Vec<_> = entries.collect();
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &entries).await?;
        Ok(Done::Commit(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(principal: &str, method: &str) -> Caller {
        Caller::new(CallerInfo {
            request_id: "r".to_owned(),
            address: Some("192.0.2.1".to_owned()),
            method: Some(Arc::from(method)),
            ..CallerInfo::of_server(Arc::from(principal))
        })
    }

    fn total(due: &[(Key, Caller, i64)]) -> i64 {
        due.iter().map(|(_, _, count)| count).sum()
    }

    #[test]
    fn notes_that_are_alike_are_written_once_and_then_counted() {
        let (notes, now) = (Notes::default(), Instant::now());
        let take = || notes.take(NoteKind::Refused, &caller("user:a/b", "M"), "projects/p", "PERMISSION_DENIED");
        take();
        assert_eq!(total(&notes.due(now)), 1);
        for _ in 0..1_000 {
            take();
        }
        assert_eq!(total(&notes.due(now + WINDOW / 2)), 0);
        let due = notes.due(now + WINDOW);
        assert_eq!((due.len(), total(&due)), (1, 1_000));
        assert_eq!(notes.due(now + WINDOW * 3).len(), 0);
        take();
        assert_eq!(total(&notes.due(now + WINDOW * 3)), 1);
    }

    #[test]
    fn whoever_tries_many_things_is_bounded_and_still_counted() {
        let (notes, now) = (Notes::default(), Instant::now());
        for i in 0..10_000 {
            notes.take(NoteKind::Read, &caller("user:a/b", "M"), &format!("projects/p/tasks/{i}"), "");
        }
        let due = notes.due(now);
        assert_eq!((due.len(), total(&due)), (MOST_OF_ONE + 1, 10_000));
        for i in 0..10_000 {
            notes.take(NoteKind::Refused, &caller(&format!("user:a/{i}"), "M"), "", "");
        }
        let due = notes.due(now);
        assert!(due.len() <= MOST + 1, "{}", due.len());
        assert_eq!(total(&due), 10_000);
        let everybody = due.into_iter().find(|(key, ..)| &*key.who == EVERYBODY).unwrap();
        let row = row(everybody.0, &everybody.1, everybody.2);
        assert_eq!((&*row.caller.principal, row.caller.address, row.resource.as_str()), (EVERYBODY, None, ANY));
    }

    #[test]
    fn who_is_not_known_is_told_apart_by_address() {
        let notes = Notes::default();
        for i in 0..100 {
            notes.take(NoteKind::Unauthenticated, &caller(&format!("user:a/{i}"), "M"), "", "TOKEN_INVALID");
        }
        assert_eq!(notes.due(Instant::now()).len(), 1);
    }
}
