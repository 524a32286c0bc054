/** The plan view: which plugin turned which field into what, before anything is generated. */

import { ask, told } from "./api.js";
import { el, show } from "./dom.js";
import { toJson } from "./json.js";

/** Asks what `body` would become, and shows it in `node`; `refused(error)` hears what was wrong. */
export async function showPlan(node, body, refused) {
  try {
    const found = await ask("v1/chat/completions/explain", { ...body, stream: undefined });
    // The server gives an id to what has none.
    const fields = found.fields.filter((row) => row.field !== "request_id" || "request_id" in body);
    show(node, ...sections({ ...found, fields }));
  } catch (error) {
    show(node, el("p", { class: "problem", role: "alert" }, told(error)));
    refused(error);
  }
}

function sections({ fields, standing, plan }) {
  const all = new Set([...fields, ...standing].flatMap((row) => row.engines));
  return [
    el("h3", {}, "Fields that are set"),
    el("ul", { class: "effects" }, ...fields.map((row) => effect(row, all))),
    el("h3", {}, "What holds without being asked for"),
    el("ul", { class: "effects" }, ...standing.map((row) => effect(row, all))),
    el("details", {}, el("summary", {}, "The whole plan as JSON"), el("pre", { class: "code" }, toJson(plan, 2))),
  ];
}

function effect(row, all) {
  const value = row.field === null ? "" : ` = ${short(toJson(row.value), 160)}`;
  const missing = [...all].filter((engine) => !row.engines.includes(engine));
  const engines = missing.length ? `All engines but ${missing.join(", ")}` : "On all engines";
  return el(
    "li",
    { class: "effect", "data-field": row.field ?? "" },
    row.field === null ? null : el("p", { class: "cause" }, el("code", {}, el("b", {}, row.field), value)),
    el("p", { class: "by" }, `Plugin ${row.plugins.join(", ")}`),
    el("ul", { class: "became" }, ...row.became.map((text) => el("li", {}, short(text, 300)))),
    el("p", { class: "by" }, engines),
  );
}

const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
