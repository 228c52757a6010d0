// Moving aliases: each move is confirmed before, and its outcome shown after.
import * as api from "./api.js";
import { confirm } from "./dialogs.js";
import { at, h } from "./elements.js";
import { percent } from "./words.js";

/** What is done once something has moved. */
let moved = async () => {};

export const afterMove = (act) => { moved = act; };

const of = (model, alias) => model.versions.filter((version) =>
  version.name === alias.alias.split("@")[0] && !["failed", "retired", "draining"].includes(version.state));

function versions(model, alias, chosen, without) {
  return [
    h("label", { for: "version" }, "Version"),
    h("select", { id: "version", name: "version", autofocus: true }, of(model, alias).filter((version) => version.version !== without)
      .map((version) => h("option", { value: version.version, selected: version.version === chosen }, `${version.version} (${version.state})`))),
  ];
}

const force = () =>
  h("label", { class: "check" }, h("input", { type: "checkbox", name: "force" }), " even where its evaluation says that prompting is as good");

export async function promote(model, alias, version) {
  const next = version ?? of(model, alias).find((one) => one.version !== alias.version)?.version;
  const form = await confirm(`Move ${alias.alias}`, [
    h("p", {}, "It points to ", h("code", {}, alias.version), alias.canary_version && " and has a canary, which ends",
      ". All requests that name it go to the version below, from one moment on, once an engine holds it."),
    ...versions(model, alias, next, alias.version),
    force(),
  ], "Move it");
  if (form) await carryOut("alias", model, alias, { version: form.version, force: form.force === "on" }, `moving ${alias.alias} to ${form.version}`);
}

export async function canary(model, alias) {
  const form = await confirm(`Canary of ${alias.alias}`, [
    h("p", {}, "A share of the users gets another version. It is taken back by itself where it does worse than ", h("code", {}, alias.version), "."),
    ...versions(model, alias, alias.canary_version, alias.version),
    h("label", { for: "weight" }, "Share of users, in per cent"),
    h("input", { id: "weight", name: "weight", type: "number", min: 0.1, max: 100, step: 0.1, required: true,
      value: alias.canary_version ? Number((alias.canary_weight * 100).toPrecision(3)) : 5 }),
    force(),
  ], "Set the canary");
  if (form) await carryOut("canary", model, alias, { version: form.version, weight: Number(form.weight) / 100, force: form.force === "on" }, `setting the canary of ${alias.alias}`);
}

export async function endCanary(model, alias) {
  const form = await confirm(`End the canary of ${alias.alias}`,
    h("p", {}, "All users get ", h("code", {}, alias.version), " again."), "End it");
  if (form) await carryOut("canary", model, alias, { version: "", weight: 0 }, `ending the canary of ${alias.alias}`);
}

export async function rollBack(model, alias) {
  const to = alias.canary_version
    ? ["It ends the canary ", h("code", {}, alias.canary_version), "; all users get ", h("code", {}, alias.version), "."]
    : ["It points back from ", h("code", {}, alias.version), " to ", h("code", {}, alias.previous), "."];
  const form = await confirm(`Roll back ${alias.alias}`, [
    h("p", {}, ...to),
    h("label", { for: "reason" }, "Reason, for the history"),
    h("input", { id: "reason", name: "reason", maxlength: 500, autofocus: true }),
  ], "Roll back");
  if (form) await carryOut("rollback", model, alias, { reason: form.reason }, `rolling ${alias.alias} back`);
}

async function carryOut(step, model, alias, body, words) {
  tell(`${words} …`);
  try {
    const now = await api.move(step, { model: model.model, alias: alias.alias, expected_version: alias.version, ...body });
    const trial = now.canary_version ? `, and for ${percent(now.canary_weight)} of its users to ${now.canary_version}` : "";
    tell(`${now.alias} points to ${now.version}${trial}.`, "good");
  } catch (error) {
    tell(`Not done (${words}): ${error.message}`, "problem");
  }
  await moved();
}

function tell(text, kind = "") {
  at("adapters-outcome").textContent = text;
  at("adapters-outcome").className = `outcome ${kind}`;
}
