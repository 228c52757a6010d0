// Questions that must be answered before anything goes on: a key, a confirmation. Escape always means no.
import { h } from "./elements.js";

/** Opens a dialog with `content`, and resolves with what `answer` makes of it, or with null. */
export function open(title, content, buttons, attributes = {}) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    let answer = null;
    const close = (value) => { answer = value; dialog.close(); };
    const form = h("form", { method: "dialog", submit: (event) => { event.preventDefault(); buttons.submit?.(close, form); } },
      h("h2", { id: "dialog-title" }, title), content, h("div", { class: "row end" }, buttons.make(close)));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", ...attributes, close: () => {
      dialog.remove();
      // What was focused may have been made anew meanwhile.
      (before?.isConnected ? before : before?.id && document.getElementById(before.id))?.focus?.();
      resolve(answer);
    } }, form);
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const cancel = (close) => h("button", { type: "button", click: () => close(null) }, "Cancel");

/** Resolves with the fields of a form, or with null. */
export function confirm(title, content, word) {
  return open(title, content, {
    make: (close) => [cancel(close), h("button", { type: "submit", class: "primary" }, word)],
    submit: (close, form) => close(Object.fromEntries(new FormData(form))),
  });
}

/** Resolves with a key, with "" where there is to be none, or with null. `signIn` leaves the page for the issuer's. */
export function askForKey(problem, held, signIn) {
  const content = [
    h("p", {}, "This gateway asks for a key. It stays in this tab, and is forgotten when the tab is closed."),
    problem && h("p", { class: "problem", role: "alert" }, problem),
    h("label", { for: "key" }, "Key"),
    h("input", { id: "key", name: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true, autofocus: true }),
  ];
  return open("Key", content.filter(Boolean), {
    make: (close) => [
      held && h("button", { type: "button", click: () => close("") }, "Forget the key"),
      cancel(close),
      signIn && h("button", { type: "button", id: "sign-in-button", click: signIn }, "Sign in"),
      h("button", { type: "submit", class: "primary" }, "Use it"),
    ],
    submit: (close, form) => close(new FormData(form).get("key").trim()),
  });
}

/** Shows something beside the page, until it is closed. */
export function look(title, content) {
  return open(title, content, {
    make: (close) => h("button", { type: "button", class: "primary", autofocus: true, click: () => close(null) }, "Close"),
  }, { class: "drawer" });
}

/** Shows things side by side before the page, until it is closed. */
export function compareWide(title, content) {
  return open(title, content, {
    make: (close) => h("button", { type: "button", class: "primary", autofocus: true, click: () => close(null) }, "Close"),
  }, { class: "wide" });
}
