/** The page at work: a prompt goes to each side, answers come back, the inspector shows them. */

import { told } from "./api.js";
import { Conversation } from "./conversation.js";
import { $, button, el, setText } from "./dom.js";
import { toJson } from "./json.js";
import { showPlan } from "./plan.js";
import { Presets } from "./presets.js";
import { Sender } from "./sender.js";
import { toolbar } from "./settings.js";
import { makeTabs } from "./tabs.js";
import { showTokens } from "./tokens.js";
import { Transcript } from "./transcript.js";
import { Wire } from "./wire.js";

export class Page {
  constructor(sides, model, status, pane) {
    Object.assign(this, { sides, model, status, pane, inspected: null });
    this.conversation = new Conversation();
    this.sender = new Sender((answer) => this.seen(answer));
    const acts = {
      retry: (at) => this.answer(at),
      inspect: (answer) => this.inspect(answer, true),
      pick: (answer) => this.inspect(answer),
      changed: () => this.redraw(),
    };
    this.transcript = new Transcript($("#transcript"), this.conversation, acts);
    this.presets = new Presets($("#presets"), {
      values: () => sides.current.values(),
      apply: (values) => sides.current.write(values),
      status,
    });
    this.wire = new Wire($("#json"), {
      body: () => this.body(sides.edited),
      model: () => model,
      load: (request) => this.load(request),
      status,
    });
    this.tools = toolbar(() => sides.current);
    $("#toolbar").append(this.tools.node);
    this.open = makeTabs($("#views"), (id) => id === "plan" && this.plan());
    this.bind();
    this.inspect(null);
    this.redraw();
  }

  bind() {
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("#prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    addEventListener("keydown", (event) => event.key === "Escape" && this.sender.busy && this.sender.stop());
    $("#stop").addEventListener("click", () => this.sender.stop());
    $("#clear").addEventListener("click", () => this.load({ messages: this.conversation.messages("A", 0) }, false));
    $("#explain").addEventListener("click", () => {
      this.pane("inspector");
      this.plan();
    });
    for (const id of ["#compare", "#side-a", "#side-b"]) $(id).addEventListener("click", () => this.tools.apply());
    for (const id of ["#system", "#prompt", "#stream"]) $(id).addEventListener("input", () => this.changed());
  }

  /** The request of `side`, as it would be sent now; throws what is wrong in a field. */
  body(side, end) {
    const fields = this.sides.all[side].values();
    const said = this.conversation.messages(side, end);
    const typed = end === undefined && $("#prompt").value ? [{ role: "user", content: $("#prompt").value }] : [];
    const stream = $("#stream").checked ? { stream: true } : {};
    return { ...fields, messages: [...said, ...typed], ...stream };
  }

  send() {
    if (this.sender.busy) return;
    const text = $("#prompt").value;
    if (text) this.conversation.turns.push({ message: { role: "user", content: text } });
    if (!this.answer(this.conversation.turns.length) && text) this.conversation.turns.pop();
    else $("#prompt").value = "";
    this.redraw();
  }

  /** Asks each side for an answer in place of the turn number `end` and all behind. False if a field is wrong. */
  answer(end) {
    if (this.sender.busy) return false;
    try {
      const bodies = this.sides.active.map((side) => [side, this.body(side, end)]);
      const answers = bodies.map(([side, body]) => [side, this.sender.start(side, toJson(body), Boolean(body.stream))]);
      this.conversation.cut(end);
      this.conversation.turns.push({ answers: Object.fromEntries(answers) });
      this.status("Waiting for the answer.");
      this.inspect(answers[0][1]);
      this.redraw();
      return true;
    } catch (error) {
      this.refused(error, error.side ?? this.sides.edited);
      return false;
    }
  }

  /** A piece of an answer came, or its end. */
  seen(answer) {
    this.transcript.update(answer);
    if (answer.over) {
      const text = answer.choices[answer.chosen]?.content ?? "";
      if (answer.error) this.refused(answer.error, answer.side);
      else this.status(`The answer is ${answer.state}: ${text}`);
      this.changed();
    }
    if (answer.over && answer === this.inspected) this.inspect(answer);
    this.busy();
  }

  refused(error, side) {
    this.status(`Error: ${told(error)}`);
    const field = this.sides.all[side].named(error.param);
    if (!field) return;
    if (this.sides.edited !== side) this.sides.edit(side);
    this.tools.clear();
    this.sides.current.point(field, error.message);
  }

  inspect(answer, open = false) {
    this.inspected = answer;
    showTokens($("#tokens"), answer?.choices[answer.chosen], this.logprobs());
    this.wire.show(answer ? this.beside(answer) : []);
    if (open) this.pane("inspector");
  }

  /** Both answers of a comparison, or the one. */
  beside(answer) {
    const turn = this.conversation.turns.find((each) => each.answers && Object.values(each.answers).includes(answer));
    return Object.values(turn?.answers ?? { [answer.side]: answer });
  }

  /** What turns on log-probabilities for the side that is edited. */
  logprobs() {
    const counts = [5, 10, 20].map((count) => el("option", { value: count }, `${count} alternatives`));
    const count = el("select", { id: "alternatives", "aria-label": "How many alternatives" }, ...counts);
    const turnOn = () => {
      const { fields } = this.sides.current;
      fields.get("logprobs")?.write(true);
      fields.get("top_logprobs")?.write(Number(count.value));
      this.status("Log-probabilities are on for the next answer.");
    };
    return el("div", { class: "line" }, button("Turn on log-probabilities", turnOn, { id: "turn-on" }), count);
  }

  plan() {
    this.open && $("#plan").dataset.open === undefined && this.open("plan");
    const side = this.sides.edited;
    try {
      const body = this.body(side);
      showPlan($("#plan-view"), body, (error) => this.refused(error, side));
    } catch (error) {
      this.refused(error, side);
    }
  }

  /** Takes a whole request over: messages and fields. */
  load(request, fields = true) {
    if (request === null || typeof request !== "object" || !Array.isArray(request.messages))
      throw new Error("a request has messages");
    const { messages, stream, ...values } = request;
    if (fields) {
      this.sides.current.write(values);
      $("#stream").checked = Boolean(stream);
    }
    this.sender.stop();
    this.conversation.load(messages);
    $("#system").value = this.conversation.system;
    this.inspect(null);
    this.redraw();
  }

  redraw() {
    this.transcript.render();
    this.changed();
  }

  /** Settings or texts have changed: so has the next request. */
  changed() {
    this.conversation.system = $("#system").value;
    this.wire.update();
    this.sides.differences($("#differences"));
    this.busy();
  }

  busy() {
    $("#send").hidden = this.sender.busy;
    $("#stop").hidden = !this.sender.busy;
    setText($("#send"), $("#prompt").value || !this.conversation.turns.length ? "Send" : "Go on");
  }
}
