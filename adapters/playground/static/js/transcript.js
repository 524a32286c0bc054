/** Shows the conversation, and changes it: edit, delete, retry, choose. */

import { told } from "./api.js";
import { button, el, setText, show } from "./dom.js";
import { textOf } from "./conversation.js";

export class Transcript {
  /** `acts` has `retry(at)`, `inspect(answer)`, `pick(answer)` and `changed()`. */
  constructor(node, conversation, acts) {
    Object.assign(this, { node, conversation, acts, views: new Map() });
  }

  render() {
    this.views.clear();
    const focused = this.node.contains(document.activeElement);
    const turns = this.conversation.turns.map((turn, at) =>
      turn.message ? this.message(turn, at) : this.answers(turn, at),
    );
    show(
      this.node,
      turns.length
        ? turns
        : el("p", { class: "empty" }, "Say something. A field of the settings is sent only if you set it."),
    );
    if (focused) this.node.focus({ preventScroll: true });
    this.end();
  }

  /** Shows what came since. */
  update(answer) {
    const stick = this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < 80;
    this.views.get(answer)?.();
    if (stick) this.end();
  }

  end() {
    this.node.scrollTop = this.node.scrollHeight;
  }

  message(turn, at) {
    const { role } = turn.message;
    const text = el("div", { class: "text" }, textOf(turn.message));
    const tools = this.tools(role, at, () =>
      this.edit(article, textOf(turn.message), (now) => (turn.message = { ...turn.message, content: now })),
    );
    const article = el(
      "article",
      { class: `turn ${role}`, "aria-label": `${role} message` },
      el("header", {}, el("span", { class: "role" }, role), tools),
      text,
    );
    return article;
  }

  tools(what, at, edit) {
    const retry = () => this.acts.retry(what === "answer" ? at : at + 1);
    const remove = () => {
      this.conversation.remove(at);
      this.acts.changed();
    };
    const named = (text, act) => button(text, act, { class: "quiet", "aria-label": `${text} ${what} ${at + 1}` });
    return el(
      "span",
      { class: "tools" },
      edit ? named("Edit", edit) : null,
      named("Retry", retry),
      named("Delete", remove),
    );
  }

  edit(article, text, save) {
    const box = el("textarea", { class: "editor", rows: 4, "aria-label": "Edit message" });
    box.value = text;
    const done = () => {
      save(box.value);
      this.acts.changed();
    };
    const keys = (event) => {
      if (event.key === "Escape") this.acts.changed();
      else if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      else done();
      event.preventDefault();
      event.stopPropagation();
    };
    box.addEventListener("keydown", keys);
    const line = el(
      "div",
      { class: "line" },
      button("Save", done, { class: "primary" }),
      button("Cancel", () => this.acts.changed()),
    );
    show(article, box, line);
    box.focus();
  }

  answers(turn, at) {
    const sides = Object.entries(turn.answers);
    const columns = sides.map(([side, answer]) => this.column(answer, at, sides.length > 1 ? side : null));
    return el("div", { class: `answers ${sides.length > 1 ? "pair" : ""}` }, ...columns);
  }

  column(answer, at, side) {
    const choices = el("div", { class: "choices" });
    const note = el("p", { class: "note" });
    const problem = el("p", { class: "problem", role: "alert", hidden: true });
    const edit = () =>
      this.edit(
        article,
        answer.choices[answer.chosen]?.content ?? "",
        (now) => (answer.choice(answer.chosen).content = now),
      );
    const inspect = button("Inspect", () => this.acts.inspect(answer), {
      class: "quiet",
      "aria-label": `Inspect answer ${at + 1} ${side ?? ""}`,
    });
    const head = el(
      "header",
      {},
      el("span", { class: "role" }, side ? `answer ${side}` : "answer"),
      el("span", { class: "tools" }, inspect),
      this.tools("answer", at, edit),
    );
    const article = el(
      "article",
      { class: "turn answer", "aria-label": side ? `answer ${side}` : "answer" },
      head,
      choices,
      problem,
      note,
    );
    const parts = [];
    const update = () => {
      answer.choices.forEach((choice, index) => (parts[index] ??= this.choice(answer, index, choices))(choice));
      article.dataset.state = answer.state;
      setText(note, stateOf(answer));
      problem.hidden = !answer.error;
      setText(problem, answer.error ? told(answer.error) : "");
      choices.classList.toggle("many", answer.choices.length > 1);
    };
    this.views.set(answer, update);
    update();
    return article;
  }

  /** Adds one of `n` choices; returns what shows its state. */
  choice(answer, index, parent) {
    const thought = el("div", { class: "thought" });
    const reasoning = el("details", { class: "reasoning", hidden: true }, el("summary", {}, "Reasoning"), thought);
    const text = el("div", { class: "text" });
    const calls = el("pre", { class: "calls", hidden: true, "aria-label": "Tool calls" });
    const pick = () => {
      answer.chosen = index;
      this.acts.pick(answer);
      this.acts.changed();
    };
    const radio = el("input", {
      type: "radio",
      name: `choice-${++ids}`,
      checked: answer.chosen === index,
      on: { change: pick },
    });
    const label = el("label", { class: "pick" }, radio, `choice ${index}`);
    const end = el("span", { class: "finish" });
    parent.append(el("section", { class: "choice", "data-choice": index }, label, reasoning, text, calls, end));
    return (choice) => {
      setText(text, choice.content);
      setText(thought, choice.reasoning);
      reasoning.hidden = !choice.reasoning;
      calls.hidden = !choice.calls.length;
      setText(calls, choice.calls.length ? JSON.stringify(choice.calls, null, 2) : "");
      setText(
        end,
        choice.finish ? `${choice.finish}${choice.stop === null ? "" : ` at ${JSON.stringify(choice.stop)}`}` : "",
      );
    };
  }
}

let ids = 0;

function stateOf(answer) {
  if (answer.state === "waiting") return "waiting for the first token";
  if (answer.state === "running") return "writing";
  const counts = answer.usage ? `${answer.usage.prompt_tokens} + ${answer.usage.completion_tokens} tokens, ` : "";
  return `${answer.state === "done" ? "" : `${answer.state}, `}${counts}${answer.seconds.toFixed(2)} s`;
}
