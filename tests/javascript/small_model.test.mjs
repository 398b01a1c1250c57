// What the official JavaScript SDK gets from a real model, which is in SMALL_MODEL; LM_SERVE is the address.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Chat, LMStudioClient } from "@lmstudio/sdk";
import { z } from "zod";

const client = new LMStudioClient({ baseUrl: process.env.LM_SERVE });
const steady = { temperature: 0, maxTokens: 12 };
let model;

before(async () => {
  const progress = [];
  model = await client.llm.load(process.env.SMALL_MODEL, {
    identifier: "mine",
    config: { contextLength: 2048 },
    verbose: false,
    onProgress: (value) => progress.push(value),
  });
  assert.equal(progress.at(0), 0);
  assert.equal(progress.at(-1), 1);
});
after(() => client[Symbol.asyncDispose]());

test("what the model is", async () => {
  const [downloaded] = await client.system.listDownloadedModels("llm");
  assert.equal(downloaded.modelKey, process.env.SMALL_MODEL);
  assert.equal(downloaded.format, "gguf");
  assert.equal(downloaded.architecture, "llama");
  const info = await model.getModelInfo();
  assert.equal(info.identifier, "mine");
  assert.equal(info.modelKey, process.env.SMALL_MODEL);
  assert.equal((await model.getLoadConfig()).contextLength, 2048);
  assert.equal(await model.getContextLength(), 2048);
});

test("respond, with all callbacks", async () => {
  const progress = [];
  const contents = [];
  const messages = [];
  let first = 0;
  const result = await model.respond("Name three colours of the rainbow.", {
    ...steady,
    onPromptProcessingProgress: (value) => progress.push(value),
    onFirstToken: () => (first += 1),
    onPredictionFragment: ({ content }) => contents.push(content),
    onMessage: (message) => messages.push(message.getText()),
  });
  assert.ok(result.content.trim());
  assert.equal(contents.join(""), result.content);
  assert.deepEqual(messages, [result.content]);
  assert.equal(first, 1);
  assert.equal(progress.at(0), 0);
  assert.equal(progress.at(-1), 1);
  assert.deepEqual(progress, progress.toSorted((a, b) => a - b));
  assert.ok(["maxPredictedTokensReached", "eosFound"].includes(result.stats.stopReason));
  assert.ok(result.stats.predictedTokensCount <= 12);
});

test("the same options give the same text, in chat and completion", async () => {
  const chat = Chat.from([
    { role: "system", content: "You are terse." },
    { role: "user", content: "What do bees make?" },
  ]);
  assert.equal((await model.respond(chat, steady)).content, (await model.respond(chat, steady)).content);
  const raw = await model.applyPromptTemplate(chat);
  assert.match(raw, /^<\|im_start\|>system\nYou are terse\.<\|im_end\|>\n<\|im_start\|>user\nWhat do bees make\?/);
  assert.equal((await model.complete(raw, steady)).content, (await model.respond(chat, steady)).content);
});

test("stop strings", async () => {
  const whole = (await model.complete("one, two, three, four,", steady)).content;
  const stop = whole.slice(6, 9);
  const { content, stats } = await model.complete("one, two, three, four,", { ...steady, stopStrings: [stop] });
  assert.equal(content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(stats.stopReason, "stopStringFound");
});

test("tokens", async () => {
  const text = "Hello, world! Grüße aus Köln 🙂";
  const tokens = await model.tokenize(text);
  assert.ok(tokens.every(Number.isInteger));
  assert.equal(await model.countTokens(text), tokens.length);
});

test("structured output", async () => {
  const structured = z.object({ colour: z.enum(["red", "green", "blue"]), count: z.number().int().min(1).max(9) });
  const { parsed } = await model.respond("Choose a colour and a number.", { structured, maxTokens: 100 });
  assert.deepEqual(Object.keys(parsed), ["colour", "count"]);
  assert.ok(structured.safeParse(parsed).success);
});

test("cancel", async () => {
  const prediction = model.complete("Once upon a time", { onFirstToken: () => prediction.cancel() });
  assert.equal((await prediction.result()).stats.stopReason, "userStopped");
});

test("four at once", async () => {
  const results = await Promise.all(["a", "b", "c", "d"].map((text) => model.respond(text, steady)));
  for (const { content, stats } of results) {
    assert.ok(content.trim());
    assert.ok(stats.predictedTokensCount >= 1);
  }
});

test("unload", async () => {
  await model.unload();
  assert.ok((await client.llm.listLoaded()).every(({ identifier }) => identifier !== "mine"));
});
