// One streamed answer of /v1/chat/completions, read event by event.
import { Refused, send } from "./api.js";

/** Calls `sink.started(headers)`, `sink.text(piece)` and `sink.ended(receipt, usage)`; throws what went wrong. */
export async function stream(body, sink, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", asked, signal);
  sink.started(response.headers);
  let last = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return sink.ended(last?.pointsman ?? null, last?.usage ?? null);
    const event = JSON.parse(data);
    if (event.error) throw new Refused(response.status, event.error);
    if (event.pointsman) last = event;
    const piece = event.choices?.[0]?.delta?.content;
    if (piece) sink.text(piece);
  }
  throw new Error("the answer broke off");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}
