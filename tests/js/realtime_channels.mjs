// What channels of supabase-js do beside rows and rooms: several bindings with built filters, a join that waits for its
// subscription, presence, replay, and reasons of refusals. Prints what was heard as one JSON object.
import { postgresChangesFilter } from "@supabase/supabase-js";
import { newClient, ok } from "./client.mjs";

const topic = (id) => `user:${id}`;

async function signedUp(email) {
  const client = newClient();
  const { user } = ok(await client.auth.signUp({ email, password: "correct horse" }));
  return { client, id: user.id };
}

function joined(channel) {
  return new Promise((resolve) => channel.subscribe((status, error) => resolve({ status, error: error?.message })));
}

async function until(condition) {
  const deadline = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`gave up waiting until ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const [owner, other] = await Promise.all([signedUp("owner@example.com"), signedUp("other@example.com")]);
const rows = { exact: [], pattern: [], everything: [] };
const options = { config: { postgres_changes_options: { wait: true } } };
const table = { schema: "public", table: "notes" };
const notes = owner.client
  .channel("notes", options)
  .on("postgres_changes", { event: "INSERT", ...table, filter: postgresChangesFilter().eq("body", 'a, "b"').build() }, (change) =>
    rows.exact.push(change.new.body),
  )
  .on("postgres_changes", { event: "*", ...table, filter: postgresChangesFilter().imatch("body", "^[A-C]").build() }, (change) =>
    rows.pattern.push([change.eventType, change.new.body]),
  )
  .on("postgres_changes", { event: "*", schema: "*" }, (change) =>
    rows.everything.push([change.eventType, change.table, change.new.body ?? change.old.id]),
  );
const waited = await joined(notes);
const refused = await joined(
  owner.client.channel("bad", options).on("postgres_changes", { event: "*", schema: "public", table: "missing" }, () => {}),
);
for (const body of ['a, "b"', "Bee", "zebra"]) {
  ok(await owner.client.from("notes").insert({ owner: owner.id, body }));
  await until(() => rows.everything.at(-1)?.[2] === body);
}
ok(await owner.client.from("notes").delete().eq("body", "zebra"));
await until(() => rows.everything.length === 4);

const config = { private: true, broadcast: { ack: true } };
const first = owner.client.channel(topic(owner.id), { config });
await joined(first);
const acknowledged = await first.send({ type: "broadcast", event: "said", payload: { n: 1 } });
const stranger = await joined(other.client.channel(topic(owner.id), { config }));
await owner.client.removeChannel(first);
const replayed = [];
const again = owner.client.channel(topic(owner.id), {
  config: { private: true, broadcast: { replay: { since: Date.now() - 60_000, limit: 5 } } },
});
again.on("broadcast", { event: "stored" }, ({ payload, meta }) => replayed.push([payload.n, meta.replayed]));
await joined(again);
await until(() => replayed.length === 2);

const seen = [];
const lobby = owner.client.channel("lobby", { config: { presence: { key: "owner" } } });
lobby.on("presence", { event: "join" }, ({ key, newPresences }) => seen.push(["join", key, newPresences[0].name]));
lobby.on("presence", { event: "leave" }, ({ key, leftPresences }) => seen.push(["leave", key, leftPresences[0].name]));
await joined(lobby);
const visit = other.client.channel("lobby", { config: { presence: { key: "other" } } });
await joined(visit);
const tracked = await visit.track({ name: "Ada" });
await until(() => seen.length === 1);
const state = Object.keys(lobby.presenceState());
await other.client.realtime.disconnect();
await until(() => seen.length === 2);

console.log(JSON.stringify({ waited, refused, rows, acknowledged, stranger, replayed, tracked, state, seen }));
process.exit(0);
