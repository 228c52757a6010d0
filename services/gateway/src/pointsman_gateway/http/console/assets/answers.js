// One path's answer, as it comes, with its times and its price; and what somebody says of it.
import * as api from "./api.js";
import { at, h } from "./elements.js";
import { link } from "./decisions.js";
import { stream } from "./stream.js";
import { count, dollars, pathName, seconds, NOTHING } from "./words.js";

export class AnswerCard {
  /** `model` is what the request says: "auto", or a path by name. */
  constructor(path, kind, model, body, chosen) {
    this.asked = { ...body, model };
    this.receipt = null;
    this.id = "";
    this.name = h("div", { class: "stop" }, pathName(path, kind), chosen && h("span", { class: "tag" }, "chosen"));
    this.text = h("div", { class: "text", "aria-live": "polite", "aria-busy": "true", tabindex: 0, "aria-label": `Answer of ${path}` });
    this.figures = h("dl", { class: "figures" });
    this.below = h("div", { class: "below" });
    this.element = h("article", { class: `panel answer ${kind}`, "data-path": path, "aria-label": `Answer of ${path}` },
      this.name, this.text, this.figures, this.below);
    this.tell({});
  }

  async run(signal) {
    const begun = performance.now();
    const since = () => (performance.now() - begun) / 1000;
    let first = null;
    try {
      await stream(this.asked, {
        started: (headers) => this.started(headers),
        text: (piece) => {
          first ??= since();
          this.text.append(piece);
          this.tell({ first, total: since() });
        },
        ended: (receipt, usage) => this.ended(receipt, usage),
      }, signal);
    } catch (error) {
      this.text.classList.add("broken");
      this.below.replaceChildren(h("p", { class: "problem" }, error.name === "AbortError" ? "stopped" : error.message));
    } finally {
      this.text.setAttribute("aria-busy", "false");
    }
  }

  started(headers) {
    this.id = headers.get("x-pointsman-decision-id");
    const path = headers.get("x-pointsman-path");
    if (path !== this.element.dataset.path) this.name.replaceChildren(pathName(path, headers.get("x-pointsman-kind")),
      h("span", { class: "tag" }, `instead of ${this.element.dataset.path}`));
    const adapter = headers.get("x-pointsman-adapter");
    if (adapter) this.name.append(h("span", { class: "made" }, adapter));
  }

  ended(receipt, usage) {
    this.receipt = receipt;
    this.tell({ first: receipt.seconds.first_token, total: receipt.seconds.total, usage, usd: receipt.cost_usd });
    const sources = receipt.sources.map((source) => source.title || source.document_id);
    const remarks = [
      sources.length && `from ${sources.join(", ")}`,
      receipt.escalated_from && `after ${receipt.escalated_from}, whose answer was refused`,
      receipt.cached && `out of the cache (${receipt.cached})`,
    ].filter(Boolean);
    this.below.replaceChildren(...remarks.map((remark) => h("p", { class: "made" }, remark)), this.rating(), this.correction(),
      h("p", { class: "made" }, link(this.id, "Decision and receipt")));
    compare();
  }

  tell({ first = null, total = null, usage = null, usd = null }) {
    const cached = usage?.prompt_tokens_details?.cached_tokens;
    const tokens = usage ? `${count(usage.prompt_tokens)} + ${count(usage.completion_tokens)}` : NOTHING;
    const figures = [["TTFT", seconds(first)], ["total", seconds(total), total], ["tokens", tokens], ["dollars", dollars(usd), usd]];
    this.figures.replaceChildren(...figures.map(([name, value, weight]) => h("div", { "data-figure": name, "data-weight": weight },
      h("dt", {}, name), h("dd", { title: name === "tokens" && cached ? `${count(cached)} of the prompt were cached` : null }, value),
      h("span", { class: "bar", "aria-hidden": "true" }))));
  }

  rating() {
    const status = h("span", { class: "made", role: "status" });
    const button = (word, rating) => h("button", { type: "button", class: "small", "aria-pressed": "false", click: async (event) => {
      for (const each of event.currentTarget.parentNode.querySelectorAll("button")) each.setAttribute("aria-pressed", "false");
      event.currentTarget.setAttribute("aria-pressed", "true");
      await this.tellGateway({ rating }, status, "rated");
    } }, word);
    return h("div", { class: "row rating", role: "group", "aria-label": `Rate the answer of ${this.element.dataset.path}` },
      button("Good", 1), button("So-so", 0.5), button("Bad", 0), status);
  }

  /** A right answer scores both answers of a shadow request, and becomes training data where that is allowed. */
  correction() {
    const status = h("span", { class: "made", role: "status" });
    const text = h("textarea", { rows: 2, "aria-label": `Right answer instead of that of ${this.element.dataset.path}`, spellcheck: "false" });
    const send = () => text.value.trim() && this.tellGateway({ right_answer: text.value.trim() }, status, "stored");
    return h("details", { class: "right-answer" }, h("summary", {}, "Right answer"), text,
      h("div", { class: "row" }, h("button", { type: "button", class: "small", click: send }, "Send the right answer"), status));
  }

  async tellGateway(feedback, status, words) {
    try {
      const { stored } = await api.feedback({ decision_id: this.id, ...feedback });
      status.textContent = stored === "wal" ? "stored on disk until Redis is available" : words;
    } catch (error) {
      status.textContent = error.message;
    }
  }
}

/** The bars under times and dollars: each as long as its part of the largest. */
function compare() {
  for (const name of ["total", "dollars"]) {
    const all = [...at("answers").querySelectorAll(`[data-figure="${name}"][data-weight]`)];
    const most = Math.max(...all.map((one) => Number(one.dataset.weight)), 0) || 1;
    for (const one of all) one.querySelector(".bar").style.width = `${(Number(one.dataset.weight) / most) * 100}%`;
  }
}
