// A program with an API key: the functions take the key, PostgREST and Realtime a token that the client fetches for it.
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const key = process.env.RUNBASE_API_KEY;
const functions = createClient(process.env.SUPABASE_URL, process.env.SUPABASE_PUBLISHABLE_KEY, {
  global: { headers: { Authorization: `Bearer ${key}` } },
  auth: { autoRefreshToken: false, persistSession: false },
  realtime: { transport: globalThis.WebSocket ?? WebSocket },
});
const invoke = async (name, body) => {
  const { data, error } = await functions.functions.invoke(name, { body });
  if (error) throw new Error(`${name}: ${await error.context.text()}`);
  return data;
};

let exchanges = 0;
let known = { access_token: "", expires_at: 0 };
const client = createClient(process.env.SUPABASE_URL, process.env.SUPABASE_PUBLISHABLE_KEY, {
  accessToken: async () => {
    if (known.expires_at - 30 < Date.now() / 1000) {
      known = await invoke("api-key-exchange");
      exchanges += 1;
    }
    return known.access_token;
  },
  realtime: { transport: globalThis.WebSocket ?? WebSocket },
});

const run = await invoke("agent-execute", { action: "create", prompt: "Say hello" });
const { data: runs, error } = await client.from("agent_runs").select("id");
if (error) throw error;
const { data: accounts } = await client.from("accounts").select("id");

await client.realtime.setAuth();
const heard = new Promise((resolve, reject) => {
  client
    .channel(`run:${run.run_id}`, { config: { private: true } })
    .on("broadcast", { event: "log" }, ({ payload }) => resolve(payload.status))
    .subscribe((status, problem) => {
      if (status === "SUBSCRIBED") invoke("agent-execute", { action: "start", run_id: run.run_id }).catch(reject);
      else if (problem) reject(problem);
    });
});
console.log(JSON.stringify({ run: run.run_id, runs, accounts, status: await heard, exchanges }));
process.exit(0);
