// Provoke the errors that applications branch on; prints {name, status, code, reasons} of each as one JSON object.
import { newClient, ok } from "./client.mjs";

const email = "ada@example.com";
const password = "correct horse";
const client = newClient();
ok(await client.auth.signUp({ email, password }));

const attempts = {
  weakPassword: newClient().auth.signUp({ email: "bob@example.com", password: "123" }),
  takenAddress: newClient().auth.signUp({ email, password }),
  wrongPassword: newClient().auth.signInWithPassword({ email, password: "wrong" }),
  samePassword: client.auth.updateUser({ password }),
  unknownRefreshToken: newClient().auth.refreshSession({ refresh_token: "never given out" }),
  notAdmin: client.auth.admin.listUsers(),
};

const refusals = {};
for (const [attempt, answer] of Object.entries(attempts)) {
  const { error } = await answer;
  refusals[attempt] = { name: error.name, status: error.status, code: error.code, reasons: error.reasons };
}
console.log(JSON.stringify(refusals));
