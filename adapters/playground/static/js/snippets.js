/** The request as a program: curl, Python, JavaScript. The key is read from CHATPLAN_API_KEY, and never written out. */

import { toJson } from "./json.js";

/** What openai.OpenAI().chat.completions.create takes by name; everything else goes into extra_body. */
const OPENAI = new Set(
  (
    "model messages frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n presence_penalty " +
    "response_format seed stop stream stream_options temperature top_p tools tool_choice parallel_tool_calls user " +
    "reasoning_effort"
  ).split(" "),
);

export function curl(body, url) {
  const lines = [
    `curl -sS${body.stream ? "N" : ""} ${shell(url)}`,
    "-H 'Content-Type: application/json'",
    '-H "Authorization: Bearer ${CHATPLAN_API_KEY:-none}"',
    `--data-raw ${shell(toJson(body, 2))}`,
  ];
  return lines.join(" \\\n  ");
}

export function python(body, url, model) {
  const named = { model, ...body };
  const known = Object.entries(named).filter(([name]) => OPENAI.has(name));
  const others = Object.fromEntries(Object.entries(named).filter(([name]) => !OPENAI.has(name)));
  const extra = Object.keys(others).length ? [["extra_body", others]] : [];
  const given = [...known, ...extra].map(([name, value]) => `    ${name}=${literal(value, 1)},\n`).join("");
  const base = url.replace(/\/chat\/completions$/, "");
  const head = "import os\n\nimport openai\n\n";
  const client = `client = openai.OpenAI(base_url=${literal(base)}, api_key=os.environ.get("CHATPLAN_API_KEY", "none"))\n`;
  return `${head}${client}answer = client.chat.completions.create(\n${given})\n${body.stream ? READ_STREAM : READ_WHOLE}`;
}

const READ_WHOLE = "print(answer.model_dump_json(indent=2))\n";
const READ_STREAM = `for chunk in answer:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
`;

export function javascript(body, url) {
  const read = body.stream
    ? "for await (const piece of response.body.pipeThrough(new TextDecoderStream())) console.log(piece);"
    : "console.log(await response.json());";
  return `const response = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",
    Authorization: \`Bearer \${globalThis.process?.env.CHATPLAN_API_KEY ?? "none"}\`,
  },
  body: ${exact(body) ? `JSON.stringify(${toJson(body, 2).replaceAll("\n", "\n  ")})` : JSON.stringify(toJson(body))},
});
${read}
`;
}

/** Whether JavaScript's numbers hold all of it. */
const exact = (body) => toJson(JSON.parse(toJson(body))) === toJson(body);

/** One word for a POSIX shell, whatever is in it. */
export const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A value as Python writes it. JSON's escapes are Python's, too. */
export function literal(value, depth = 0) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return toJson(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const parts = Array.isArray(value)
    ? value.map((item) => literal(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, depth + 1)}`);
  const flat = `${open}${parts.join(", ")}${close}`;
  if (flat.length < 80 && !flat.includes("\n")) return flat;
  const pad = "    ".repeat(depth + 1);
  return `${open}\n${parts.map((part) => `${pad}${part},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
