// One official client, as one browser tab has. Where the stack is and its keys come from the environment.
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

export function newClient(key = process.env.SUPABASE_PUBLISHABLE_KEY, auth = {}) {
  return createClient(process.env.SUPABASE_URL, key, {
    // The refresh timer would keep the process alive.
    auth: { autoRefreshToken: false, persistSession: false, ...auth },
    // Node before 22 has no WebSocket of its own, and the client refuses to be made without one.
    realtime: { transport: globalThis.WebSocket ?? WebSocket },
  });
}

// The data of an answer; an error ends the script.
export function ok({ data, error }) {
  if (error) throw error;
  return data;
}
