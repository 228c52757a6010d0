// Each task: its picture, and the same in words.
import { at, h, row, show, svg, table } from "./elements.js";
import { picture } from "./plot.js";
import { quality } from "./paths.js";
import { KINDS, dollars, pathName, plural, seconds, sign } from "./words.js";

const COLUMNS = [
  { name: "path" }, { name: "quality" }, { name: "$ / 1,000", kind: "number" }, { name: "p95", kind: "number" },
];

const REASONS = { availability: "others are unavailable" };

export function showTasks(overview) {
  show(at("legend"), Object.entries(KINDS), (kinds) => kinds.map(([kind, words]) => h("li", {},
    svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" }, sign(kind, 5)), h("b", {}, kind), ` ${words}`)));
  show(at("tasks-body"), overview.tasks, (tasks) => (tasks.length ? tasks.map(card)
    : h("p", { class: "note" }, "There is no task yet, so every request takes the default path. A task needs a few example requests and a policy in the configuration.")));
}

function card(task) {
  return h("article", { class: "panel task", "aria-labelledby": `task-${task.task}`, "data-task": task.task },
    h("header", {}, h("h3", { id: `task-${task.task}` }, task.task), h("span", { class: "made" }, plural(task.requests, "request"))),
    h("p", { class: "policy" }, ...policy(task)),
    hasPicture(task) ? picture(task) : h("p", { class: "note empty" }, "No path is rated on this task yet; ", h("code", {}, "POST /v1/feedback"), " or ",
      h("code", {}, "pointsman eval --as-ratings"), " draws quality against cost here."),
    table(`Paths of ${task.task}`, COLUMNS, task.paths.flatMap((path) => rows(task, path))));
}

const hasPicture = (task) => task.paths.some((path) => path.quality && path.usd_per_1k !== null);

/** A path's figures, and below them what the policy says about it. */
function rows(task, path) {
  const choice = path.path === task.choice ? "choice" : "";
  const remarks = [path.explanation && h("span", {}, path.explanation), path.unavailable && h("span", { class: "away" }, path.unavailable)].filter(Boolean);
  return [
    row(COLUMNS, [
      h("span", { class: "stop" }, pathName(path.path, path.kind), h("span", { class: "made" }, role(task, path))),
      quality(path.quality),
      h("span", { class: path.estimated ? "faint" : "" }, (path.estimated && path.usd_per_1k !== null ? "about " : "") + dollars(path.usd_per_1k).replace("$", "")),
      path.answers ? seconds(path.p95_seconds) : "–",
    ], { class: choice }),
    ...(remarks.length ? [h("tr", { class: `remarks ${choice}` }, h("td", { colspan: COLUMNS.length, class: "made" }, remarks))] : []),
  ];
}

function role(task, path) {
  if (path.path === task.choice) return "taken now";
  if (path.role === "fallback") return "fallback";
  if (path.role === "default") return "default path";
  if (path.role === "shadow") return "in shadow requests only";
  return task.escalates ? "if the answer is rejected" : "in the policy";
}

/** The policy's name, what its options say, its choice, and the reason if it is not the policy's usual one. */
function policy(task) {
  const summary = task.summary ? `${task.summary}; ` : "";
  const reason = task.reason === `policy:${task.policy}` ? "" : ` (${REASONS[task.reason] || inWords(task.reason)})`;
  return [`${inWords(task.policy)}: ${summary}`, h("b", {}, task.choice), reason];
}

const inWords = (name) => name.replace("policy:", "").replaceAll("_", " ");
