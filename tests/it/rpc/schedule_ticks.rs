//! Ticks where clocks change, as the API previews them, against another implementation: `tests/golden/ticks.txt`, which
//! `tests/golden/ticks.py` wrote.

use std::{collections::BTreeSet, fs};

use sha2::{Digest as _, Sha256};
use tasktower::pb;

use super::Rpc;
use crate::support::{backend::Database, repository};

/// Most ticks of one preview.
const PAGE: i32 = 1_000;

/// One zone and expression of the table.
struct Line {
    zone: String,
    cron: String,
    count: usize,
    digest: String,
    near: Vec<i64>,
}

/// The bounds of the table in seconds, and its lines.
fn table() -> (i64, i64, Vec<Line>) {
    let text = fs::read_to_string(repository().join("tests/golden/ticks.txt")).expect("the table");
    let (head, rest) = text.split_once('\n').expect("a first line");
    let numbers: Vec<i64> = head.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(head.starts_with("# tzdata 2026") && numbers.len() == 2, "{head}");
    let lines = rest.lines().map(|line| {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let mut at = 0;
        let near = parts[4].split_whitespace().map(|step| {
            at += step.parse::<i64>().expect("a number");
            at
        });
        Line {
            zone: parts[0].to_owned(),
            cron: parts[1].to_owned(),
            count: parts[2].parse().expect("a number"),
            digest: parts[3].to_owned(),
            near: near.collect(),
        }
    });
    (numbers[0], numbers[1], lines.collect())
}

/// All ticks in the two years, by as many previews as it takes.
async fn ticks(rpc: &Rpc, line: &Line, begin: i64, end: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut after = begin - 1;
    loop {
        let request = pb::PreviewScheduleRequest {
            cron: line.cron.clone(),
            time_zone: line.zone.clone(),
            after_time: Some(prost_types::Timestamp { seconds: after, nanos: 0 }),
            count: PAGE,
            ..Default::default()
        };
        let runs = rpc.clients.schedules().preview_schedule(request).await.expect("a preview").into_inner().runs;
        for run in runs {
            let tick = run.planned_time.expect("a time").seconds;
            if tick >= end {
                return found;
            }
            found.push(tick);
            after = tick;
        }
    }
}

#[tokio::test]
async fn ticks_are_those_of_another_implementation() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let (begin, end, lines) = table();
    let zones: BTreeSet<&str> = lines.iter().map(|line| &*line.zone).collect();
    assert!(zones.len() == 5 && lines.len() >= 50, "{zones:?}");
    for line in &lines {
        let found = ticks(&rpc, line, begin, end).await;
        let what = format!("{} in {}", line.cron, line.zone);
        // First what can be read, around the changes of the clocks.
        let all: BTreeSet<i64> = found.iter().copied().collect();
        for tick in &line.near {
            assert!(all.contains(tick), "{what}: {tick} is missing");
        }
        assert_eq!((found.len(), all.len()), (line.count, line.count), "{what}");
        let mut hash = Sha256::new();
        found.iter().for_each(|tick| hash.update(format!("{tick}\n")));
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, line.digest, "{what}");
    }
}
