// Stored answers side by side: what decisions that were chosen in the list have answered, and at what price.
import * as api from "./api.js";
import { compareWide } from "./dialogs.js";
import { h } from "./elements.js";
import { count, dollars, pathName, seconds, time, NOTHING } from "./words.js";

export const MOST = 4;

/** Opens the answers of the decisions with these ids, side by side. */
export async function compareStored(ids) {
  try {
    const views = await Promise.all(ids.map(api.decision));
    await compareWide("Answers side by side", content(views));
  } catch (error) {
    await compareWide("Answers side by side", h("p", { class: "problem" }, error.message));
  }
}

function content(views) {
  const requests = views.map(({ entry }) => request(entry)), same = new Set(requests).size === 1;
  return [
    same && h("div", { class: "message" }, h("b", {}, "request"), h("p", {}, requests[0])),
    h("div", { class: "answers" }, views.map(({ entry, feedback }, number) => card(entry, feedback, same ? null : requests[number]))),
  ].filter(Boolean);
}

/** The last words of the user, which are what people compare by. */
function request(entry) {
  const words = entry.messages?.filter((message) => message.role === "user").at(-1)?.content;
  return words ?? "The request's text is not stored (request_log.store_messages is off).";
}

function card(entry, feedback, words) {
  const figures = { TTFT: seconds(entry.seconds.first_token || null), total: seconds(entry.seconds.total),
    tokens: `${count(entry.usage.prompt_tokens)} + ${count(entry.usage.completion_tokens)}`, dollars: dollars(entry.cost_usd) };
  const said = [feedback.rating && `rated ${feedback.rating}`, feedback.correction && `correction: ${feedback.correction}`,
    feedback.right_answer && `right answer: ${feedback.right_answer}`].filter(Boolean);
  return h("article", { class: `panel answer ${entry.kind}`, "data-path": entry.path, "aria-label": `Answer of ${entry.path} at ${time(entry.unix_ms)}` },
    h("div", { class: "stop" }, pathName(entry.path, entry.kind), h("span", { class: "tag" }, entry.outcome), h("span", { class: "made" }, entry.model || NOTHING)),
    h("p", { class: "made" }, `${time(entry.unix_ms)}, ${entry.reason}`),
    words && h("p", { class: "asked-words" }, words),
    entry.answer === null || entry.answer === undefined
      ? h("p", { class: "text faint" }, "The answer is not stored: request_log.store_answers is off, or it was not one text.")
      : h("div", { class: "text", tabindex: 0, "aria-label": `Text of the answer of ${entry.path}` }, entry.answer),
    h("dl", { class: "figures" }, Object.entries(figures).map(([name, value]) => h("div", { "data-figure": name }, h("dt", {}, name), h("dd", {}, value)))),
    said.map((one) => h("p", { class: "made" }, one)));
}
