//! The disk is full, then there is room again: writes are refused and say why, reads go on, nothing acknowledged is lost,
//! and the server is back at work without a restart.
//!
//! The disk is a small tmpfs, which only root may mount; the parts are left out, loudly, where that is not permitted.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tasktower::pb::ErrorReason;
use tempfile::TempDir;

use super::plan;
use crate::support::{
    backend::Database,
    client::Clients,
    cluster::Cluster,
    history::Known,
    invariants::{Facts, Inspector, When, assert_holds},
    load::{Load, Shape, revision},
    server::Server,
    wait::{SOON, eventually, pause},
};

const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// From when there is room until calls are acknowledged again.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// How long the disk stays full after somebody noticed.
const FULL_FOR: Duration = Duration::from_secs(2);
/// How long a write may find room that is left in files and pages.
const FULL_WITHIN: Duration = Duration::from_secs(60);
const EXPLAINED: &[ErrorReason] = &[ErrorReason::StorageFull, ErrorReason::Overloaded];
const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_sqlite_loses_nothing() {
    let Some(disk) = Disk::mount(32) else { return };
    let database = Database::sqlite_in(&disk.path);
    let server = Server::start(&database).await;
    let load = Load::start(Shape { explained: EXPLAINED, ..Shape::on(&[server.endpoint()]) }).await;
    let clients = Clients::connect(&server).await;
    let mut slowest = Duration::ZERO;
    let rounds = plan::many(1, 5);
    for _ in 0..rounds {
        load.advance(100, SOON).await;
        let refused = full(&load);
        disk.fill();
        eventually("a write is refused because the disk is full", FULL_WITHIN, async || {
            if full(&load) > refused { Ok(()) } else { Err("none is") }
        })
        .await;
        pause("it stays full", FULL_FOR).await;
        assert!(revision(&clients).await > 0, "reads go on");
        disk.free();
        slowest = slowest.max(back_at_work(&load).await);
    }
    let (known, facts) = finish(load, &database).await;
    said("SQLite", rounds, &known, &facts, slowest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_postgres_loses_nothing() {
    let Some(disk) = Disk::mount(160) else { return };
    let Some(mut cluster) = Cluster::start_in(&disk.path).await else { return };
    let database = Database::postgres(cluster.url()).await;
    let server = Server::start(&database).await;
    let load = Load::start(Shape { explained: EXPLAINED, ..Shape::on(&[server.endpoint()]) }).await;
    let mut slowest = Duration::ZERO;
    let rounds = plan::many(1, 3);
    for _ in 0..rounds {
        load.advance(100, SOON).await;
        let broken = load.history().with(|known| known.broken);
        disk.fill();
        // PostgreSQL refuses what needs a new page, and stops when it cannot write its log.
        eventually("a write is refused or breaks", FULL_WITHIN, async || {
            if load.history().with(|known| known.broken) > broken { Ok(()) } else { Err("none does") }
        })
        .await;
        pause("it stays full", FULL_FOR).await;
        disk.free();
        if !cluster.is_running() {
            cluster.start_again().await;
        }
        slowest = slowest.max(back_at_work(&load).await);
    }
    let (known, facts) = finish(load, &database).await;
    said("PostgreSQL", rounds, &known, &facts, slowest);
}

/// How many calls were told that the disk is full.
fn full(load: &Load) -> usize {
    let is_full = |(outcome, _): &(&String, &usize)| outcome.contains("STORAGE_FULL");
    load.history().with(|known| known.outcomes.iter().filter(is_full).map(|(_, count)| count).sum())
}

async fn back_at_work(load: &Load) -> Duration {
    let freed = Instant::now();
    load.advance(10, SOON).await;
    assert!(freed.elapsed() <= BACK_WITHIN, "at work again after {:?}", freed.elapsed());
    freed.elapsed()
}

async fn finish(load: Load, database: &Database) -> (Known, Facts) {
    let mut inspector = Inspector::open(database).await;
    let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
    let facts = inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    inspector.close().await;
    (known, facts)
}

fn said(backend: &str, rounds: usize, known: &Known, facts: &Facts, slowest: Duration) {
    let told: Vec<_> = known.outcomes.iter().filter(|(outcome, _)| outcome.contains("STORAGE_FULL")).collect();
    plan::report(&format!(
        "{backend}: {rounds} times a full disk, {told:?}; {}; {} revisions; at work again within {} ms; 0 violations",
        plan::figures(known),
        facts.last_revision(),
        slowest.as_millis(),
    ));
}

/// A small disk in memory.
struct Disk {
    path: PathBuf,
    _folder: TempDir,
}

impl Disk {
    /// None, after saying so, where mounting is not permitted.
    fn mount(mib: usize) -> Option<Disk> {
        let folder = TempDir::with_prefix("tasktower-disk-").expect("a temporary folder");
        let path = folder.path().to_owned();
        let size = format!("size={mib}m,mode=755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Disk { path, _folder: folder });
        }
        // Never a failure: no script can bring this permission.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** SKIPPED: a full disk, because a tmpfs cannot be mounted here. Run as root to have it. ***\n"
        );
        None
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("a file on the disk");
        for piece in [MIB, 4096, 1] {
            let bytes = vec![0; piece];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// Lazily: whoever still has a file there keeps it until it is gone.
fn unmount(path: &Path) {
    // A disk left behind shows in `mount`, and is gone with the machine.
    let _ = Command::new("umount").arg("-l").arg(path).output();
}
