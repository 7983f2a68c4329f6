// Follow a run through row changes and its private topic, in the protocol version of REALTIME_VSN, as its owner and as a
// stranger; then talk in a public room. Prints what each heard as one JSON object.
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";
import { ok } from "./client.mjs";

const vsn = process.env.REALTIME_VSN;

function newClient() {
  return createClient(process.env.SUPABASE_URL, process.env.SUPABASE_PUBLISHABLE_KEY, {
    auth: { autoRefreshToken: false, persistSession: false },
    realtime: { transport: globalThis.WebSocket ?? WebSocket, vsn },
  });
}

async function signedUp(email) {
  const client = newClient();
  ok(await client.auth.signUp({ email, password: "correct horse" }));
  return client;
}

function joined(channel) {
  return new Promise((resolve) => channel.subscribe((status, error) => resolve({ status, error: error?.message })));
}

async function until(condition) {
  const deadline = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`gave up waiting until ${condition}; rows ${JSON.stringify(rows)} messages ${JSON.stringify(messages)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

// Resolves when rows committed from now on will be seen.
async function follow(client, runId, rows) {
  const binding = { event: "INSERT", schema: "public", table: "agent_task_logs", filter: `run_id=eq.${runId}` };
  const channel = client.channel(`logs ${runId}`).on("postgres_changes", binding, ({ new: row }) => rows.push(row));
  let ready = false;
  channel.on("system", {}, ({ status }) => (ready ||= status === "ok"));
  await joined(channel);
  await until(() => ready);
}

const [owner, stranger] = await Promise.all([signedUp("owner@example.com"), signedUp("stranger@example.com")]);
const request = { engine: "prompt", input: { prompt: "hello" }, autostart: false };
const { run_id: runId } = ok(await owner.rpc("create_run", { p_request: request }));

const rows = [];
const strangersRows = [];
const messages = [];
await follow(owner, runId, rows);
await follow(stranger, runId, strangersRows);
const topic = owner.channel(`run:${runId}`, { config: { private: true } });
topic.on("broadcast", { event: "log" }, ({ payload }) => messages.push(payload));
const ownersJoin = await joined(topic);
const strangersJoin = await joined(stranger.channel(`run:${runId}`, { config: { private: true } }));

ok(await owner.rpc("start_run", { p_run_id: runId }));
ok(await owner.rpc("control_run", { p_run_id: runId, p_action: "pause" }));
ok(await owner.rpc("control_run", { p_run_id: runId, p_action: "resume" }));
ok(await owner.rpc("control_run", { p_run_id: runId, p_action: "stop" }));
await until(() => messages.at(-1)?.status === "cancelled");
const lines = messages.flatMap((message) => message.lines.map((line) => line.seq));
await until(() => rows.length >= lines.length);

const heard = [];
const room = owner.channel("room", { config: { broadcast: { self: true, ack: true } } });
room.on("broadcast", { event: "*" }, ({ event, payload }) => heard.push([event, payload]));
await joined(room);
const acknowledged = await room.send({ type: "broadcast", event: "words", payload: { text: "hé" } });
await room.httpSend("post", { text: "over HTTP" });
if (vsn === "2.0.0") {
  await room.send({ type: "broadcast", event: "bytes", payload: new Uint8Array([0, 1, 255]).buffer });
}
await until(() => heard.length === (vsn === "2.0.0" ? 3 : 2));

const stored = ok(await owner.from("agent_task_logs").select("seq").eq("run_id", runId).order("seq"));
console.log(
  JSON.stringify({
    stored: stored.map(({ seq }) => seq),
    rows: rows.map(({ seq }) => seq),
    lines,
    strangersRows,
    ownersJoin,
    strangersJoin,
    acknowledged,
    heard: heard.map(([event, payload]) => [event, payload instanceof ArrayBuffer ? [...new Uint8Array(payload)] : payload.text]),
  }),
);
process.exit(0);
