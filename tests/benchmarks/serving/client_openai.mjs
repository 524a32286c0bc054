// The openai client of Node against a server: `node client_openai.mjs URL MODEL KEY`, where `NODE_PATH` has it.
import assert from "node:assert";
import { createRequire } from "node:module";

// An import statement does not look at NODE_PATH.
const { default: OpenAI } = createRequire(import.meta.url)("openai");
const [url, model, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const common = { model, messages: [{ role: "user", content: "What is the capital of France?" }], temperature: 0 };
const city = { type: "object", properties: { city: { enum: ["Paris", "Oslo"] } }, required: ["city"] };

const checks = {
  async chat() {
    const answer = await client.chat.completions.create({ ...common, max_tokens: 16 });
    assert(answer.usage.completion_tokens > 0);
    return answer.choices[0].message.content;
  },
  async stream() {
    const more = { stream: true, stream_options: { include_usage: true } };
    let text = "", usage;
    for await (const chunk of await client.chat.completions.create({ ...common, max_tokens: 16, ...more })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert(text && usage);
    return text;
  },
  async tool() {
    const tools = [{ type: "function", function: { name: "weather", description: "The weather.", parameters: city } }];
    const fields = { ...common, tools, tool_choice: "required", max_tokens: 120 };
    const call = (await client.chat.completions.create(fields)).choices[0].message.tool_calls[0].function;
    assert(["Paris", "Oslo"].includes(JSON.parse(call.arguments).city));
    return call.name + call.arguments;
  },
  async json_schema() {
    const response_format = { type: "json_schema", json_schema: { name: "place", schema: city } };
    const answer = await client.chat.completions.parse({ ...common, response_format, max_tokens: 120 });
    const text = answer.choices[0].message.content;
    assert(["Paris", "Oslo"].includes(JSON.parse(text).city));
    return text;
  },
  async error() {
    try {
      await client.chat.completions.create({ ...common, temperature: -1 });
    } catch (refused) {
      assert(refused instanceof OpenAI.BadRequestError && refused.param === "temperature", String(refused));
      return refused.message;
    }
    throw new Error("a temperature of -1 was not refused");
  },
};

for (const [name, check] of Object.entries(checks)) {
  let verdict = "ok", seen;
  try {
    seen = await check();
  } catch (error) {
    [verdict, seen, process.exitCode] = ["FAILED", String(error), 1];
  }
  console.log(`${name}\t${verdict}\t${seen.replace(/\s+/g, " ").slice(0, 150)}`);
}
