// Administer users with the secret key; prints what happened as one JSON object.
import { newClient, ok } from "./client.mjs";

const admin = newClient(process.env.SUPABASE_SECRET_KEY).auth.admin;
const password = "correct horse";
const ids = [];
for (const name of ["ada", "bob", "eve"]) {
  const created = ok(await admin.createUser({ email: `${name}@example.com`, password, email_confirm: true }));
  ids.push(created.user.id);
}
const page = ok(await admin.listUsers({ page: 1, perPage: 2 }));
const updated = ok(await admin.updateUserById(ids[0], { app_metadata: { plan: "pro" }, ban_duration: "1h" }));
const banned = await newClient().auth.signInWithPassword({ email: "ada@example.com", password });
ok(await admin.deleteUser(ids[1]));
const gone = await admin.getUserById(ids[1]);

console.log(
  JSON.stringify({
    ids,
    page: page.users.map((user) => user.id),
    total: page.total,
    nextPage: page.nextPage,
    lastPage: page.lastPage,
    plan: updated.user.app_metadata.plan,
    banned: banned.error.code,
    gone: { status: gone.error.status, code: gone.error.code },
  }),
);
