// Sign up, read the token, refresh, change, sign in elsewhere, sign out; prints what happened as one JSON object.
import { newClient, ok } from "./client.mjs";

const email = "ada@example.com";
const password = "correct horse";
const client = newClient();
const events = [];
client.auth.onAuthStateChange((event) => events.push(event));

const signedUp = ok(await client.auth.signUp({ email, password, options: { data: { nickname: "ada" } } }));
// With an asymmetric key the client verifies the token itself, by the published keys.
const claims = ok(await client.auth.getClaims());
const refreshed = ok(await client.auth.refreshSession());
const afterRefresh = ok(await client.auth.getClaims());
const changed = ok(await client.auth.updateUser({ data: { nickname: null, theme: "dark" } }));

const other = newClient();
const signedIn = ok(await other.auth.signInWithPassword({ email, password }));
ok(await other.auth.signOut({ scope: "others" }));
const ended = await client.auth.getUser();
const alive = ok(await other.auth.getUser());
ok(await other.auth.signOut());
const afterSignOut = await other.auth.refreshSession({ refresh_token: signedIn.session.refresh_token });

const guest = ok(await newClient().auth.signInAnonymously());

console.log(
  JSON.stringify({
    events,
    user: signedUp.user,
    sessionUser: signedUp.session.user.id,
    algorithm: claims.header.alg,
    subject: claims.claims.sub,
    refreshedToken: refreshed.session.refresh_token !== signedUp.session.refresh_token,
    sameSession: claims.claims.session_id === afterRefresh.claims.session_id,
    metadata: changed.user.user_metadata,
    signedInUser: signedIn.user.id,
    ended: { status: ended.error.status, name: ended.error.name, code: ended.error.code },
    alive: alive.user.id,
    afterSignOut: afterSignOut.error.code,
    guest: guest.user.is_anonymous,
  }),
);
