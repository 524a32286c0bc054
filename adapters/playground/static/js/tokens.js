/** The token view: each token coloured by its probability, with what else could have stood there. */

import { el, show } from "./dom.js";
import { chart } from "./entropy.js";
import { attach } from "./tooltip.js";

const NEVER = -9999; // so the API writes the logarithm of no probability at all

export const probability = (entry) => (entry.logprob <= NEVER ? 0 : Math.exp(entry.logprob));

/** Whether a constraint left this token alone: the others that are listed had been ruled out before. */
export function forced(entry) {
  const others = entry.top_logprobs.filter((other) => other.token !== entry.token);
  return others.length > 0 && others.every((other) => other.logprob <= NEVER);
}

/** Bits of doubt at a position: over the listed tokens, and all the rest as one more. */
export function entropy(entry) {
  const listed = entry.top_logprobs.length ? entry.top_logprobs : [entry];
  const chances = listed.map(probability);
  const rest = Math.max(0, 1 - chances.reduce((sum, chance) => sum + chance, 0));
  const bits = [...chances, rest > 1e-6 ? rest : 0].map((chance) => (chance > 0 ? -chance * Math.log2(chance) : 0));
  return bits.reduce((sum, part) => sum + part, 0);
}

/** A token with its blanks to be seen. */
export const visible = (token) =>
  token.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "∅";

const percent = (chance) => `${(chance * 100).toFixed(chance < 0.1 ? 2 : 1)} %`;

/** Shows the tokens of `choice` in `node`; without any, `turnOn`, which asks for log-probabilities. */
export function showTokens(node, choice, turnOn) {
  if (!choice?.tokens.length) {
    const why = choice ? "This answer came without log-probabilities." : "No tokens yet.";
    return show(node, el("p", { class: "empty" }, why), turnOn);
  }
  const entries = choice.tokens;
  const tokens = entries.map((entry, at) => token(entry, at));
  const line = el("div", { class: "tokens", role: "group", "aria-label": "Tokens; arrow keys move" });
  entries.forEach((entry, at) => line.append(tokens[at], entry.token.includes("\n") ? el("br") : ""));
  line.addEventListener("keydown", (event) => move(event, tokens));
  const hard = entries.filter(forced).length;
  const facts = `${entries.length} tokens, ${hard} forced by a constraint. ${choice.finish ? `Ended: ${choice.finish}.` : ""}`;
  return show(
    node,
    el("p", { class: "facts" }, facts),
    legend(),
    line,
    chart(entries.map(entropy), entries, (at) => tokens[at].focus()),
  );
}

function token(entry, at) {
  const chance = probability(entry);
  const must = forced(entry);
  const label = `${JSON.stringify(entry.token)}, ${percent(chance)}${must ? ", forced by a constraint" : ""}`;
  const node = el(
    "button",
    {
      type: "button",
      class: `token ${must ? "forced" : ""}`,
      "aria-label": label,
      tabindex: at ? -1 : 0,
      "data-at": at,
    },
    visible(entry.token),
  );
  node.style.setProperty("--p", chance.toFixed(3));
  attach(node, () => details(entry, at, must));
  return node;
}

function details(entry, at, must) {
  const rows = [...entry.top_logprobs];
  if (!rows.some((other) => other.token === entry.token)) rows.unshift(entry);
  const items = rows.map((other) => {
    const bar = el("span", { class: "bar" });
    bar.style.setProperty("--p", probability(other).toFixed(3));
    const value =
      other.logprob <= NEVER ? "ruled out" : `${percent(probability(other))}  (${other.logprob.toFixed(2)})`;
    return el(
      "li",
      { class: other.token === entry.token ? "drawn" : "" },
      el("code", {}, visible(other.token)),
      bar,
      el("span", {}, value),
    );
  });
  const head = `Token ${at + 1}: ${entropy(entry).toFixed(2)} bits${must ? ", forced by a constraint" : ""}`;
  return [el("p", {}, head), el("ol", {}, ...items)];
}

function legend() {
  const steps = [0, 0.25, 0.5, 0.75, 1].map((chance) => {
    const node = el("span", { class: "token" }, percent(chance).replace(/\.0+ /, " "));
    node.style.setProperty("--p", chance);
    return node;
  });
  return el("p", { class: "legend" }, ...steps, el("span", { class: "token forced" }, "forced"));
}

function move(event, tokens) {
  const at = tokens.indexOf(event.target);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (at < 0 || !tokens[to]) return;
  event.preventDefault();
  tokens[at].tabIndex = -1;
  tokens[to].tabIndex = 0;
  tokens[to].focus();
}
