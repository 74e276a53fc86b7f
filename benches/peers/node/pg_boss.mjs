// pg-boss: jobs are rows in PostgreSQL; a completed job stays as a row. One phase a call:
//   node pg_boss.mjs enqueue|process|latency '{"tasks": 50000}'
//
// Its best settings of those tried: batches of 1,000, two workers in each of two processes, and no pause after a full
// batch. For latency its notifications, one process, batches of 100.
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import * as common from './common.mjs';

const script = fileURLToPath(import.meta.url);
const [command, json = '{}'] = process.argv.slice(2);
const options = JSON.parse(json);
const QUEUE = 'bench';

const BURST = { batchSize: 1000, localConcurrency: 2, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
const NOTIFIED = { batchSize: 100, burstWhenBatchFull: true };

async function connect(settings = {}) {
  const boss = new PgBoss({ connectionString: common.databaseUrl, max: 10, ...settings });
  boss.on('error', (error) => {
    console.error(error);
    process.exit(1);
  });
  await boss.start();
  return boss;
}

async function enqueue({ tasks }) {
  const boss = await connect();
  await boss.createQueue(QUEUE);
  const seconds = await common.measure(async () => {
    for (let done = 0; done < tasks; done += common.BATCH) {
      const count = Math.min(common.BATCH, tasks - done);
      await boss.insert(QUEUE, Array.from({ length: count }, () => ({ data: common.payload })));
    }
  });
  common.tellThroughput(tasks, seconds);
}

async function process_({ tasks, processes = 2 }) {
  const pool = new pg.Pool({ connectionString: common.databaseUrl });
  const completed = async () => {
    const answer = await pool.query("SELECT count(*)::int AS count FROM pgboss.job WHERE state = 'completed'");
    return answer.rows[0].count;
  };
  const workers = await common.startWorkers(script, processes, { work: BURST });
  const seconds = await common.measure(async () => {
    workers.go();
    await common.until(async () => workers.ran() >= tasks && (await completed()) === tasks, workers.ran);
  });
  workers.stop();
  common.tellThroughput(tasks, seconds);
}

async function latency(settings) {
  const boss = await connect({ useListenNotify: true });
  await boss.createQueue(QUEUE, { notify: true });
  const workers = await common.startWorkers(script, 1, { boss: { useListenNotify: true }, work: NOTIFIED });
  workers.go();
  // The worker has to take its place before the first job, or the first seconds are of its start.
  await common.sleep(2_000);
  await common.measureLatency(settings, (number) => boss.send(QUEUE, { number }), workers);
  workers.stop();
}

async function work({ boss: settings, work: how }) {
  const boss = await connect(settings);
  await common.beWorker(async (ran, started) => {
    await boss.work(QUEUE, how, async (jobs) => {
      const at = common.now();
      for (const { data } of jobs) if (data.number !== undefined) started(data.number, at);
      ran(jobs.length);
    });
  });
}

const commands = { enqueue, process: process_, latency, worker: work };
await commands[command](options);
if (command !== 'worker') process.exit(0);
