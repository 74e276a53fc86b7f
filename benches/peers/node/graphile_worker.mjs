// graphile-worker: jobs are rows in PostgreSQL; a finished job is deleted. One phase a call:
//   node graphile_worker.mjs enqueue|process|latency '{"tasks": 50000}'
//
// Its best settings of those tried: a local queue of 500 fetched at once, completions in batches, 24 jobs at a time, two
// worker processes. For latency one process, which is what it needs at 50 tasks a second.
import { fileURLToPath } from 'node:url';
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import * as common from './common.mjs';

process.env.NO_LOG_SUCCESS = '1';
const script = fileURLToPath(import.meta.url);
const [command, json = '{}'] = process.argv.slice(2);
const options = JSON.parse(json);
const logger = new Logger(() => () => {});

const JOBS_AT_A_TIME = 24;
const worker = {
  concurrentJobs: JOBS_AT_A_TIME,
  maxPoolSize: JOBS_AT_A_TIME + 1,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};

const connect = async (maxPoolSize = 10) => {
  const utils = await makeWorkerUtils({ connectionString: common.databaseUrl, logger, maxPoolSize });
  await utils.migrate();
  return utils;
};

async function enqueue({ tasks }) {
  const utils = await connect();
  const seconds = await common.measure(async () => {
    for (let done = 0; done < tasks; done += common.BATCH) {
      const count = Math.min(common.BATCH, tasks - done);
      await utils.addJobs(Array.from({ length: count }, () => ({ identifier: 'bench', payload: common.payload })));
    }
  });
  common.tellThroughput(tasks, seconds);
}

async function process_({ tasks, processes = 2 }) {
  const pool = new pg.Pool({ connectionString: common.databaseUrl });
  const waiting = async () => {
    const answer = await pool.query('SELECT count(*)::int AS count FROM graphile_worker._private_jobs');
    return answer.rows[0].count;
  };
  if ((await waiting()) !== tasks) throw new Error(`${await waiting()} jobs wait, ${tasks} should`);
  const workers = await common.startWorkers(script, processes, {});
  const seconds = await common.measure(async () => {
    workers.go();
    await common.until(async () => workers.ran() >= tasks && (await waiting()) === 0, workers.ran);
  });
  workers.stop();
  common.tellThroughput(tasks, seconds);
}

async function latency(settings) {
  const utils = await connect();
  const workers = await common.startWorkers(script, 1, {});
  workers.go();
  // The worker has to take its place before the first job, or the first seconds are of its start.
  await common.sleep(1_000);
  await common.measureLatency(settings, (number) => utils.addJob('bench', { number }), workers);
  workers.stop();
}

function work() {
  return common.beWorker(async (ran, started) => {
    const bench = ({ number }) => {
      if (number !== undefined) started(number, common.now());
      ran(1);
    };
    await run({
      preset: { worker: { connectionString: common.databaseUrl, ...worker } },
      taskList: { bench },
      logger,
      noHandleSignals: true,
    });
  });
}

const commands = { enqueue, process: process_, latency, worker: work };
await commands[command](options);
if (command !== 'worker') process.exit(0);
