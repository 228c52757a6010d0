// The running configuration, the valid one before it, and an edit that was rejected.
import * as api from "./api.js";
import { at, h, show } from "./elements.js";
import { time } from "./words.js";

export async function showConfiguration(caller) {
  if (caller.keys && !caller.admin) {
    const needed = "This key may not read the configuration: that takes one with the admin scope.";
    return show(at("configuration-body"), needed, () => h("p", { class: "panel note" }, needed));
  }
  const history = await api.configuration();
  show(at("configuration-body"), history, () => [
    history.rejected && version("rejected", "Rejected edit", history.rejected, `rejected ${time(history.rejected.unix * 1000)}`),
    version("running", "Running, the last valid one", history.running, `${history.running.revision}, since ${time(history.running.unix * 1000)}`),
    history.previous && version("previous", "Valid before", history.previous, `${history.previous.revision}, since ${time(history.previous.unix * 1000)}`),
  ].filter(Boolean));
}

function version(id, title, one, words) {
  return h("div", { class: "panel", id: `configuration-${id}` }, h("h3", {}, title), h("p", { class: "note" }, words),
    one.problem && h("p", { class: "problem" }, one.problem),
    Object.entries(one.files).map(([name, text]) => h("details", { id: `${id}-${name}` }, h("summary", {}, name), h("pre", {}, text))));
}
