// Adapters: where aliases point, how each version stands, and what was changed.
import { at, h, row, show, svg, table } from "./elements.js";
import { canary, endCanary, promote, rollBack } from "./moves.js";
import { count, minute, percent, time, NOTHING } from "./words.js";

const LIFE = ["registered", "validating", "ready", "loading", "warm", "serving", "draining", "retired"];
const COLUMNS = [
  { name: "version" }, { name: "state" }, { name: "used as" }, { name: "measured" }, { name: "rank", kind: "number" },
  { name: "MiB", kind: "number" }, { name: "created", kind: "nowrap" }, { name: "" },
];
/** The trainer's metrics, the strictest first, in words. */
const METRICS = { exact: "exact", json_f1: "F1 of JSON fields", word_f1: "F1 of words", preference_accuracy: "preferred answers" };
const SHOWN_METRICS = 2;
const CHANGES = [{ name: "when" }, { name: "what" }, { name: "of" }, { name: "change" }, { name: "by" }];

export function showAdapters(models, caller, engines) {
  show(at("adapters-body"), { models, may: caller.operator, resident: engines.map((engine) => engine.resident) }, () => models.length
    ? models.map((model) => registry(model, caller.operator))
    : withoutRegistry(engines.filter((engine) => engine.resident.length)));
}

/** Without a lora-server an engine's own adapters can be used, but have no versions and aliases. */
function withoutRegistry(engines) {
  return h("div", { class: "panel note" },
    h("p", {}, "No engine of this configuration has a lora-server, so there are no versions and aliases to move."),
    engines.map((engine) => h("p", {}, `The adapters of engine ${engine.engine}: `, h("code", {}, engine.resident.join(", ")))));
}

function registry(model, may) {
  return h("div", { class: "registry" },
    h("p", { class: "note" }, "Base model ", h("b", {}, model.model), `, on ${model.engines.map((engine) => engine.engine).join(", ")}.`,
      !may && " This key may not move adapters: that takes an operator's key."),
    model.engines.filter((engine) => engine.problem).map((engine) => h("p", { class: "problem" }, `${engine.engine}: ${engine.problem}`)),
    h("div", { class: "aliases" }, model.aliases.map((alias) => aliasCard(model, alias, may))),
    h("div", { class: "panel flush" }, table("Versions", COLUMNS, model.versions.map((version) => versionRow(model, version, may)))),
    h("details", { class: "history", id: `history-${model.model}` }, h("summary", {}, `History (${model.changes.length})`),
      h("div", { class: "panel flush" }, table("What was changed, the newest first", CHANGES, model.changes.map(changeRow)))));
}

function aliasCard(model, alias, may) {
  const word = (action) => `${action} ${alias.alias}`;
  const button = (id, text, label, act, usable = true) => h("button", {
    type: "button", class: "small", id: `${id}-${alias.alias}`, "aria-label": label, disabled: !may || !usable, click: act }, text);
  return h("article", { class: "panel alias", "data-alias": alias.alias, "aria-label": `Alias ${alias.alias}` },
    h("h3", {}, alias.alias),
    switchOf(alias),
    h("div", { class: "row" },
      button("move", "Move", word("Move"), () => promote(model, alias)),
      button("canary", alias.canary_version ? "Change canary" : "Canary", word("Set a canary of"), () => canary(model, alias), model.versions.length > 1),
      alias.canary_version && button("end", "End canary", word("End the canary of"), () => endCanary(model, alias)),
      button("back", "Roll back", word("Roll back"), () => rollBack(model, alias), Boolean(alias.previous || alias.canary_version))),
    alias.previous && h("p", { class: "made" }, `before: ${alias.previous}`));
}

/** The alias as points: straight on to its version, and off to the canary. */
function switchOf(alias) {
  const trial = Boolean(alias.canary_version);
  return h("div", { class: trial ? "switch two" : "switch" },
    svg("svg", { viewBox: trial ? "0 0 64 56" : "0 0 64 28", width: 64, height: trial ? 56 : 28, "aria-hidden": "true" },
      svg("path", { class: "sleepers", d: "M4 8v12M11 8v12M18 8v12" }),
      trial && svg("path", { class: "track skipped", d: "M22 14C42 14 34 42 52 42H64" }),
      svg("path", { class: "track taken lora", d: "M0 14H64" })),
    h("ul", {},
      h("li", {}, h("code", {}, alias.version), h("span", { class: "tag" }, trial ? percent(1 - alias.canary_weight) : "all")),
      trial && h("li", {}, h("code", {}, alias.canary_version), h("span", { class: "tag" }, `canary ${percent(alias.canary_weight)}`))));
}

function versionRow(model, version, may) {
  const aliases = model.aliases.filter((alias) => alias.alias.startsWith(`${version.name}@`));
  const others = aliases.filter((alias) => alias.version !== version.version);
  const usable = !["failed", "retired", "draining"].includes(version.state);
  return row(COLUMNS, [
    h("span", { class: "stop" }, h("code", {}, version.version), version.error && h("span", { class: "away" }, `${version.error} (${version.error_code})`)),
    life(version.state),
    [...version.aliases.map((name) => use(model, name, version)), ...(version.pinned ? ["pinned"] : [])].join(", ") || NOTHING,
    measured(version.metrics),
    count(version.rank), (version.bytes / 2 ** 20).toFixed(1), minute(version.created_unix_ms),
    may && usable && others.length > 0 ? h("button", { type: "button", class: "small", id: `promote-${version.version}`,
      "aria-label": `Promote ${version.version}`, click: () => promote(model, others[0], version.version) }, "Promote") : "",
  ], { "data-version": version.version });
}

/** The adapter's scores on held-out rows against those of prompting, and its loss before and after the training. */
function measured(metrics) {
  const short = (value) => String(Number(value.toPrecision(3)));
  const scores = Object.entries(METRICS).filter(([name]) => `heldout_${name}` in metrics).slice(0, SHOWN_METRICS).map(([name, words]) =>
    `${words} ${short(metrics[`heldout_${name}`])}${`prompt_path_${name}` in metrics ? `, prompting ${short(metrics[`prompt_path_${name}`])}` : ""}`);
  const loss = "heldout_loss" in metrics && (`loss ${"heldout_loss_before" in metrics ? `${short(metrics.heldout_loss_before)} before, ` : ""}${short(metrics.heldout_loss)} after`);
  const rows = "heldout_rows" in metrics && `on ${count(metrics.heldout_rows)} held-out rows`;
  const lines = [...scores, loss, rows].filter(Boolean);
  return lines.length ? h("span", { class: "stop" }, lines.map((line) => h("span", {}, line))) : NOTHING;
}

function use(model, name, version) {
  const alias = model.aliases.find((one) => one.alias === name);
  return alias?.canary_version === version.version ? `${name}, as canary ${percent(alias.canary_weight)}` : name;
}

/** A version's life as a line with stops; where it failed, that is its last. */
function life(state) {
  const here = LIFE.indexOf(state);
  const x = (number) => 5 + number * 11;
  return h("span", { class: "life" },
    svg("svg", { viewBox: `0 0 ${x(LIFE.length - 1) + 5} 12`, width: x(LIFE.length - 1) + 5, height: 12, "aria-hidden": "true", class: state === "failed" ? "failed" : "" },
      svg("path", { class: "line", d: `M${x(0)} 6H${x(LIFE.length - 1)}` }),
      here > 0 && svg("path", { class: "gone", d: `M${x(0)} 6H${x(here)}` }),
      LIFE.map((name, number) => svg("circle", { cx: x(number), cy: 6, r: number === here ? 4.5 : 2.2, class: number === here ? "here" : number < here ? "gone" : "" }))),
    h("span", { class: state === "failed" ? "bad" : "" }, state));
}

function changeRow(change) {
  const moved = change.before || change.after ? `${change.before || "nothing"} → ${change.after || "nothing"}` : "";
  return row(CHANGES, [time(change.at_unix_ms), change.kind, change.subject,
    h("span", { class: "stop" }, moved || NOTHING, change.reason && h("span", { class: "made" }, change.reason)), change.author || NOTHING]);
}
