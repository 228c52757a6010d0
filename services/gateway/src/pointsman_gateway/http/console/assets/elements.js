// Elements are made here, and only from text: nothing that is shown ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `attributes` that are functions listen, those that are null, undefined or false are left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const at = (id) => document.getElementById(id);

/** Makes anew what `render` returns, but only where `data` has changed; the focus stays on what has the same id. */
export function show(parent, data, render) {
  const text = JSON.stringify(data);
  if (parent.shown === text) return;
  parent.shown = text;
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  const opened = [...parent.querySelectorAll("details[open][id]")].map((details) => details.id);
  parent.replaceChildren(...[render(data)].flat());
  for (const id of opened) at(id)?.setAttribute("open", "");
  if (focused) at(focused)?.focus({ preventScroll: true });
}

/** A table whose cells know their column's name, which a narrow screen shows beside them. */
export function table(caption, columns, rows) {
  const head = columns.map((column) => h("th", { scope: "col", class: column.kind }, column.name));
  return h("table", {},
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, rows));
}

export function row(columns, cells, attributes = {}) {
  return h("tr", attributes, columns.map((column, number) =>
    h(number ? "td" : "th", { scope: number ? null : "row", class: column.kind, "data-name": column.name }, cells[number])));
}
