// Comparisons of paths: the regret of live choices (shadow requests), and a report of `pointsman eval --json`.
import { at, h, row, show, table } from "./elements.js";
import { count, dollars, percent, seconds, two, NOTHING } from "./words.js";

const REGRET = [
  { name: "task" }, { name: "chosen" }, { name: "instead" }, { name: "pairs", kind: "number" }, { name: "scored", kind: "number" },
  { name: "regret in dollars", kind: "number" }, { name: "regret in quality", kind: "number" },
];
const REPORT = [
  { name: "path" }, { name: "score", kind: "number" }, { name: "interval" }, { name: "rows", kind: "number" }, { name: "valid", kind: "number" },
  { name: "p95", kind: "number" }, { name: "$ / 1,000", kind: "number" },
];

export function prepareReport() {
  at("report").addEventListener("change", async () => {
    const [file] = at("report").files;
    if (file) showReport(await file.text(), file.name);
  });
}

/** `text` is what `GET /metrics` returns. Nothing is shown as long as no request was answered twice. */
export function showRegret(text) {
  const pairs = samples(text, "pointsman_shadow_pairs_total");
  at("regret-body").hidden = pairs.length === 0;
  const total = (name, labels) => samples(text, name).find((one) => same(one.labels, labels))?.value ?? 0;
  const rows = pairs.map(({ labels, value }) => [labels.task, labels.chosen, labels.path, count(value),
    count(total("pointsman_shadow_scored_total", labels)), dollars(total("pointsman_regret_usd_total", labels)),
    two(total("pointsman_regret_quality_total", labels))]);
  show(at("regret-body"), rows, () => [
    h("p", { class: "note" }, "Regret: what the other path would have saved, and by how much it was better, on requests that both answered; of this gateway since its start."),
    table("Regret of the choices", REGRET, rows.map((cells) => row(REGRET, cells))),
  ]);
}

function samples(text, name) {
  return [...text.matchAll(new RegExp(`^${name}\\{(.*)\\} (\\S+)`, "gm"))].map(([, labels, value]) => ({
    labels: Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text])), value: Number(value),
  }));
}

const same = (one, other) => ["task", "chosen", "path"].every((key) => one[key] === other[key]);

function showReport(text, name) {
  at("report-body").hidden = true;
  at("report-problem").textContent = "";
  try {
    const { tasks } = JSON.parse(text);
    const rows = tasks.flatMap((task) => task.paths.map((path) => reportRow(task, path)));
    at("report-body").replaceChildren(table(`Evaluation ${name}`, REPORT, rows));
    at("report-body").hidden = false;
  } catch (error) {
    at("report-problem").textContent = `${name} is not a report of pointsman eval --json: ${error.message}`;
  }
}

function reportRow(task, path) {
  const cost = Object.values(path.usd_per_1000).reduce((sum, part) => sum + part, 0);
  return row(REPORT, [
    h("span", { class: "stop" }, path.path, h("span", { class: "made" }, `${task.task}, ${task.metric}`)),
    two(path.score?.mean), path.score ? `${two(path.score.low)} to ${two(path.score.high)}` : NOTHING, count(path.answers), percent(path.well_formed),
    seconds(path.total?.p95), dollars(cost).replace("$", ""),
  ]);
}
