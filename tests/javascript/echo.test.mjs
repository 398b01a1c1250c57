// The calls of the official JavaScript SDK, on the echo models of `lm serve`, whose address is in LM_SERVE; without an
// address the SDK looks for the server.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { after, test } from "node:test";
import { Chat, LMStudioClient, rawFunctionTool, tool } from "@lmstudio/sdk";
import { z } from "zod";

const TEXT = "What is  the meaning\nof life? ";
const WORDS = ["What", " is", "  the", " meaning", "\nof", " life?", " "];
const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg==";

const client = new LMStudioClient({ baseUrl: process.env.LM_SERVE });
const echo = await client.llm.model("echo");
after(() => client[Symbol.asyncDispose]());

/** The text of all fragments, as they arrive. */
async function streamed(prediction) {
  const contents = [];
  for await (const fragment of prediction) contents.push(fragment.content);
  return contents;
}

test("version", async () => {
  const { version, build } = await client.system.getLMStudioVersion();
  assert.match(version, /^\d+\.\d+\.\d+/);
  assert.equal(typeof build, "number");
});

test("downloaded models", async () => {
  const all = await client.system.listDownloadedModels();
  const models = await client.system.listDownloadedModels("llm");
  assert.ok(models.every((model) => model.type === "llm" && model.path && model.displayName));
  assert.deepEqual(models.map((model) => model.modelKey), ["echo", "echo-jit"]);
  const others = await client.system.listDownloadedModels("embedding");
  assert.equal(all.length, models.length + others.length);
});

test("loaded models", async () => {
  const [model] = await client.llm.listLoaded();
  assert.equal(model.identifier, "echo");
  assert.equal(model.modelKey, "echo");
  assert.ok(Array.isArray(await client.embedding.listLoaded()));
});

test("load on first use", async () => {
  const model = await client.llm.model("echo-jit", { config: { contextLength: 1024 }, ttl: 60, verbose: false });
  assert.equal(model.identifier, "echo-jit");
  assert.equal(await model.getContextLength(), 1024);
  assert.equal((await client.llm.model("echo-jit", { verbose: false })).identifier, "echo-jit");
  await model.unload();
});

test("load with an identifier, config and progress", async () => {
  const progress = [];
  const model = await client.llm.load("echo-jit", {
    identifier: "mine",
    config: { contextLength: 512 },
    verbose: false,
    onProgress: (value) => progress.push(value),
  });
  assert.equal(model.identifier, "mine");
  assert.equal(model.modelKey, "echo-jit");
  assert.deepEqual(progress, progress.toSorted((a, b) => a - b));
  assert.equal(progress.at(0), 0);
  assert.equal(progress.at(-1), 1);
  assert.equal(await model.getContextLength(), 512);
  assert.equal((await model.getLoadConfig()).contextLength, 512);
  const info = await model.getModelInfo();
  assert.equal(info.identifier, "mine");
  assert.equal(info.contextLength, 512);
  assert.equal((await model.respond("hi")).content, "hi");
  await model.unload();
  assert.ok((await client.llm.listLoaded()).every(({ identifier }) => identifier !== "mine"));
  await assert.rejects(model.respond("hi").result(), { title: "The model is unloaded" });
});

test("further instances", async () => {
  const second = await client.llm.load("echo", { verbose: false });
  assert.equal(second.identifier, "echo:2");
  await assert.rejects(client.llm.load("echo", { identifier: "echo", verbose: false }), /already exists/);
  await client.llm.unload(second.identifier);
});

test("a load that is cancelled", async () => {
  const controller = new AbortController();
  const onProgress = () => controller.abort();
  await assert.rejects(client.llm.load("echo-jit", { signal: controller.signal, verbose: false, onProgress }));
  assert.deepEqual((await client.llm.listLoaded()).map(({ identifier }) => identifier), ["echo"]);
});

test("any loaded model", async () => {
  assert.equal((await client.llm.model()).identifier, "echo");
  assert.equal((await client.llm.createDynamicHandle({}).getModelInfo()).modelKey, "echo");
});

test("respond, with all callbacks", async () => {
  const seen = [];
  const prediction = echo.respond(TEXT, {
    onPromptProcessingProgress: (progress) => seen.push(progress),
    onFirstToken: () => seen.push("first token"),
    onPredictionFragment: ({ content }) => seen.push(content),
    onMessage: (message) => seen.push([message.getRole(), message.getText()]),
  });
  assert.deepEqual(await streamed(prediction), WORDS);
  const result = await prediction.result();
  assert.equal(result.content, TEXT);
  assert.equal(result.stats.stopReason, "eosFound");
  assert.equal(result.stats.predictedTokensCount, WORDS.length);
  assert.equal(result.stats.totalTokensCount, result.stats.promptTokensCount + WORDS.length);
  assert.equal(result.modelInfo.identifier, "echo");
  const progress = seen.filter((entry) => typeof entry === "number");
  assert.equal(progress.at(0), 0);
  assert.equal(progress.at(-1), 1);
  assert.deepEqual(seen.slice(progress.length), ["first token", ...WORDS, ["assistant", TEXT]]);
});

test("a conversation", async () => {
  const chat = Chat.from([{ role: "system", content: "You are terse." }]);
  for (const text of ["one two", "three"]) {
    chat.append("user", text);
    const result = await echo.respond(chat, { onMessage: (message) => chat.append(message) });
    assert.equal(result.content, text);
  }
  assert.equal(chat.length, 5);
});

test("options", async () => {
  const result = await echo.respond(TEXT, { maxTokens: 3, temperature: 0.25, topPSampling: 0.5, minPSampling: false });
  assert.equal(result.content, "What is  the");
  assert.equal(result.stats.stopReason, "maxPredictedTokensReached");
  const stopped = await echo.respond(TEXT, { stopStrings: ["ing\nof"] });
  assert.equal(stopped.content, "What is  the mean");
  assert.equal(stopped.stats.stopReason, "stopStringFound");
  assert.equal((await echo.respond("word ".repeat(20), { preset: "short" })).stats.predictedTokensCount, 8);
});

test("reasoning", async () => {
  const result = await echo.respond("<think>why</think>because");
  assert.equal(result.reasoningContent.trim(), "why");
  assert.equal(result.nonReasoningContent, "because");
});

test("complete", async () => {
  const prediction = echo.complete("My name is", { maxTokens: 100 });
  assert.deepEqual(await streamed(prediction), ["My", " name", " is"]);
  assert.equal((await prediction).stats.promptTokensCount, 3);
});

test("cancel", async () => {
  const long = "word ".repeat(100_000);
  const cancelled = echo.respond(long, { onFirstToken: () => cancelled.cancel() });
  assert.equal((await cancelled.result()).stats.stopReason, "userStopped");
  const controller = new AbortController();
  const aborted = echo.respond(long, { signal: controller.signal, onFirstToken: () => controller.abort() });
  assert.equal((await aborted.result()).stats.stopReason, "userStopped");
  assert.equal((await echo.respond("still there")).content, "still there");
});

test("structured output", async () => {
  const book = z.object({ title: z.string(), year: z.number().int() });
  assert.deepEqual((await echo.respond("The Hobbit", { structured: book })).parsed, { title: "", year: 0 });
  const jsonSchema = { type: "object", properties: { n: { type: "number", minimum: 2 } }, required: ["n"] };
  const result = await echo.respond("x", { structured: { type: "json", jsonSchema } });
  assert.deepEqual(JSON.parse(result.content), { n: 2 });
});

test("act", async () => {
  const add = tool({
    name: "add",
    description: "Adds two numbers",
    parameters: { a: z.number(), b: z.number() },
    implementation: ({ a, b }) => a + b,
  });
  const greet = rawFunctionTool({
    name: "greet",
    description: "Greets",
    parametersJsonSchema: { type: "object", properties: {} },
    implementation: () => "hello",
  });
  const seen = [];
  const names = [];
  const rounds = [];
  const chat = Chat.empty();
  chat.append("user", 'call add {"a": 2, "b": 3}\ncall greet');
  const { rounds: count } = await echo.act(chat, [add, greet], {
    onMessage: (message) => seen.push(message),
    onRoundStart: (round) => rounds.push(round),
    onToolCallRequestNameReceived: (round, call, name) => names.push(name),
  });
  assert.equal(count, 2);
  assert.deepEqual(rounds, [0, 1]);
  assert.deepEqual(names, ["add", "greet"]);
  assert.deepEqual(seen.map((message) => message.getRole()), ["assistant", "tool", "assistant"]);
  assert.deepEqual(seen[0].getToolCallRequests().map((request) => request.arguments), [{ a: 2, b: 3 }, {}]);
  assert.deepEqual(seen[1].getToolCallResults().map((result) => result.content), ["5", '"hello"']);
  assert.equal(seen[2].getText(), '5\n"hello"');
});

test("tokens and the prompt template", async () => {
  assert.equal((await echo.tokenize("a b c")).length, 3);
  assert.deepEqual((await echo.tokenize(["a", "b c"])).map((tokens) => tokens.length), [1, 2]);
  assert.equal(await echo.countTokens("a b c"), 3);
  const chat = Chat.from([{ role: "system", content: "S" }, { role: "user", content: "U" }]);
  assert.equal(await echo.applyPromptTemplate(chat), "[system]\nS\n[user]\nU\n[assistant]\n");
});

test("embeddings", async () => {
  const model = await client.embedding.model("echo-embed", { verbose: false });
  const [{ embedding: sky }, { embedding: sea }] = await model.embed(["the sky is blue", "the sea is green"]);
  assert.equal(sky.length, sea.length);
  assert.notDeepEqual(sky, sea);
  assert.deepEqual((await model.embed("the sky is blue")).embedding, sky);
  assert.equal(await model.countTokens("the sky"), 2);
  assert.equal((await model.tokenize("the sky")).length, 2);
  assert.equal((await model.getLoadConfig()).contextLength, await model.getContextLength());
  await model.unload();
  assert.deepEqual(await client.embedding.listLoaded(), []);
});

test("files and images", async () => {
  await writeFile("pixel.png", Buffer.from(PIXEL, "base64"));
  const image = await client.files.prepareImage("pixel.png");
  const other = await client.files.prepareImageBase64("pixel.png", PIXEL);
  for (const handle of [image, other]) {
    assert.equal(handle.type, "image");
    assert.equal(handle.sizeBytes, Buffer.from(PIXEL, "base64").length);
    const chat = Chat.from([{ role: "user", content: "What is this?", images: [handle] }]);
    assert.equal((await echo.respond(chat)).content, "What is this?");
  }
  assert.notEqual(image.identifier, other.identifier);
  const text = await client.files.prepareFileBase64("notes.txt", Buffer.from("raw data").toString("base64"));
  assert.equal(text.type, "text/plain");
});

test("several at once, on one connection", async () => {
  const texts = Array.from({ length: 8 }, (_, number) => `${number} `.repeat(50 * (number + 1)).trim());
  const results = await Promise.all(texts.map((text) => echo.respond(text)));
  assert.deepEqual(results.map((result) => result.content), texts);
});

test("errors", async () => {
  const missing = { title: "No loaded model matches the query" };
  await assert.rejects(client.llm.model("nope", { verbose: false }), /echo-jit/);
  await assert.rejects(client.llm.createDynamicHandle("nope").respond("x").result(), missing);
  assert.equal(await client.llm.createDynamicHandle("nope").getModelInfo(), undefined);
  await assert.rejects(client.llm.unload("nope"), missing);
  await assert.rejects(echo.respond("x", { preset: "nope" }).result(), /nope/);
});
