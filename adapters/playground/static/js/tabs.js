/** Tabs: arrow keys move, one tab stop. */

/** Makes the buttons in `list` tabs of the panels that they control; `opened(id)` hears of each change. */
export function makeTabs(list, opened = () => {}) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const open = (tab, focus) => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls"))?.toggleAttribute("data-open", other === tab);
    }
    if (focus) tab.focus();
    opened(tab.getAttribute("aria-controls"));
  };
  list.addEventListener("click", (event) => tabs.includes(event.target) && open(event.target));
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    open(tabs.at(to % tabs.length), true);
  });
  open(tabs.find((tab) => tab.getAttribute("aria-selected") === "true") ?? tabs[0]);
  return (id) => open(tabs.find((tab) => tab.getAttribute("aria-controls") === id));
}
