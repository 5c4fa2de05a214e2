// The npm package `runpod-sdk`, unmodified: tells on stdout, in its last line, what a user's program would see.
import sdk from "runpod-sdk";

const { KEY, STEPS, COUNT, HOLD, BASE } = process.env;
const runpod = sdk(KEY, { baseUrl: BASE });
const seen = {};
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const steps = runpod.endpoint(STEPS);
const accepted = await steps.run({ input: { do: "echo", text: "héllo" } });
seen.accepted = accepted.status;
seen.statusSync = await steps.statusSync(accepted.id, 60000);
seen.status = await steps.status(accepted.id);
seen.runSync = await steps.runSync({ input: { do: "echo", n: [1, null, 2.5] } }, 60000);
seen.slowRunSync = await steps.runSync({ input: { do: "sleep", s: 5 } }, 4000);
seen.raised = await steps.runSync({ input: { do: "raise" } }, 60000);

seen.divided = await steps.runSync({ input: { do: "divide" } }, 60000);

const count = runpod.endpoint(COUNT);
let job = await count.run({ input: { to: 3 } });
seen.stream = [];
for await (const chunk of count.stream(job.id)) seen.stream.push(chunk.output);

job = await count.run({ input: { to: 2, divide: true } });
seen.dividedStream = [];
for await (const chunk of count.stream(job.id)) seen.dividedStream.push(chunk.output);
seen.dividedId = job.id;

job = await steps.run({ input: { do: "sleep", s: 600 } });
while ((await steps.status(job.id)).status !== "IN_PROGRESS") await pause(50);
seen.cancel = await steps.cancel(job.id);
seen.cancelled = await steps.status(job.id);

job = await count.run({ input: { to: 1000, pause: 0.5 } });
for await (const _ of count.stream(job.id)) await count.cancel(job.id);
seen.cancelledStream = "ended";

seen.health = await steps.health();
const hold = runpod.endpoint(HOLD);
const waiting = [];
for (const n of [0, 1, 2]) waiting.push(await hold.run({ input: { n } }));
seen.queued = [(await hold.status(waiting[0].id)).status, (await hold.health()).jobs.inQueue];
seen.purge = await hold.purgeQueue();
seen.purged = [];
for (const { id } of waiting) seen.purged.push((await hold.status(id)).status);

console.log(JSON.stringify(seen));
