// A second factor's life, as an application leads it; prints what happened as one JSON object.
import { createHmac, randomUUID } from "node:crypto";
import { newClient, ok } from "./client.mjs";

// The code that an authenticator shows now (RFC 6238).
function codeOf(secret) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...secret].map((letter) => letters.indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30000)));
  const digest = createHmac("sha1", key).update(step).digest();
  return String((digest.readUInt32BE(digest[19] & 15) & 0x7fffffff) % 1000000).padStart(6, "0");
}

async function levels({ mfa }) {
  const { currentLevel, nextLevel } = ok(await mfa.getAuthenticatorAssuranceLevel());
  return [currentLevel, nextLevel];
}

const { auth } = newClient(undefined, { persistSession: true });
ok(await auth.signUp({ email: `${randomUUID()}@example.com`, password: "correct horse battery" }));
const { id: factorId, type, totp } = ok(await auth.mfa.enroll({ factorType: "totp", friendlyName: "phone" }));
const before = await levels(auth);
const right = codeOf(totp.secret);
const wrong = String((Number(right) + 1) % 1000000).padStart(6, "0");
const { error: refused } = await auth.mfa.challengeAndVerify({ factorId, code: wrong });
ok(await auth.mfa.challengeAndVerify({ factorId, code: right }));
const after = await levels(auth);
const listed = ok(await auth.mfa.listFactors());
ok(await auth.mfa.unenroll({ factorId }));
const left = ok(await auth.mfa.listFactors());
const { error: stranger } = await newClient().auth.mfa.unenroll({ factorId });

console.log(
  JSON.stringify({
    type,
    picture: totp.qr_code.slice(0, 29),
    before,
    wrong: { status: refused.status, code: refused.code },
    after,
    listed: [listed.all.length, listed.totp.length],
    left: left.all.length,
    withoutSession: stranger.name,
  }),
);
