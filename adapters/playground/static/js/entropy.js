/** The line of doubt: bits of entropy at each token, as a picture of our own. */

import { el, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [360, 110, 26, 16, 8];

/** A chart of `bits`, one for each of `entries`; a click on a point calls `pick(at)`. */
export function chart(bits, entries, pick) {
  const most = Math.max(1, Math.ceil(Math.max(...bits)));
  const step = (WIDTH - LEFT - 8) / Math.max(1, bits.length - 1);
  const x = (at) => LEFT + at * step;
  const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP);
  const points = bits.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const marks = bits.map((value, at) => dot(x(at), y(value), value, entries[at].token, () => pick(at)));
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "entropy", role: "img", "aria-label": summary(bits, entries) },
    ...[0, most / 2, most].flatMap((value) => grid(value, y(value))),
    svg("polyline", { points, class: "line" }),
    ...marks,
    svg("text", { x: WIDTH - 8, y: HEIGHT - 3, class: "label end" }, `token ${bits.length}`),
    svg("text", { x: LEFT, y: HEIGHT - 3, class: "label" }, "1"),
  );
  const mean = bits.reduce((sum, value) => sum + value, 0) / bits.length;
  return el("figure", {}, el("figcaption", {}, `Entropy, in bits: ${mean.toFixed(2)} on average`), picture);
}

function grid(value, height) {
  return [
    svg("line", { x1: LEFT, x2: WIDTH - 8, y1: height, y2: height, class: "grid" }),
    svg("text", { x: LEFT - 4, y: height + 3, class: "label end" }, String(value)),
  ];
}

function dot(x, y, value, token, pick) {
  const title = svg("title", {}, `${JSON.stringify(token)}: ${value.toFixed(2)} bits`);
  return svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 2.5, class: "dot", on: { click: pick } }, title);
}

function summary(bits, entries) {
  const at = bits.indexOf(Math.max(...bits));
  const token = JSON.stringify(entries[at].token);
  return `Entropy of ${bits.length} tokens; the most is ${bits[at].toFixed(2)} bits, at token ${at + 1}, ${token}`;
}
