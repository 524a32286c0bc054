/** Two sides with settings of their own: which one is edited, and how they differ. */

import { $, el, show, table } from "./dom.js";
import { toJson } from "./json.js";
import { Settings } from "./settings.js";

export class Sides {
  /** Settings of A at once, of B when they are wanted; `changed()` is told of each edit. */
  constructor(schema, changed) {
    this.schema = schema;
    this.changed = () => changed();
    this.all = { A: new Settings("A", schema, this.changed) };
    this.comparing = false;
    this.edited = "A";
    $("#side-a").addEventListener("click", () => this.edit("A"));
    $("#side-b").addEventListener("click", () => this.edit("B"));
    $("#compare").addEventListener("click", () => this.compare(!this.comparing));
    this.render();
  }

  get current() {
    return this.all[this.edited];
  }

  /** The sides that a prompt goes to. */
  get active() {
    return this.comparing ? ["A", "B"] : ["A"];
  }

  /** Turns the comparison on or off. B begins as A is. */
  compare(on) {
    this.comparing = on;
    if (on && !this.all.B) {
      this.all.B = new Settings("B", this.schema, this.changed);
      this.all.B.write(this.all.A.valuesSoFar());
    }
    this.edit(on ? "B" : "A");
  }

  edit(side) {
    this.edited = side;
    this.render();
    this.changed();
  }

  render() {
    $("#compare").setAttribute("aria-pressed", this.comparing);
    $("#sides").hidden = !this.comparing;
    $("#side-a").setAttribute("aria-pressed", this.edited === "A");
    $("#side-b").setAttribute("aria-pressed", this.edited === "B");
    show($("#fields"), ...Object.values(this.all).map((settings) => settings.node));
    for (const settings of Object.values(this.all)) settings.node.hidden = settings !== this.current;
  }

  /** Lists what differs. */
  differences(node) {
    node.hidden = !this.comparing;
    if (!this.comparing) return;
    const [one, other] = [this.all.A.valuesSoFar(), this.all.B.valuesSoFar()];
    const names = [...new Set([...Object.keys(one), ...Object.keys(other)])];
    const rows = names
      .filter((name) => toJson(one[name]) !== toJson(other[name]))
      .map((name) => [el("code", {}, name), shown(one[name]), shown(other[name])]);
    const found = rows.length
      ? table("How the settings differ", ["field", "A", "B"], rows)
      : el("p", { class: "empty" }, "A and B are set alike.");
    show(node, found);
  }
}

const shown = (value) => el("code", {}, value === undefined ? "not set" : toJson(value));
