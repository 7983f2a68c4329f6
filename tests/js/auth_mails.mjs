// Confirm by mail, sign in by a mailed link and by a code, recover, change the address; PKCE and implicit. Prints what
// happened as one JSON object. The stack waits for confirmations.
import { newClient, ok } from "./client.mjs";

const email = "ada@example.com";
const password = "correct horse";

async function mailTo(address) {
  const answer = await fetch(`${process.env.SUPABASE_URL}/mails?to=${encodeURIComponent(address)}`);
  return (await answer.json()).mails[0];
}

async function follow(link) {
  const answer = await fetch(link, { redirect: "manual" });
  return new URL(answer.headers.get("location"));
}

const client = newClient(undefined, { flowType: "pkce" });
const signedUp = ok(await client.auth.signUp({ email, password }));
const early = await client.auth.signInWithPassword({ email, password });
const landed = await follow((await mailTo(email)).link);
const confirmed = ok(await client.auth.exchangeCodeForSession(landed.searchParams.get("code")));
const again = ok(await newClient().auth.signUp({ email, password }));

ok(await client.auth.signInWithOtp({ email, options: { shouldCreateUser: false } }));
const byCode = ok(await client.auth.verifyOtp({ type: "email", email, token: (await mailTo(email)).code }));

const events = [];
client.auth.onAuthStateChange((event) => events.push(event));
ok(await client.auth.resetPasswordForEmail(email, { redirectTo: "http://localhost:5173/reset" }));
const reset = await follow((await mailTo(email)).link);
const recovered = ok(await client.auth.exchangeCodeForSession(reset.searchParams.get("code")));
ok(await client.auth.updateUser({ password: "a new password" }));

const next = "lovelace@example.com";
ok(await client.auth.updateUser({ email: next }));
ok(await client.auth.verifyOtp({ type: "email_change", email, token: (await mailTo(email)).code }));
const changed = ok(await client.auth.verifyOtp({ type: "email_change", email: next, token: (await mailTo(next)).code }));

const implicit = newClient(undefined, { flowType: "implicit" });
ok(await implicit.auth.signInWithOtp({ email: next }));
const magic = new URLSearchParams((await follow((await mailTo(next)).link)).hash.slice(1));
const linked = ok(
  await implicit.auth.setSession({
    access_token: magic.get("access_token"),
    refresh_token: magic.get("refresh_token"),
  }),
);

const used = await newClient().auth.verifyOtp({ type: "email", email: next, token: (await mailTo(next)).code });
const stranger = await newClient().auth.signInWithOtp({
  email: "stranger@example.com",
  options: { shouldCreateUser: false },
});

const admin = newClient(process.env.SUPABASE_SECRET_KEY).auth.admin;
ok(await admin.inviteUserByEmail("eve@example.com", { data: { team: "blue" } }));
const invitation = await follow((await mailTo("eve@example.com")).link);
const generated = ok(await admin.generateLink({ type: "magiclink", email: next }));
const byHash = ok(
  await newClient().auth.verifyOtp({ type: "email", token_hash: generated.properties.hashed_token }),
);

console.log(
  JSON.stringify({
    pending: signedUp.session,
    early: early.error.code,
    landedOn: landed.origin,
    confirmed: confirmed.user.id === signedUp.user.id,
    hidden: { identities: again.user.identities, sameId: again.user.id === signedUp.user.id },
    byCode: byCode.user.email,
    resetAt: reset.origin + reset.pathname,
    recovered: recovered.user.email,
    events,
    changed: changed.user.email,
    linked: linked.user.email,
    used: { status: used.error.status, code: used.error.code },
    stranger: stranger.error.code,
    invitation: new URLSearchParams(invitation.hash.slice(1)).get("type"),
    verificationType: generated.properties.verification_type,
    byHash: byHash.user.email,
  }),
);
