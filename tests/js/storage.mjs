// Buckets and files, as their owner, as a person with a folder of their own, and as a stranger; prints what happened.
import { newClient, ok } from "./client.mjs";

const admin = newClient(process.env.SUPABASE_SECRET_KEY).storage;
const owner = newClient();
const signedUp = ok(await owner.auth.signUp({ email: "ada@example.com", password: "correct horse" }));
const stranger = newClient();
ok(await stranger.auth.signUp({ email: "bob@example.com", password: "correct horse" }));

const created = ok(await admin.createBucket("pictures", { public: true, fileSizeLimit: "1mb", allowedMimeTypes: ["image/*"] }));
ok(await admin.updateBucket("pictures", { public: true, fileSizeLimit: 2000 }));
const bucket = ok(await admin.getBucket("pictures"));
const buckets = ok(await admin.listBuckets({ limit: 10, sortColumn: "name", sortOrder: "asc" }));

const docs = owner.storage.from("docs");
const folder = signedUp.user.id;
const blob = new Blob(["as a form"], { type: "text/plain" });
const form = ok(await docs.upload(`${folder}/form.txt`, blob, { metadata: { by: "ada" }, cacheControl: "60" }));
const raw = ok(await docs.upload(`${folder}/raw file.bin`, new Uint8Array([0, 1, 255]), { contentType: "x/y", metadata: { n: 1 } }));
const stream = new ReadableStream({
  start(controller) {
    controller.enqueue(new TextEncoder().encode("as a stream"));
    controller.close();
  },
});
ok(await docs.upload(`${folder}/stream.txt`, stream, { contentType: "text/plain" }));
const duplicate = (await docs.upload(`${folder}/form.txt`, blob)).error;
ok(await docs.update(`${folder}/form.txt`, new Blob(["changed"], { type: "text/plain" }), { metadata: { by: "ada" } }));
const info = ok(await docs.info(`${folder}/form.txt`));
const rawInfo = ok(await docs.info(`${folder}/raw file.bin`));
const text = await ok(await docs.download(`${folder}/form.txt`)).text();
const bytes = [...new Uint8Array(await ok(await docs.download(`${folder}/raw file.bin`)).arrayBuffer())];
const streamed = await ok(await docs.download(`${folder}/stream.txt`)).text();

const signed = ok(await docs.createSignedUrl(`${folder}/raw file.bin`, 60, { download: "my file.bin" }));
const fetched = await fetch(signed.signedUrl);
const signedUrls = ok(await docs.createSignedUrls([`${folder}/form.txt`, "nobody"], 60));
const permit = ok(await docs.createSignedUploadUrl(`${folder}/letter.txt`));
ok(await newClient().storage.from("docs").uploadToSignedUrl(permit.path, permit.token, new Blob(["a letter"])));
const letter = await ok(await docs.download(`${folder}/letter.txt`)).text();

const copied = ok(await docs.copy(`${folder}/form.txt`, `${folder}/copy.txt`));
const moved = ok(await docs.move(`${folder}/copy.txt`, `${folder}/deep/moved.txt`));
const listed = ok(await docs.list(folder));
const paged = ok(await docs.listV2({ prefix: `${folder}/`, with_delimiter: true, limit: 10 }));
const exists = [(await docs.exists(`${folder}/form.txt`)).data, (await docs.exists(`${folder}/nobody`)).data];

const theirs = stranger.storage.from("docs");
const hidden = (await theirs.download(`${folder}/form.txt`)).error;
const refused = (await theirs.upload(`${folder}/intruder`, blob)).error;
const notTheirs = ok(await theirs.remove([`${folder}/form.txt`]));
const wrongType = (await admin.from("pictures").upload("a.txt", blob, { contentType: "text/plain" })).error;
const tooLarge = (await admin.from("pictures").upload("a.png", new Uint8Array(3000), { contentType: "image/png" })).error;
ok(await admin.from("pictures").upload("a.png", new Uint8Array(3), { contentType: "image/png", upsert: true }));
const open = await fetch(admin.from("pictures").getPublicUrl("a.png").data.publicUrl);
const image = (await admin.from("pictures").download("a.png", { transform: { width: 1 } })).error;
const notEmpty = (await admin.deleteBucket("pictures")).error;
ok(await admin.emptyBucket("pictures"));
ok(await admin.deleteBucket("pictures"));
const removed = ok(await docs.remove([`${folder}/form.txt`, `${folder}/deep/moved.txt`]));

const told = (error) => ({ name: error.name, status: error.status, statusCode: error.statusCode, code: error.code });
console.log(
  JSON.stringify({
    created,
    bucket,
    buckets: buckets.map(({ name }) => name),
    folder,
    form,
    raw,
    info,
    rawInfo,
    text,
    bytes,
    streamed,
    fetched: { status: fetched.status, disposition: fetched.headers.get("content-disposition") },
    signedUrls: signedUrls.map(({ path, error, signedUrl }) => ({ path, error, signed: signedUrl !== null })),
    letter,
    copied,
    moved,
    listed: listed.map(({ name }) => name),
    paged: { folders: paged.folders.map(({ name }) => name), objects: paged.objects.map(({ name }) => name) },
    exists,
    notTheirs,
    open: { status: open.status, type: open.headers.get("content-type") },
    removed: removed.map(({ name }) => name),
    errors: {
      duplicate: told(duplicate),
      hidden: told(hidden),
      refused: told(refused),
      wrongType: told(wrongType),
      tooLarge: told(tooLarge),
      image: told(image),
      notEmpty: told(notEmpty),
    },
  }),
);
