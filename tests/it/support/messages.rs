//! Messages nobody would send: random ones from a descriptor, as encoded bytes, often damaged afterwards.
//!
//! [`Messages`] writes the wire form itself, so that it can write what no encoder would: invalid UTF-8, lengths that
//! lie, endless varints, fields twice, nesting without end. So that messages get past the first check too, many fields
//! get values that fit their name (`vocabulary`), and what the server answered before (names, etags, tokens) is used
//! again.
//!
//! Everything comes from one seed: the same seed makes the same message ([`case_seed`]).

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::credentials;

/// Values kept of what the server answered, for each name of a field.
const KEPT: usize = 64;
/// Messages inside one another, usually.
const USUAL_DEPTH: usize = 6;
/// Messages inside one another, in a message that is about nothing else: beyond the decoder's limit of 100.
const ABSURD_DEPTH: usize = 130;
/// Elements of a list beyond every limit (1,000 of a batch).
const ABSURD_COUNT: usize = 1_001;
/// Bytes of a text or payload beyond every limit (256 KiB of a payload).
const ABSURD_BYTES: usize = 300 * 1024;
/// One message in so many is absurd in one of these ways; they cost a thousand times what others do.
const ABSURD_EVERY: u32 = 500;
/// Most faults put into one message.
const MOST_FAULTS: usize = 6;

/// Wire types of protobuf.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const GROUP_START: u32 = 3;
const FIXED32: u32 = 5;

/// A seed for one case, so that it can be made again alone.
pub fn case_seed(seed: u64, method: &str, case: u64) -> u64 {
    // FNV-1a: stable over versions, unlike the hasher of std.
    let bytes = seed.to_le_bytes().into_iter().chain(method.bytes()).chain(case.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the server answered, by the name of the field.
#[derive(Clone, Debug, Default)]
pub struct Learnt(HashMap<String, Vec<String>>);

impl Learnt {
    /// Keeps the texts of an answer. Beyond [`KEPT`] a new one takes the place of an old one.
    pub fn learn(&mut self, answer: &DynamicMessage) {
        for (field, value) in answer.fields() {
            self.value(&field, value);
        }
    }

    fn value(&mut self, field: &FieldDescriptor, value: &Value) {
        match value {
            // Not who we are ourselves: a message might take that away.
            Value::String(text) if text.contains(credentials::ID) || text.contains(credentials::PRINCIPAL) => {}
            Value::String(text) if !text.is_empty() && text.len() < 512 => {
                let kept = self.0.entry(field.name().to_owned()).or_default();
                if kept.len() < KEPT {
                    kept.push(text.clone());
                } else {
                    kept[text.len() % KEPT].clone_from(text);
                }
            }
            Value::Message(message) => self.learn(message),
            Value::List(values) => values.iter().for_each(|value| self.value(field, value)),
            _ => {}
        }
    }
}

/// Makes messages.
pub struct Messages<'a> {
    rng: StdRng,
    learnt: &'a Learnt,
    /// How likely a field is there, how likely its value fits its name, and how likely the message is damaged afterwards.
    presence: f64,
    fit: f64,
    damage: f64,
    /// What this message is absurd in.
    absurd: Option<Absurd>,
}

#[derive(Clone, Copy, PartialEq)]
enum Absurd {
    Depth,
    Count,
    Bytes,
}

impl<'a> Messages<'a> {
    pub fn new(seed: u64, learnt: &'a Learnt) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // Half of the messages are nearly good, to get far; the others are wild in one way or another.
        let styles =
            [(0.8, 1.0, 0.1), (0.5, 1.0, 0.0), (0.9, 0.95, 0.2), (0.3, 0.5, 0.5), (0.8, 0.0, 0.5), (0.7, 0.9, 0.9)];
        let (presence, fit, damage) = *styles.choose(&mut rng).expect("not empty");
        let absurd = rng
            .random_ratio(1, ABSURD_EVERY)
            .then(|| *[Absurd::Depth, Absurd::Count, Absurd::Bytes].choose(&mut rng).expect("not empty"));
        Self { rng, learnt, presence, fit, damage, absurd }
    }

    /// For choices about what goes around the message.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// A message of this type, sometimes damaged.
    pub fn message(&mut self, descriptor: &MessageDescriptor) -> Vec<u8> {
        let mut out = Vec::new();
        self.fields(descriptor, 0, &mut out);
        if self.rng.random_bool(self.damage) {
            self.damage(&mut out);
        }
        out
    }

    /// A message with one field only, of this number and undamaged: how conversations begin.
    pub fn message_of_field(&mut self, descriptor: &MessageDescriptor, number: u32) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(field) = descriptor.get_field(number) {
            (self.presence, self.fit) = (0.9, 1.0);
            self.value(&field, 0, &mut out);
        }
        out
    }

    fn fields(&mut self, descriptor: &MessageDescriptor, depth: usize, out: &mut Vec<u8>) {
        let limit = if self.absurd == Some(Absurd::Depth) { ABSURD_DEPTH } else { USUAL_DEPTH };
        for field in descriptor.fields() {
            let is_message = matches!(field.kind(), Kind::Message(_));
            if is_message && depth >= limit {
                continue;
            }
            // A call that may wait is to answer at once: a wait of nothing, which is not the same as none.
            if field.name() == "wait" {
                varint(out, u64::from(field.number() << 3 | BYTES));
                varint(out, 0);
                continue;
            }
            let choices = field.containing_oneof().map_or(1, |oneof| oneof.fields().len());
            let mut likely = self.presence / (choices as f64).sqrt();
            if is_message && self.absurd == Some(Absurd::Depth) {
                // One way down, and all the way.
                likely = if choices > 1 { 0.5 } else { 1.0 };
            } else if is_message {
                likely *= 0.75_f64.powi(i32::try_from(depth).unwrap_or(i32::MAX));
            }
            if !self.rng.random_bool(likely) {
                continue;
            }
            for _ in 0..self.count(&field) {
                self.value(&field, depth, out);
            }
        }
    }

    fn count(&mut self, field: &FieldDescriptor) -> usize {
        if !field.is_list() && !field.is_map() {
            // The last one counts, so twice is allowed.
            return if self.rng.random_ratio(1, 50) { 2 } else { 1 };
        }
        match self.absurd {
            Some(Absurd::Depth) => 1,
            Some(Absurd::Count) if self.rng.random_bool(0.5) => {
                // Once in a message, or lists in lists would never end.
                self.absurd = None;
                ABSURD_COUNT
            }
            _ => self.rng.random_range(if self.fit == 1.0 { 1 } else { 0 }..4),
        }
    }

    fn value(&mut self, field: &FieldDescriptor, depth: usize, out: &mut Vec<u8>) {
        let number = field.number();
        let mut key = |wire_type| varint(out, u64::from(number << 3 | wire_type));
        match field.kind() {
            Kind::Message(inner) => {
                key(BYTES);
                let mut message = Vec::new();
                self.fields(&inner, depth + 1, &mut message);
                varint(out, message.len() as u64);
                out.extend_from_slice(&message);
            }
            Kind::String => {
                key(BYTES);
                let text = self.text(field);
                varint(out, text.len() as u64);
                out.extend_from_slice(&text);
            }
            Kind::Bytes => {
                key(BYTES);
                let bytes = self.bytes();
                varint(out, bytes.len() as u64);
                out.extend_from_slice(&bytes);
            }
            Kind::Double => {
                key(FIXED64);
                out.extend_from_slice(&self.double().to_le_bytes());
            }
            Kind::Fixed64 | Kind::Sfixed64 => {
                key(FIXED64);
                out.extend_from_slice(&self.integer(field.name()).to_le_bytes());
            }
            Kind::Float => {
                key(FIXED32);
                out.extend_from_slice(&(self.double() as f32).to_le_bytes());
            }
            Kind::Fixed32 | Kind::Sfixed32 => {
                key(FIXED32);
                out.extend_from_slice(&(self.integer(field.name()) as u32).to_le_bytes());
            }
            _ => {
                key(VARINT);
                // Enumerations, booleans and all integers are varints.
                let integer = match field.kind() {
                    Kind::Enum(_) if self.fit == 1.0 => self.rng.random_range(0..3),
                    Kind::Enum(_) => self.rng.random_range(-1..12),
                    Kind::Bool => self.rng.random_range(0..3),
                    _ => self.integer(field.name()),
                };
                varint(out, integer.cast_unsigned());
            }
        }
    }

    fn integer(&mut self, name: &str) -> i64 {
        if self.rng.random_bool(self.fit) {
            let bound = if name == "nanos" { 1_000_000_000 } else { 40 };
            return self.rng.random_range(0..bound);
        }
        let edges = [
            0,
            1,
            -1,
            2,
            100,
            1_000,
            1_001,
            999_999_999,
            1_000_000_000,
            253_402_300_799,
            253_402_300_800,
            315_576_000_001,
            1 << 53,
            i64::from(i32::MAX),
            i64::from(i32::MIN),
            i64::MAX,
            i64::MAX / 1_000_000,
            i64::MIN,
        ];
        *edges.choose(&mut self.rng).expect("not empty")
    }

    fn double(&mut self) -> f64 {
        if self.rng.random_bool(self.fit) {
            return self.rng.random_range(0.0..100.0);
        }
        let edges = [
            0.0,
            -0.0,
            1.0,
            99.5,
            100.0,
            1e15,
            9_007_199_254_740_992.0,
            -1e308,
            f64::MIN_POSITIVE,
            f64::INFINITY,
            f64::NAN,
        ];
        *edges.choose(&mut self.rng).expect("not empty")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = if self.is_absurdly_long() { ABSURD_BYTES } else { self.rng.random_range(0..64) };
        let mut bytes = vec![0; length];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn is_absurdly_long(&mut self) -> bool {
        let now = self.absurd == Some(Absurd::Bytes) && self.rng.random_bool(0.5);
        if now {
            self.absurd = None;
        }
        now
    }

    fn text(&mut self, field: &FieldDescriptor) -> Vec<u8> {
        if self.is_absurdly_long() {
            return "ä".repeat(ABSURD_BYTES / 2).into_bytes();
        }
        if self.rng.random_bool(self.fit) {
            return self.fitting_text(field).into_bytes();
        }
        let odd: [&[u8]; 16] = [
            b"",
            b"x",
            b"a\0b",
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"\xc3",
            "\u{202e}\u{feff}".as_bytes(),
            "é\u{301}𐍈".as_bytes(),
            b"../../etc/passwd",
            b"projects//tasks/",
            b"projects/default/tasks/00000000-0000-0000-0000-000000000000",
            b"'; DROP TABLE task; --",
            b"%s%n{}$1",
            b"*",
            b"\n\r\t",
            b"NaN",
        ];
        if self.rng.random_ratio(1, 4) {
            // Just around the limits of texts: 63, 128, 256 and 1,024.
            let length = *[63, 64, 128, 129, 256, 257, 1_024, 1_025].choose(&mut self.rng).expect("not empty");
            return vec![b'a'; length];
        }
        odd.choose(&mut self.rng).expect("not empty").to_vec()
    }

    /// A text that this field may well hold.
    fn fitting_text(&mut self, field: &FieldDescriptor) -> String {
        let name = field.name();
        let known = match name {
            "names" | "task" => "name",
            "page_token" => "next_page_token",
            other => other,
        };
        let is_name = known == "name" && self.rng.random_bool(0.9);
        let collection = if is_name { collection(field.parent_message().name()) } else { "" };
        let known = self.learnt.0.get(known).into_iter().flatten().filter(|text| text.contains(collection));
        if self.rng.random_bool(0.6)
            && let Some(known) = known.collect::<Vec<_>>().choose(&mut self.rng)
        {
            return (*known).clone();
        }
        if name == "filter" {
            return self.filter();
        }
        let uuid = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let words = vocabulary(name, &uuid.to_string());
        let words = words.iter().filter(|text| text.contains(collection)).collect::<Vec<_>>();
        (*words.choose(&mut self.rng).expect("every collection is there")).clone()
    }

    /// Words of the filter language in any order; now and then they make sense.
    fn filter(&mut self) -> String {
        const WORDS: [&str; 34] = [
            "state",
            "queue",
            "type",
            "labels.team",
            "priority",
            "create_time",
            "attempt_count",
            "=",
            "!=",
            "<",
            ">=",
            ":",
            "AND",
            "OR",
            "NOT",
            "-",
            "(",
            ")",
            "PENDING",
            "FAILED",
            "\"a\\\"b\"",
            "\"",
            "7",
            "-1.5e309",
            "99999999999999999999",
            "\"2026-01-01T00:00:00Z\"",
            "*",
            ".",
            ",",
            "name",
            "'x'",
            "true",
            "has",
            "\u{1F980}",
        ];
        if self.rng.random_bool(0.2) {
            return String::new();
        }
        if self.rng.random_bool(0.4) {
            return "state = PENDING AND queue = \"default\"".to_owned();
        }
        if self.rng.random_ratio(1, 30) {
            // Brackets without end: the parser must not follow them down.
            return "(".repeat(self.rng.random_range(1..5_000));
        }
        let count = self.rng.random_range(0..9);
        let words: Vec<_> = (0..count).map(|_| *WORDS.choose(&mut self.rng).expect("not empty")).collect();
        words.join(if self.rng.random_bool(0.8) { " " } else { "" })
    }

    /// Puts faults into a message.
    fn damage(&mut self, message: &mut Vec<u8>) {
        for _ in 0..self.rng.random_range(1..=MOST_FAULTS) {
            let at = self.rng.random_range(0..=message.len());
            let end = (at + self.rng.random_range(0..8_usize)).min(message.len());
            match self.rng.random_range(0..10) {
                0 => message.truncate(at),
                1 => drop(message.drain(at..end)),
                2 => {
                    let again = message[at..end].to_vec();
                    message.splice(at..at, again);
                }
                // A length or number without end.
                3 => drop(message.splice(at..at, [0xff; 11])),
                // Groups, which proto3 does not have, inside one another.
                4 => {
                    let key = (self.rng.random_range(1..20_u32) << 3 | GROUP_START) as u8;
                    message.splice(at..at, vec![key; self.rng.random_range(1..300)]);
                }
                5 => {
                    let mut noise = [0; 5];
                    self.rng.fill_bytes(&mut noise);
                    message.splice(at..at, noise);
                }
                // A length that lies, or another wire type.
                6 if at < message.len() => message[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(&mut self.rng).expect("some"),
                _ if at < message.len() => message[at] ^= 1 << self.rng.random_range(0..8),
                _ => {}
            }
        }
    }
}

/// The collection that names in this message are of.
fn collection(message: &str) -> &'static str {
    match message {
        _ if message.contains("ApiKey") => "apiKeys/",
        _ if message.contains("BulkJob") => "/bulkJobs/",
        _ if message.contains("RetentionRun") => "/retentionRuns/",
        _ if message.contains("Retention") => "/retention",
        _ if message.contains("RetryPolic") => "/retryPolicies/",
        _ if message.contains("DeadLetter") => "/deadLetters/",
        _ if message.contains("Queue") => "/queues/",
        _ if message.contains("Worker") => "/workers/",
        _ if message.contains("Schedule") => "/schedules/",
        _ if message.contains("Project") => "projects/",
        _ => "/tasks/",
    }
}

/// What a field of this name may hold.
fn vocabulary(name: &str, uuid: &str) -> Vec<String> {
    let texts: &[&str] = match name {
        "parent" => &["", "projects/default", "projects/default", "projects/default/tasks/{}", "projects/other"],
        "name" | "names" | "task" | "resource" => &[
            "projects/default",
            "projects/default/tasks/{}",
            "projects/default/queues/default",
            "projects/default/workers/w",
            "projects/default/bulkJobs/{}",
            "projects/default/retentionRuns/{}",
            "projects/default/retention",
            "projects/default/retryPolicies/p",
            "projects/default/deadLetters/{}",
            "projects/default/schedules/s",
            "apiKeys/abcDEF12",
        ],
        "retry_policy" => &["", "projects/default/retryPolicies/p", "projects/default/retryPolicies/none"],
        "retry_policy_id" => &["p", "p-{}"],
        "message_regex" => &["^5\\d\\d", "a(b", "(a|b)*c", ".*"],
        "task_id" => &["", "{}"],
        "project_id" => &["p-{}", "default"],
        "page_token" | "resume_token" | "etag" => &["", "", "", "", "bm90IGEgdG9rZW4", "{}"],
        "request_id" => &["", "r1", "r2", "{}"],
        "order_by" => &["", "create_time", "create_time desc"],
        "paths" => {
            &["priority", "labels", "queue", "max_running", "rate", "retry", "timeout", "*", "name", "display_name"]
        }
        "cron" => &["* * * * *", "*/10 * * * * *", "@daily", "0 0 29 2 *", "30 2 * * MON#1", "0 0 31 2 *", "1-"],
        "time_zone" => &["", "UTC", "Europe/Berlin", "Mars/Olympus"],
        "schedule_id" => &["s", "s2", "", "s-{}"],
        "key" => &["team", "a/b", "x"],
        "content_type" => &["", "application/octet-stream", "text/plain; charset=utf-8"],
        "principal" => &["service:shop", "user:corp/ada", ""],
        "allowed_cidrs" => &["10.0.0.0/8", "::1", "127.0.0.1", "nowhere"],
        "worker" | "incarnation" => &["w", "w2"],
        "queue" | "queues" => &["", "default", "email"],
        "type" | "types" => &["t", "mail.send"],
        _ => &["", "text", "t", "{}"],
    };
    texts.iter().map(|text| text.replace("{}", uuid)).collect()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn the_same_seed_makes_the_same_message_and_many_can_be_read() {
    let pool = prost_reflect::DescriptorPool::decode(tasktower::pb::DESCRIPTORS).expect("our own descriptors");
    let submit = pool.get_message_by_name("tasktower.v1.SubmitTaskRequest").expect("it exists");
    let learnt = Learnt::default();
    let make = |case| Messages::new(case_seed(1, "m", case), &learnt).message(&submit);
    assert_eq!(make(7), make(7));
    assert_ne!(make(7), make(8));
    let readable =
        (0..400).filter(|case| DynamicMessage::decode(submit.clone(), make(*case).as_slice()).is_ok()).count();
    assert!((100..390).contains(&readable), "{readable} of 400 can be read");
}
