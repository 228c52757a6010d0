// The paths: what each does now, costs, and is worth.
import { at, h, row, show, svg, table } from "./elements.js";
import { bound, count, dollars, pathName, percent, plural, seconds, time, two, NOTHING } from "./words.js";

const COLUMNS = [
  { name: "path" }, { name: "share" }, { name: "requests", kind: "number" }, { name: "15 minutes", kind: "bars" },
  { name: "p50", kind: "number" }, { name: "p95", kind: "number" }, { name: "TTFT", kind: "number" },
  { name: "$ / 1,000", kind: "number" }, { name: "quality" }, { name: "failed", kind: "number" }, { name: "tasks" },
];

export function showPaths(overview) {
  at("window-note").textContent = note(overview);
  const busiest = Math.max(1, ...overview.paths.flatMap((path) => path.now?.bars ?? []));
  show(at("paths-body"), { paths: overview.paths, busiest }, ({ paths }) =>
    table("Paths over the last 15 minutes", COLUMNS, paths.map((path) => pathRow(path, busiest))));
}

function note({ request_log: requestLog, window }) {
  if (requestLog === "none") return "This gateway runs without Redis and has no request log, so there are no live figures.";
  if (requestLog === "unavailable") return "Redis is unavailable, so there are no live figures now.";
  const minutes = (window.until_unix_ms - window.since_unix_ms) / 60000;
  const since = minutes > 14.9 ? "the last 15 minutes" : `since ${time(window.since_unix_ms)}`;
  return `${plural(window.requests, "request")} in ${since}, over all gateways.`.replace("in since", "since");
}

function pathRow(path, busiest) {
  const now = path.now;
  return row(COLUMNS, [
    h("span", { class: "stop" }, pathName(path.path, path.kind),
      h("span", { class: "made" }, path.version || [path.model, ...path.strategies].filter(Boolean).join(" · ")),
      path.unavailable && h("span", { class: "away" }, path.unavailable)),
    share(now?.share ?? null, path.kind),
    count(now?.requests ?? null),
    now ? bars(now.bars, busiest, path.kind) : NOTHING,
    seconds(now?.p50_seconds), seconds(now?.p95_seconds), seconds(now?.first_token_p50_seconds),
    now ? dollars(now.usd_per_1k).replace("$", "") : NOTHING,
    quality(path.quality),
    now ? h("span", { class: now.failures ? "bad" : "" }, count(now.failures)) : NOTHING,
    path.tasks.join(", ") || NOTHING,
  ], { "data-path": path.path, class: path.kind });
}

function share(value, kind) {
  if (value === null) return NOTHING;
  return h("span", { class: "share" },
    svg("svg", { class: `rail ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { class: "whole", d: "M0 3H100" }), svg("path", { class: "part", d: `M0 3H${value * 100}` })),
    h("span", {}, percent(value)));
}

export function quality(known) {
  if (!known) return h("span", { class: "faint" }, "not rated");
  return h("span", { class: "quality" }, two(known.mean),
    h("span", { class: "made", title: "lower bound that holds at any time (and for a single look now)" },
      `≥ ${bound(known.bound)} (${bound(known.bound_now)} now) of ${count(known.ratings)}${known.evaluated ? `, ${count(known.evaluated)} evaluated` : ""}`));
}

function bars(counts, busiest, kind) {
  const label = `${plural(counts.reduce((sum, n) => sum + n, 0), "request")}, ${counts.at(-1)} of them in the last 30 seconds`;
  return svg("svg", { class: `spark ${kind}`, viewBox: `0 0 ${counts.length * 3} 18`, width: counts.length * 3, height: 18, role: "img", "aria-label": label },
    svg("path", { class: "ground", d: `M0 17.5H${counts.length * 3}` }),
    counts.map((n, at) => n > 0 && svg("rect", { x: at * 3, width: 2, y: 17 - Math.max(1.5, (n / busiest) * 16), height: Math.max(1.5, (n / busiest) * 16) })));
}
