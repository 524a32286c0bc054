/** One answer: what was sent, what came back, and what the pieces come to. */

import { parseJson } from "./json.js";

export class Answer {
  /** `sent` is the JSON text of the request. */
  constructor(side, sent) {
    Object.assign(this, { side, sent, events: [], choices: [], usage: null, status: null, error: null, chosen: 0 });
    this.state = "waiting"; // then "running"; in the end "done", "stopped" or "failed"
    this.begun = performance.now();
    this.seconds = 0;
  }

  get over() {
    return !["waiting", "running"].includes(this.state);
  }

  /** The data of an event, or the body of a whole answer. Throws the error that it holds. */
  receive(text) {
    this.events.push(text);
    if (text === "[DONE]") return;
    const data = parseJson(text);
    if (data.error)
      throw Object.assign(new Error(data.error.message), { param: data.error.param, code: data.error.code });
    this.state = "running";
    if (data.usage) this.usage = data.usage;
    for (const part of data.choices ?? []) this.add(part, part.delta ?? part.message ?? {});
  }

  add(part, piece) {
    const choice = this.choice(part.index);
    choice.content += piece.content ?? "";
    choice.reasoning += piece.reasoning_content ?? "";
    (piece.tool_calls ?? []).forEach((call, at) => addCall(choice.calls, call, call.index ?? at));
    choice.tokens.push(...(part.logprobs?.content ?? []));
    choice.finish = part.finish_reason ?? choice.finish;
    choice.stop = part.stop_reason ?? choice.stop;
  }

  choice(index) {
    while (this.choices.length <= index)
      this.choices.push({ content: "", reasoning: "", calls: [], tokens: [], finish: null, stop: null });
    return this.choices[index];
  }

  end(state, error = null) {
    if (this.over) return;
    this.state = state;
    this.error = error;
    this.seconds = (performance.now() - this.begun) / 1000;
  }

  /** The chosen choice as a message of the conversation; `null` when nothing came. */
  get message() {
    const choice = this.choices[this.chosen];
    if (!choice) return null;
    const calls = choice.calls.length ? { tool_calls: choice.calls } : {};
    return { role: "assistant", content: choice.content, ...calls };
  }

  get streamed() {
    return this.events.at(-1) === "[DONE]" || this.events.length > 1;
  }
}

function addCall(calls, piece, at) {
  const call = (calls[at] ??= { id: piece.id, type: "function", function: { name: "", arguments: "" } });
  call.function.name += piece.function?.name ?? "";
  call.function.arguments += piece.function?.arguments ?? "";
}
