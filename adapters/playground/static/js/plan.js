/** The plan view: which plugin turned which field into what, before anything is generated. */

import { ask } from "./api.js";
import { el, show, table } from "./dom.js";
import { toJson } from "./json.js";

const HEADS = ["field", "value", "plugin", "became", "engines"];

/** Asks what `body` would become, and shows it in `node`; `refused(error)` hears what was wrong. */
export async function showPlan(node, body, refused) {
  try {
    const found = await ask("v1/chat/completions/explain", { ...body, stream: undefined });
    show(node, ...sections(found));
  } catch (error) {
    show(node, el("p", { class: "problem", role: "alert" }, [error.param, error.message].filter(Boolean).join(": ")));
    refused(error);
  }
}

function sections({ fields, standing, plan }) {
  const all = new Set([...fields, ...standing].flatMap((row) => row.engines));
  const set = table("Fields of the request", HEADS, fields.map((row) => cells(row, all)));
  const always = table("What holds without being asked for", HEADS, standing.map((row) => cells(row, all)));
  return [
    el("h3", {}, "Fields that are set"),
    el("div", { class: "scroll" }, set),
    el("details", { open: true }, el("summary", {}, "What holds without being asked for"), el("div", { class: "scroll" }, always)),
    el("details", {}, el("summary", {}, "The whole plan as JSON"), el("pre", { class: "code" }, toJson(plan, 2))),
  ];
}

function cells(row, all) {
  const value = row.field === null ? "" : short(toJson(row.value), 160);
  const became = el("ul", {}, ...row.became.map((text) => el("li", {}, short(text, 300))));
  const missing = [...all].filter((engine) => !row.engines.includes(engine));
  const engines = missing.length ? `all but ${missing.join(", ")}` : "all";
  return [el("code", {}, row.field ?? "(default)"), el("code", {}, value), row.plugins.join(", "), became, engines];
}

const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
