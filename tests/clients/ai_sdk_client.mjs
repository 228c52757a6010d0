// Vercel's AI SDK, with its providers for OpenAI-compatible servers, for OpenAI and for Anthropic.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import {
  BASE_MODEL, CHAT, CITIES, EMBEDDINGS, EMBEDDING_MODEL, MESSAGES, PERSON, QUESTION, RESPONSES, SENTENCE, WEATHER,
  WEATHER_QUESTION, check, isPerson, run,
} from "./checks.mjs";

const compatible = (url) =>
  createOpenAICompatible({
    name: "pointsman", baseURL: `${url}/v1`, apiKey: "none", supportsStructuredOutputs: true,
  });
const chat = (url, model) => compatible(url)(model);
const responses = (url, model) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).responses(model);
const messages = (url, model) => createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" })(model);
const getWeather = tool({
  description: "The weather of a city",
  inputSchema: jsonSchema(WEATHER),
  execute: async ({ city }) => `sunny in ${city}`,
});
const LIMITS = { temperature: 0, maxOutputTokens: 16, maxRetries: 0 };

function checksOf(provider) {
  const forecast = (url) => ({
    ...LIMITS,
    model: provider(url, BASE_MODEL),
    prompt: WEATHER_QUESTION,
    maxOutputTokens: 100,
    tools: { get_weather: getWeather },
    toolChoice: { type: "tool", toolName: "get_weather" },
  });
  return {
    plain: async (url) => {
      const { text } = await generateText({ ...LIMITS, model: provider(url, BASE_MODEL), prompt: QUESTION });
      check(text.includes("Paris"), text);
    },
    streaming: async (url) => {
      const { textStream } = streamText({ ...LIMITS, model: provider(url, BASE_MODEL), prompt: QUESTION });
      let text = "";
      for await (const part of textStream) text += part;
      check(text.includes("Paris"), text);
    },
    tools: async (url) => {
      const { toolCalls, toolResults } = await generateText(forecast(url));
      check(CITIES.includes(toolCalls[0]?.input.city), toolCalls);
      check(toolResults[0].output.startsWith("sunny in"), toolResults);
    },
    "streamed tools": async (url) => {
      const toolCalls = await streamText(forecast(url)).toolCalls;
      check(CITIES.includes(toolCalls[0]?.input.city), toolCalls);
    },
    "tool results": async (url) => {
      const { steps } = await generateText({
        ...forecast(url),
        stopWhen: stepCountIs(2),
        prepareStep: ({ stepNumber }) => (stepNumber === 0 ? {} : { toolChoice: "auto" }),
      });
      check(steps.length === 2 && steps[0].toolResults[0].output.startsWith("sunny in"), steps);
      check(steps[1].usage.inputTokens > steps[0].usage.inputTokens + 20, steps);
    },
    "structured output": async (url) => {
      const { output } = await generateText({
        ...LIMITS,
        model: provider(url, "auto"),
        prompt: SENTENCE,
        maxOutputTokens: 200,
        output: Output.object({ schema: jsonSchema(PERSON) }),
      });
      check(isPerson(output), output);
    },
  };
}

const embed = {
  plain: async (url) => {
    const model = compatible(url).textEmbeddingModel(EMBEDDING_MODEL);
    const { embeddings } = await embedMany({ model, values: [QUESTION, SENTENCE], maxRetries: 0 });
    check(embeddings.every((vector) => vector.length === 384), embeddings);
  },
};

await run({
  [CHAT]: checksOf(chat), [RESPONSES]: checksOf(responses), [MESSAGES]: checksOf(messages), [EMBEDDINGS]: embed,
});
