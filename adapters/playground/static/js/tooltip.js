/** One tooltip, shown while the pointer is on a thing or the keyboard's focus is. */

import { $, el, show } from "./dom.js";

const node = el("div", { role: "tooltip", id: "tooltip", hidden: true });
document.body.append(node);

/** Shows what `content()` makes beside `target`. */
export function attach(target, content) {
  const open = () => {
    show(node, ...content());
    node.hidden = false;
    target.setAttribute("aria-describedby", "tooltip");
    place(target.getBoundingClientRect());
  };
  const close = () => {
    target.removeAttribute("aria-describedby");
    hide();
  };
  target.addEventListener("mouseenter", open);
  target.addEventListener("focus", open);
  target.addEventListener("click", open);
  target.addEventListener("mouseleave", () => document.activeElement !== target && close());
  target.addEventListener("blur", close);
}

export function hide() {
  node.hidden = true;
}

function place(box) {
  const { offsetWidth: width, offsetHeight: height } = node;
  const left = Math.max(8, Math.min(box.left, innerWidth - width - 8));
  const below = box.bottom + 6;
  const top = below + height > innerHeight ? Math.max(8, box.top - height - 6) : below;
  node.style.left = `${left}px`;
  node.style.top = `${top}px`;
}

addEventListener("keydown", (event) => event.key === "Escape" && hide());
addEventListener("scroll", (event) => event.target !== $("#tooltip") && hide(), true);
