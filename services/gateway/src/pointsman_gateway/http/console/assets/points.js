// The points: a line that comes in, and where it could have gone.
import { h, svg } from "./elements.js";
import { pathName } from "./words.js";

const OUTCOMES = { chosen: "taken", fallback: "in reserve", skipped: "not taken", escalation: "if refused" };

/** The paths that were considered, each at the end of its track; `kinds` by path. */
export function points(considered, chosen, kinds, beside = () => null) {
  const drawing = svg("svg", { class: "tracks", "aria-hidden": "true" });
  const rows = considered.map((one) => h("li", { class: one.path === chosen ? "chosen" : one.outcome },
    h("div", { class: "stop" }, pathName(one.path, kinds.get(one.path) ?? "prompt"),
      h("span", { class: "tag" }, OUTCOMES[one.outcome] ?? one.outcome)),
    h("p", {}, one.reason),
    beside(one)));
  const list = h("ol", { class: "considered" }, rows);
  const whole = h("div", { class: "points" }, drawing, list);
  new ResizeObserver(() => draw(drawing, list, rows, considered, chosen, kinds)).observe(list);
  return whole;
}

function draw(drawing, list, rows, considered, chosen, kinds) {
  const height = list.offsetHeight, width = drawing.clientWidth, bend = width * 0.6;
  const ends = rows.map((row) => row.firstChild.offsetTop + row.firstChild.offsetHeight / 2);
  const main = ends[Math.max(0, considered.findIndex((one) => one.path === chosen))] ?? 0;
  const tracks = considered.map((one, number) => ({ one, end: ends[number], taken: one.path === chosen }));
  tracks.sort((a, b) => a.taken - b.taken); // what was taken lies on top
  drawing.setAttribute("height", height);
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.replaceChildren(
    svg("path", { class: "sleepers", d: [3, 9, 15].map((x) => `M${x} ${main - 6}v12`).join("") }),
    ...tracks.map(({ one, end, taken }) => svg("path", {
      class: `track ${taken ? `taken ${kinds.get(one.path) ?? "prompt"}` : one.outcome}`,
      d: end === main ? `M0 ${main}H${width}` : `M18 ${main}C${bend} ${main} ${18 + width * 0.22} ${end} ${width - 8} ${end}H${width}`,
    })));
}
