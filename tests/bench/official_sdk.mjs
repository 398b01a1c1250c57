// The official JavaScript SDK writing an answer as it streams: `node official_sdk.mjs PORT PROMPT`.

import { LMStudioClient } from "@lmstudio/sdk";

const [port, prompt] = process.argv.slice(2);
const client = new LMStudioClient({ baseUrl: `ws://127.0.0.1:${port}` });
const model = await client.llm.model("echo");
for await (const { content } of model.respond(prompt)) {
  process.stdout.write(content);
}
process.stdout.write("\n");
process.exit(0);
