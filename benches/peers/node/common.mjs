// What the node peers share: how a phase is told, worker processes, one clock.
//
// A phase prints `measuring` and `measured` on stderr around what its figures are of (the runner reads CPU times when it
// sees them) and ends with one JSON object on stdout.
import { fork } from 'node:child_process';

export const databaseUrl = process.env.DATABASE_URL;
if (!databaseUrl) throw new Error('DATABASE_URL is not set');

/** 100 bytes of JSON, as at every peer. */
export const payload = { padding: 'x'.repeat(86) };
export const BATCH = 1000;
const POLL_MS = 5;
/** So long the worker processes stay after `measured`, so that their CPU time can be read. */
const READING_MS = 200;
/** Nothing finishing for this long means that nothing will. */
const STALLED_MS = 60_000;

/** Milliseconds on CLOCK_MONOTONIC, which all processes of a machine share. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function measure(work) {
  process.stderr.write('measuring\n');
  const began = now();
  await work();
  const seconds = (now() - began) / 1e3;
  process.stderr.write('measured\n');
  await sleep(READING_MS);
  return seconds;
}

export const tell = (figures) => console.log(JSON.stringify(figures));
export const tellThroughput = (tasks, seconds) => tell({ tasks, per_s: tasks / seconds });

export function tellTimes(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const quantile = (share) => sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
  tell({ tasks: sorted.length, p50_ms: quantile(0.5), p99_ms: quantile(0.99) });
}

/** Waits until `done()` is true; `progress()` is a number that grows while there is hope. */
export async function until(done, progress) {
  let last = -1;
  let moved = now();
  while (!(await done())) {
    const current = progress();
    if (current > last) [last, moved] = [current, now()];
    if (now() - moved > STALLED_MS) throw new Error(`nothing moved for ${STALLED_MS} ms at ${current}`);
    await sleep(POLL_MS);
  }
}

/** Worker processes of this same script, connected and waiting for `go`. */
export async function startWorkers(script, count, options) {
  const workers = Array.from({ length: count }, () => {
    const child = fork(script, ['worker', JSON.stringify(options)]);
    const worker = { child, ran: 0, starts: [] };
    worker.ready = new Promise((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`a worker ended with ${code}`)));
      child.on('message', (message) => {
        if (message.ready) resolve();
        if (message.ran !== undefined) worker.ran = message.ran;
        if (message.starts) worker.starts.push(...message.starts);
      });
    });
    return worker;
  });
  await Promise.all(workers.map((worker) => worker.ready));
  return {
    go: () => workers.forEach(({ child }) => child.send('go')),
    ran: () => workers.reduce((sum, { ran }) => sum + ran, 0),
    starts: () => workers.flatMap(({ starts }) => starts),
    stop: () => workers.forEach(({ child }) => child.kill('SIGKILL')),
  };
}

/** The other end: what a worker process does. `work(count, start)` begins to work and returns. */
export async function beWorker(work) {
  let ran = 0;
  let told = 0;
  let starts = [];
  process.send({ ready: true });
  await new Promise((resolve) => process.once('message', resolve));
  await work(
    (count) => {
      ran += count;
    },
    (number, at) => {
      starts.push([number, at]);
    },
  );
  setInterval(() => {
    if (ran === told) return;
    told = ran;
    process.send({ ran, starts });
    starts = [];
  }, POLL_MS);
}

/** Submits at a fixed rate, whatever the answers do, and times the starts that the workers tell. */
export async function measureLatency({ rate, warmUp, tasks }, submit, workers) {
  const all = warmUp + tasks;
  const asked = [];
  const calls = [];
  await measure(async () => {
    const began = now();
    for (let number = 0; number < all; number += 1) {
      const wait = began + (number * 1e3) / rate - now();
      if (wait > 0) await sleep(wait);
      asked.push(now());
      calls.push(submit(number));
    }
    await Promise.all(calls);
    await until(() => workers.starts().length >= all, () => workers.starts().length);
  });
  tellTimes(workers.starts().filter(([number]) => number >= warmUp).map(([number, at]) => at - asked[number]));
}
