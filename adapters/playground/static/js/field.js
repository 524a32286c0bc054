/** One field of the request: its control, what it means, and what is wrong with it. */

import { button, el, setText } from "./dom.js";
import { toJson } from "./json.js";
import { control } from "./controls.js";
import { kindsOf, nameOf } from "./schema.js";

export class Field {
  constructor(side, name, property, defs, changed) {
    Object.assign(this, { name, property, changed });
    this.id = `${side}-${name.replace(/\W/g, "-")}`;
    this.forms = kindsOf(property, defs).map(({ kind, shape }, at) => this.form(kind, shape, at));
    this.problem = el("p", { class: "problem", id: `${this.id}-problem`, hidden: true });
    this.reset = button("reset", () => this.clear(), {
      class: "quiet reset",
      "aria-label": `Reset ${name}`,
      hidden: true,
    });
    this.chooser = this.forms.length > 1 ? this.choose() : null;
    this.node = this.layout();
    this.pick(0);
  }

  form(kind, shape, at) {
    const given = this.property.default;
    const unset = given == null || (Array.isArray(given) && !given.length) ? "" : toJson(given).replace(/^"|"$/g, "");
    const [first] = this.property.examples ?? [];
    const example = kind === "string" ? first : first === undefined ? "" : toJson(first);
    const id = at ? `${this.id}-${kind}` : this.id;
    const hints = {
      id,
      name: this.name,
      unset,
      start: typeof given === "number" ? given : undefined,
      example: fits(kind, this.property.examples) ? example : "",
    };
    hints.describedBy = `${this.id}-about ${this.id}-problem`;
    hints.label = at ? `${this.name} as ${nameOf(kind)}` : undefined;
    return { kind, ...control(kind, shape, hints, () => this.touched()) };
  }

  choose() {
    const items = this.forms.map((form, at) => el("option", { value: at }, nameOf(form.kind)));
    const change = () => this.pick(Number(this.chooser.value)) || this.touched();
    return el(
      "select",
      { class: "form", "aria-label": `${this.name}: kind of value`, on: { input: change } },
      ...items,
    );
  }

  layout() {
    const label = el("label", { for: this.id }, this.name);
    const old = this.property.deprecated ? el("span", { class: "tag" }, "older name") : null;
    const about = el(
      "p",
      { class: "about", id: `${this.id}-about` },
      this.property.description ?? "",
      el("span", { class: "owner" }, this.owner()),
    );
    const head = el("div", { class: "head" }, label, old, this.chooser, this.reset);
    const nodes = this.forms.map((form) => form.node);
    return el("div", { class: "field", "data-field": this.name }, head, ...nodes, about, this.problem);
  }

  /** Who answers for the field, and which engines cannot. */
  owner() {
    const plugins = (this.property["x-plugins"] ?? []).join(", ") || "no plugin";
    const here = this.property["x-refused-here"];
    const refused = Object.entries(this.property["x-refused"] ?? {}).map(
      ([engine, why]) => `not with ${engine}: ${why}`,
    );
    return ` Plugin: ${[plugins, here ? `refused here: ${here}` : null, ...refused].filter(Boolean).join("; ")}.`;
  }

  pick(at) {
    this.form_ = this.forms[at];
    this.forms.forEach((form) => (form.node.hidden = form !== this.form_));
    this.node.dataset.kind = this.form_.kind;
    if (this.chooser) this.chooser.value = String(at);
  }

  read() {
    return this.form_.read();
  }

  /** Shows a value, in the first form that it fits; one that fits none is refused by an error. */
  write(value) {
    this.forms.forEach((form) => form.write(undefined));
    let wrong = null;
    for (let at = 0; at < this.forms.length; at++) {
      try {
        this.forms[at].write(value);
        this.pick(at);
        wrong = null;
        break;
      } catch (error) {
        wrong = error;
      }
    }
    this.touched();
    if (wrong) throw new Error(`${this.name}: ${wrong.message}`);
  }

  clear() {
    this.write(undefined);
    this.form_.input.focus();
  }

  get set() {
    return this.form_.input.value !== "" || this.form_.input.validity.badInput;
  }

  touched() {
    let message = "";
    try {
      this.read();
    } catch (error) {
      message = error.message;
    }
    this.complain(message);
    this.reset.hidden = !this.set;
    this.node.classList.toggle("changed", this.set);
    this.changed(this);
  }

  complain(message) {
    setText(this.problem, message);
    this.problem.hidden = !message;
    this.form_.input.toggleAttribute("aria-invalid", Boolean(message));
    if (message) this.form_.input.setAttribute("aria-invalid", "true");
    this.node.classList.toggle("wrong", Boolean(message));
  }
}

function fits(kind, examples) {
  if (!examples?.length) return false;
  return kind === "json" || (kind === "strings" && Array.isArray(examples[0])) || typeof examples[0] === kind;
}
