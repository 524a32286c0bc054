/** Dark, light, or as the system says. */

const KEY = "chatplan.theme";
const NEXT = { auto: "dark", dark: "light", light: "auto" };

function applyTheme() {
  document.documentElement.dataset.theme = localStorage.getItem(KEY) ?? "auto";
}

applyTheme(); // when this is read, so that nothing is painted in the wrong colours

export function bindTheme(button) {
  const show = () => {
    const theme = document.documentElement.dataset.theme;
    button.textContent = { auto: "Auto", dark: "Dark", light: "Light" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}. Change`);
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, NEXT[document.documentElement.dataset.theme]);
    applyTheme();
    show();
  });
  show();
}
