/** Sends requests, reads the answers, and stops them. */

import { Answer } from "./answer.js";
import { call, events } from "./api.js";

export class Sender {
  /** `seen(answer)` is called for each piece, and in the end. */
  constructor(seen) {
    this.seen = seen;
    this.running = new Set();
  }

  get busy() {
    return this.running.size > 0;
  }

  /** Sends `body`, a JSON text, for the answer that is returned at once. */
  start(side, body, stream) {
    const answer = new Answer(side, body);
    const stop = new AbortController();
    const job = { answer, stop };
    this.running.add(job);
    answer.finished = this.run(job, body, stream).finally(() => {
      this.running.delete(job);
      this.seen(answer);
    });
    return answer;
  }

  /** Closes the connections, so that the server stops generating; what came stays. */
  stop() {
    for (const job of this.running) {
      job.answer.end("stopped");
      job.stop.abort();
    }
  }

  async run({ answer, stop }, body, stream) {
    try {
      const response = await call("v1/chat/completions", { body, signal: stop.signal });
      answer.status = `${response.status} · ${response.headers.get("x-request-id") ?? ""}`;
      if (!stream) answer.receive(await response.text());
      else await this.follow(response, answer);
      answer.end("done");
    } catch (error) {
      if (error.status) {
        answer.status = String(error.status);
        answer.events.push(error.text);
      }
      answer.end("failed", error.name === "TypeError" ? new Error("the server cannot be reached") : error);
    }
  }

  async follow(response, answer) {
    for await (const data of events(response)) {
      answer.receive(data);
      this.paint(answer);
    }
    if (answer.events.at(-1) !== "[DONE]") throw new Error("the answer broke off");
  }

  /** Once a frame, however fast tokens come. */
  paint(answer) {
    if (answer.waits) return;
    answer.waits = true;
    requestAnimationFrame(() => {
      answer.waits = false;
      this.seen(answer);
    });
  }
}
