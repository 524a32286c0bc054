/** All fields of one side: in groups, searched, reset, and read into a request. */

import { $, button, el } from "./dom.js";
import { Field } from "./field.js";
import { groupsOf } from "./schema.js";

export class Settings {
  constructor(side, schema, changed) {
    this.side = side;
    this.changed = changed;
    this.fields = new Map();
    this.wanted = { text: "", changed: false };
    const groups = groupsOf(schema).map(([group, members]) => this.group(group, members, schema.$defs ?? {}));
    this.others = new Field(
      side,
      "other fields",
      { description: "A JSON object of further fields, for names that have no control.", type: "object" },
      {},
      () => this.update(),
    );
    this.node = el(
      "div",
      { class: "settings", "data-side": side },
      ...groups,
      el("section", { class: "group" }, this.others.node),
    );
  }

  group(title, members, defs) {
    const fields = members.map(([name, property]) => new Field(this.side, name, property, defs, () => this.update()));
    fields.forEach((field) => this.fields.set(field.name, field));
    const count = el("span", { class: "count" });
    const summary = el("summary", {}, el("h3", {}, title), count);
    return el(
      "details",
      { class: "group", open: true, "data-group": title },
      summary,
      ...fields.map((field) => field.node),
    );
  }

  /** The fields that are set; `wrong(error)` hears of each that cannot be read, with its name and its side. */
  values(wrong = raise) {
    const found = {};
    for (const [name, field] of [...this.fields, [this.others.name, this.others]]) {
      try {
        const { set, value } = field.read();
        if (set) Object.assign(found, field === this.others ? value : { [name]: value });
      } catch (error) {
        wrong(Object.assign(error, { param: name, side: this.side }));
      }
    }
    return found;
  }

  /** The values that can be read, without a word about the others. */
  valuesSoFar() {
    return this.values(() => {});
  }

  /** Sets these fields, and no others. */
  write(values) {
    const others = { ...values };
    for (const [name, field] of this.fields) {
      field.write(values[name] ?? undefined);
      delete others[name];
    }
    this.others.write(Object.keys(others).length ? others : undefined);
    this.filter(this.wanted);
    this.update();
  }

  /** The field that an error names; `param` may be a path. */
  named(param) {
    return this.fields.get(/^\w*/.exec(param ?? "")[0]) ?? (param === this.others.name ? this.others : null);
  }

  /** Shows what is wrong with a field. */
  point(field, message) {
    field.complain(message);
    field.node.closest("details")?.setAttribute("open", "");
    field.node.scrollIntoView({ block: "center" });
  }

  filter(wanted) {
    this.wanted = wanted;
    const text = wanted.text.trim().toLowerCase();
    for (const group of this.node.children) {
      const nodes = [...group.querySelectorAll(".field")];
      nodes.forEach((node) => (node.hidden = !matches(node, text) || (wanted.changed && !node.matches(".changed"))));
      group.hidden = nodes.every((node) => node.hidden);
    }
  }

  update() {
    for (const group of this.node?.querySelectorAll("details") ?? []) {
      const count = group.querySelectorAll(".changed").length;
      $(".count", group).textContent = count ? `${count} set` : "";
    }
    if (this.node) this.changed();
  }
}

const matches = (node, text) => !text || node.textContent.toLowerCase().includes(text);

function raise(error) {
  throw error;
}

/** The box above the fields: search, only those that are set, and reset all. */
export function toolbar(current) {
  const apply = () => current().filter({ text: search.value, changed: only.checked });
  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Search fields",
    "aria-label": "Search fields",
    on: { input: apply },
  });
  const only = el("input", { type: "checkbox", id: "only-changed", on: { input: apply } });
  const reset = button("Reset all", () => current().write({}), { class: "quiet", id: "reset-all" });
  const clear = () => {
    search.value = "";
    only.checked = false;
    apply();
  };
  const label = el("label", { class: "check", for: "only-changed" }, only, "Only changed");
  return { node: el("div", { class: "toolbar" }, search, el("div", { class: "line" }, label, reset)), apply, clear };
}
