/** What was said: messages as the API has them, and turns with an answer for each side. */

export class Conversation {
  constructor() {
    this.system = "";
    this.turns = []; // {message}, or {answers: {A, B}}
  }

  /** The messages to send for `side`, up to the turn number `end`. */
  messages(side, end = this.turns.length) {
    const first = this.system.trim() ? [{ role: "system", content: this.system }] : [];
    const said = this.turns.slice(0, end).map((turn) => turn.message ?? of(turn, side));
    return [...first, ...said.filter(Boolean)];
  }

  /** Takes messages over, as from a request that was pasted. */
  load(messages) {
    const [first, ...rest] = messages;
    const plain = first?.role === "system" && typeof first.content === "string";
    this.system = plain ? first.content : "";
    this.turns = (plain ? rest : messages).map((message) => ({ message }));
  }

  /** Nothing but what stands before the turn number `at`. */
  cut(at) {
    this.turns.length = at;
  }

  remove(at) {
    this.turns.splice(at, 1);
  }
}

function of(turn, side) {
  return (turn.answers[side] ?? turn.answers.A)?.message;
}

/** The text of a message; what is no text is shown as JSON. */
export function textOf(message) {
  if (typeof message.content === "string" && !message.tool_calls) return message.content;
  return JSON.stringify(message.content && !message.tool_calls ? message.content : message, null, 2);
}
