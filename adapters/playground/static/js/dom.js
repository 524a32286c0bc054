/** Makes elements. What is text becomes a text node, never markup: a model may write anything. */

export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

export const $ = (selector, root = document) => root.querySelector(selector);

/** A button that does `action`, with a name for those who do not see its text. */
export function button(text, action, props = {}) {
  return el("button", { type: "button", ...props, on: { click: action } }, text);
}

/** Replaces what is in `node`. */
export function show(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child != null));
  return node;
}

/** A change of text that no change costs nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A table with one header row. */
export function table(caption, heads, rows) {
  const cells = (row) => row.map((cell) => el("td", {}, cell));
  return el(
    "table",
    {},
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row)))),
  );
}

export async function copyText(text, status) {
  try {
    await navigator.clipboard.writeText(text);
    status("Copied.");
  } catch {
    status("The browser does not let pages copy here: select the text, and copy it.");
  }
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value == null) continue;
    if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}
