/** The JSON view: what would be sent, as JSON or as a program, and what was sent and received. */

import { address, told } from "./api.js";
import { button, copyText, el, show } from "./dom.js";
import { parseJson, toJson } from "./json.js";
import { curl, javascript, python } from "./snippets.js";

const URL_ = address("v1/chat/completions");
const FORMS = {
  JSON: (body) => toJson(body, 2),
  curl: (body) => curl(body, URL_),
  Python: (body, model) => python(body, URL_, model),
  JS: (body) => javascript(body, URL_),
};

export class Wire {
  /** `acts` has `body()`, `model()`, `load(request)` and `status(text)`. */
  constructor(node, acts) {
    this.acts = acts;
    this.form = "JSON";
    this.code = el("pre", { class: "code", id: "snippet", tabindex: 0, "aria-label": "The request" });
    this.past = el("div", { id: "past" });
    show(
      node,
      el("h3", {}, "The next request"),
      this.bar(),
      this.code,
      this.importer(),
      el("h3", {}, "Sent and received"),
      this.past,
    );
    this.show([]);
  }

  bar() {
    const forms = Object.keys(FORMS).map((form) =>
      button(form, () => this.choose(form), {
        class: "quiet form",
        "data-form": form,
        "aria-pressed": String(form === this.form),
      }),
    );
    this.forms = el("div", { class: "segments", role: "group", "aria-label": "Show the request as" }, ...forms);
    return el(
      "div",
      { class: "line" },
      this.forms,
      button("Copy", () => copyText(this.code.textContent, this.acts.status), { id: "copy" }),
    );
  }

  choose(form) {
    this.form = form;
    for (const node of this.forms.children) node.setAttribute("aria-pressed", node.dataset.form === form);
    this.update();
  }

  /** The next request has changed. */
  update() {
    try {
      this.code.textContent = FORMS[this.form](this.acts.body(), this.acts.model());
    } catch (error) {
      this.code.textContent = told(error);
    }
  }

  /** A whole request is taken over from JSON: messages, and every field. */
  importer() {
    const box = el("textarea", { id: "import", rows: 4, class: "code", "aria-label": "A request as JSON" });
    const problem = el("p", { class: "problem", role: "alert" });
    const take = () => {
      try {
        this.acts.load(parseJson(box.value));
        show(problem);
        this.acts.status("The request is loaded.");
      } catch (error) {
        show(problem, error.message);
      }
    };
    return el(
      "details",
      { class: "import" },
      el("summary", {}, "Load a request from JSON"),
      box,
      button("Load", take, { id: "load" }),
      problem,
    );
  }

  /** What went over the wire for these answers. */
  show(answers) {
    const parts = answers.map((answer) => exchange(answer, answers.length > 1));
    show(this.past, parts.length ? parts : el("p", { class: "empty" }, "Nothing yet."));
  }
}

function exchange(answer, named) {
  const title = named ? ` by ${answer.side}` : "";
  const sent = el(
    "details",
    { open: true },
    el("summary", {}, `Sent${title}`),
    el("pre", { class: "code sent", tabindex: 0 }, pretty(answer.sent)),
  );
  const count = answer.streamed ? `${answer.events.length} events` : "one body";
  const items = answer.events.map((text) => el("pre", { class: "code event" }, answer.streamed ? text : pretty(text)));
  const head = `Received${title}: ${[answer.status, count].filter(Boolean).join(", ")}`;
  const received = el("details", { class: "received" }, el("summary", {}, head), ...items);
  return el("div", { class: "exchange", "data-side": answer.side }, sent, received);
}

function pretty(text) {
  try {
    return toJson(parseJson(text), 2);
  } catch {
    return text;
  }
}
