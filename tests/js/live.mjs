// Follow one run by supabase-js: its rows and its private topic. Prints what was heard once the run has ended.
import { newClient, ok } from "./client.mjs";

const { RUN_ID } = process.env;
const heard = { joined: false, changes: [], broadcasts: [] };

// A client that is signed in as one of two people; sessions come as JSON.
async function signedIn(session) {
  const client = newClient();
  ok(await client.auth.setSession(JSON.parse(session)));
  return client;
}
const listener = await signedIn(process.env.LISTENER_SESSION);

// The rows, on a channel that anybody may join: row-level security decides who gets them.
let ready;
const rowsReady = new Promise((resolve) => (ready = resolve));
listener
  .channel("rows")
  .on("postgres_changes", { event: "INSERT", schema: "public", table: "agent_task_logs", filter: `run_id=eq.${RUN_ID}` },
    (change) => heard.changes.push(change.new.seq))
  .on("system", {}, (system) => system.message === "Subscribed to PostgreSQL" && ready())
  .subscribe();
await rowsReady;

// The private topic.
heard.joined = await new Promise((resolve) => {
  listener
    .channel(`run:${RUN_ID}`, { config: { private: true } })
    .on("broadcast", { event: "log" }, ({ payload }) => heard.broadcasts.push(...payload.lines.map((line) => line.seq)))
    .subscribe((state) => {
      if (state === "SUBSCRIBED") resolve(true);
      if (state === "CHANNEL_ERROR" || state === "TIMED_OUT") resolve(false);
    });
});

// The owner starts the run and waits for its end.
const owner = await signedIn(process.env.OWNER_SESSION);
ok(await owner.rpc("start_run", { p_run_id: RUN_ID }));
let last = null;
for (;;) {
  const run = ok(await owner.from("agent_runs").select("status,log_seq").eq("id", RUN_ID).single());
  if (run.status === "completed") {
    last = run.log_seq;
    break;
  }
  await new Promise((resolve) => setTimeout(resolve, 20));
}
// Whoever may hear it hears it soon; whoever may not has had as long as the end took to arrive elsewhere.
const complete = () => !heard.joined || (heard.changes.length >= last && heard.broadcasts.length >= last);
for (let turn = 0; turn < 250 && !complete(); turn += 1) await new Promise((resolve) => setTimeout(resolve, 20));
if (!heard.joined) await new Promise((resolve) => setTimeout(resolve, 500));

console.log(JSON.stringify(heard));
process.exit(0);
