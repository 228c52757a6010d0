// The colours: those of the system, or the ones chosen for this tab.
import { at } from "./elements.js";

const KEY = "pointsman-theme";
const NEXT = { "": "dark", dark: "light", light: "" };
const WORDS = { "": "Theme: system", dark: "Theme: dark", light: "Theme: light" };

export function prepareTheme() {
  use(sessionStorage.getItem(KEY) || "");
  at("theme-button").addEventListener("click", () => use(NEXT[document.documentElement.dataset.theme || ""]));
}

function use(theme) {
  if (theme) {
    document.documentElement.dataset.theme = theme;
    sessionStorage.setItem(KEY, theme);
  } else {
    delete document.documentElement.dataset.theme;
    sessionStorage.removeItem(KEY);
  }
  at("theme-button").textContent = WORDS[theme];
}
