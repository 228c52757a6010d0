// How numbers, times and kinds of paths are written and drawn.
import { h, svg } from "./elements.js";

export const KINDS = {
  prompt: "the base model, prompted",
  rag: "the base model with passages",
  lora: "an adapter",
  tuned: "a fully fine-tuned model",
  hybrid: "an adapter or a fine-tuned model with passages or examples",
};

export const NOTHING = "–";

const known = (value, write) => (value === null || value === undefined ? NOTHING : write(value));

export const count = (value) => known(value, (n) => Math.round(n).toLocaleString("en"));
export const percent = (value) => known(value, (n) => `${n > 0 && n < 0.1 ? (n * 100).toFixed(1) : Math.round(n * 100)} %`);
export const seconds = (value) => known(value, (n) => (n < 0.0995 ? `${Math.max(1, Math.round(n * 1000))} ms` : `${n.toFixed(n < 10 ? 2 : 1)} s`));
export const two = (value) => known(value, (n) => n.toFixed(2));

/** Never with an exponent, and never rounded to nothing. */
export function dollars(value) {
  return known(value, (n) => {
    if (n === 0) return "$0";
    const digits = n >= 1 ? 2 : Math.min(12, 2 - Math.floor(Math.log10(n)));
    return `$${n.toFixed(digits)}`;
  });
}

/** A lower bound is rounded down: up, it could reach a floor that it does not. */
export const bound = (value) => (Math.floor(value * 100) / 100).toFixed(2);

export function time(unixMs) {
  const at = new Date(unixMs);
  const clock = at.toLocaleTimeString("en-GB");
  return at.toDateString() === new Date().toDateString() ? clock : `${at.toLocaleDateString("en-CA")} ${clock}`;
}

export const minute = (unixMs) => time(unixMs).slice(0, -3);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** The sign of a kind, a shape and a colour, centred on (0, 0). */
export function sign(kind, size = 6) {
  const shapes = {
    prompt: () => svg("circle", { r: size }),
    rag: () => svg("rect", { x: -size * 0.9, y: -size * 0.9, width: size * 1.8, height: size * 1.8, rx: size * 0.25 }),
    lora: () => svg("path", { d: `M0 ${-size * 1.25}L${size * 1.25} 0L0 ${size * 1.25}L${-size * 1.25} 0Z` }),
    tuned: () => svg("path", { d: `M${-size} ${-size * 0.35}H${size}L${size * 0.62} ${size}H${-size * 0.62}Z` }),
    hybrid: () => svg("path", { d: `M0 ${-size * 1.15}L${size * 1.15} ${size * 0.85}H${-size * 1.15}Z` }),
  };
  const shape = (shapes[kind] || shapes.prompt)();
  shape.setAttribute("class", `sign ${kind}`);
  return shape;
}

export function pathName(path, kind) {
  return h("span", { class: `path ${kind}` },
    svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, role: "img", "aria-label": kind }, sign(kind, 5)),
    h("span", {}, path));
}
