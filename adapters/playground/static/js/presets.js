/** Settings under a name: some that come with the page, and the reader's own, kept by the browser. */

import { told } from "./api.js";
import { button, el, show } from "./dom.js";
import { parseJson, toJson } from "./json.js";

const KEY = "chatplan.presets";

const GIVEN = {
  Greedy: { temperature: 0 },
  Creative: { temperature: 1.1, min_p: 0.05, frequency_penalty: 0.3, max_tokens: 300 },
  Reproducible: { temperature: 0.8, seed: 7 },
  "Three choices": { n: 3, temperature: 0.9, seed: 1, max_tokens: 60 },
  "JSON answer": {
    temperature: 0,
    guided_json: {
      type: "object",
      properties: { name: { type: "string", maxLength: 30 }, age: { type: "integer", minimum: 0, maximum: 120 } },
      required: ["name", "age"],
      additionalProperties: false,
    },
  },
  Choice: { temperature: 0, guided_choice: ["positive", "neutral", "negative"] },
  "Regular expression": { guided_regex: "[0-9]{3}-[0-9]{4}", seed: 1 },
  "Log-probabilities": { temperature: 0, logprobs: true, top_logprobs: 5, max_tokens: 60 },
  "Beam search": { use_beam_search: true, n: 3, max_tokens: 40 },
  "Less repetition": { repetition_penalty: 1.15, presence_penalty: 0.4 },
  "Long context": { truncate_prompt_tokens: 4096, max_tokens: 512, temperature: 0.3 },
};

export class Presets {
  /** `acts` has `values()`, which may throw, `apply(values)` and `status(text)`. */
  constructor(node, acts) {
    this.acts = acts;
    this.list = el("select", { id: "preset", "aria-label": "Preset", on: { change: () => this.apply() } });
    this.name = el("input", {
      type: "text",
      id: "preset-name",
      placeholder: "Name",
      "aria-label": "Name of a new preset",
    });
    this.drop = button("Delete", () => this.remove(), { class: "quiet", id: "preset-delete", hidden: true });
    const keep = button("Save", () => this.save(), { class: "quiet", id: "preset-save" });
    const own = el(
      "details",
      {},
      el("summary", {}, "Save these settings as a preset"),
      el("div", { class: "line" }, this.name, keep),
    );
    show(node, el("div", { class: "line" }, this.list, this.drop), own);
    this.render();
  }

  get own() {
    try {
      return parseJson(localStorage.getItem(KEY)) ?? {};
    } catch {
      return {};
    }
  }

  write(presets) {
    localStorage.setItem(KEY, toJson(presets));
    this.render();
  }

  render(selected = "") {
    const group = (label, presets) =>
      el(
        "optgroup",
        { label },
        ...Object.keys(presets).map((name) => el("option", { value: `${label}:${name}` }, name)),
      );
    const own = Object.keys(this.own).length ? [group("Own", this.own)] : [];
    show(this.list, el("option", { value: "" }, "Presets…"), group("Given", GIVEN), ...own);
    this.list.value = selected;
    this.drop.hidden = !selected.startsWith("Own:");
  }

  apply() {
    const [kind, ...rest] = this.list.value.split(":");
    this.drop.hidden = kind !== "Own";
    if (!kind) return;
    try {
      this.acts.apply((kind === "Own" ? this.own : GIVEN)[rest.join(":")]);
      this.acts.status(`The preset ${rest.join(":")} is set.`);
    } catch (error) {
      this.acts.status(error.message);
    }
  }

  save() {
    const name = this.name.value.trim();
    if (!name) return this.name.focus();
    try {
      this.write({ ...this.own, [name]: this.acts.values() });
      this.render(`Own:${name}`);
      this.name.value = "";
      this.acts.status(`The preset ${name} is saved.`);
    } catch (error) {
      this.acts.status(told(error));
    }
  }

  remove() {
    const { [this.list.value.slice(4)]: _, ...rest } = this.own;
    this.write(rest);
  }
}
