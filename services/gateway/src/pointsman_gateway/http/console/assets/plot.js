// Quality against cost: a path's mean rating, down to what is certain of it; the policy's floor; the current choice.
import { svg } from "./elements.js";
import { bound, dollars, sign, two } from "./words.js";

const W = 420, LEFT = 38, RIGHT = 14, TOP = 12, FLOOR = 172, LINE = 15, BOTTOM = 26;
/** Below the floor lie the paths that nobody has rated, a line each. */

export function picture(whole) {
  const task = { ...whole, paths: whole.paths.filter((path) => path.usd_per_1k !== null) }; // others have no known cost
  const dearest = Math.max(...task.paths.map((path) => path.usd_per_1k), 0) || 1;
  const most = nice(dearest * 1.12);
  const x = (usd) => LEFT + (usd / most) * (W - LEFT - RIGHT);
  const y = (quality) => TOP + (1 - quality) * (FLOOR - TOP);
  const rated = task.paths.filter((path) => path.quality);
  const unrated = task.paths.filter((path) => !path.quality);
  const lane = unrated.length ? Math.max(2, unrated.length) * LINE + 4 : 0;
  return svg("svg", { class: "plot", viewBox: `0 0 ${W} ${FLOOR + lane + BOTTOM}`, role: "img", "aria-label": inWords(task, rated, unrated) },
    axes(most, x, y, lane),
    task.quality_floor !== null && floor(task.quality_floor, y),
    rated.map((path) => whisker(path, x, y)),
    labelled([...rated.map((path) => spot(path, x(path.usd_per_1k), y(path.quality.mean), task)),
      ...unrated.map((path, number) => spot(path, x(path.usd_per_1k), FLOOR + 11 + number * LINE, task))]));
}

function axes(most, x, y, lane) {
  const grid = [0, 0.25, 0.5, 0.75, 1];
  const prices = [0, 0.25, 0.5, 0.75, 1].map((part) => part * most);
  return svg("g", { class: "axes" },
    grid.map((q) => svg("path", { d: `M${LEFT} ${y(q)}H${W - RIGHT}` })),
    grid.map((q) => svg("text", { x: LEFT - 6, y: y(q) + 3.5, "text-anchor": "end" }, q === 0 || q === 1 ? String(q) : two(q))),
    lane > 0 && svg("rect", { class: "lane", x: LEFT, y: FLOOR, width: W - LEFT - RIGHT, height: lane }),
    lane > 0 && ["not", "rated"].map((word, number) =>
      svg("text", { x: LEFT - 6, y: FLOOR + lane / 2 + 1 + number * 10, "text-anchor": "end" }, word)),
    prices.map((usd, number) => svg("text", { x: x(usd), y: FLOOR + lane + BOTTOM - 9, "text-anchor": number ? (number === 4 ? "end" : "middle") : "start" }, number ? dollars(usd).replace(/0+$/, "") : "$ / 1,000")));
}

function floor(quality, y) {
  return svg("g", { class: "floor" },
    svg("path", { d: `M${LEFT} ${y(quality)}H${W - RIGHT}` }),
    svg("text", { x: W - RIGHT, y: y(quality) - 4, "text-anchor": "end" }, `floor ${two(quality)}`));
}

function whisker(path, x, y) {
  const at = x(path.usd_per_1k), low = y(path.quality.bound);
  return svg("path", { class: `whisker ${path.kind}`, d: `M${at} ${y(path.quality.mean)}V${low}M${at - 4} ${low}h8` });
}

const spot = (path, x, y, task) => ({ path, x, y, chosen: path.path === task.choice });

/** Names stand beside their spots, moved down where they would cover one another. */
function labelled(spots) {
  const taken = [];
  return [...spots].sort((a, b) => b.chosen - a.chosen || a.y - b.y).map((one) => {
    const width = one.path.path.length * 6.2;
    const left = one.x + 12 + width > W - RIGHT;
    const from = left ? one.x - 12 - width : one.x + 12;
    const covers = (at) => taken.some((box) => Math.abs(box.at - at) < 11 && from < box.to && box.from < from + width);
    let at = one.y + 3.5;
    for (let tries = 0; covers(at) && tries < 6; tries += 1) at += 11;
    taken.push({ at, from, to: from + width }, { at: one.y + 3.5, from: one.x - 7, to: one.x + 7 });
    return svg("g", { class: one.chosen ? "spot chosen" : "spot" },
      one.chosen && svg("circle", { class: "ring", cx: one.x, cy: one.y, r: 10.5 }),
      svg("g", { transform: `translate(${one.x} ${one.y})`, class: one.path.quality ? "" : "hollow" }, sign(one.path.kind, 5)),
      svg("text", { x: left ? one.x - 13 : one.x + 13, y: at, "text-anchor": left ? "end" : "start" }, one.path.path));
  });
}

/** The next number that is easy to divide by four. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10].find((step) => step * power >= value) * power;
}

function inWords(task, rated, unrated) {
  const points = rated.map((path) => `${path.path}: quality ${two(path.quality.mean)}, at least ${bound(path.quality.bound)}, ${dollars(path.usd_per_1k)} per 1,000`);
  const rest = unrated.length ? [`not rated: ${unrated.map((path) => path.path).join(", ")}`] : [];
  return `Quality against cost of ${task.task}. ${[...points, ...rest].join("; ")}. Taken now: ${task.choice}.`;
}
