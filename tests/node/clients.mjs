// Runs every scenario through openai-node and the AI SDK, and tells in one line of JSON what each of them made of it.
//
// stdin:  {base_url, api_key, scenarios: [what `python -m tests.fakes.scenarios` prints]}
// stdout: {client, scenario, mode, choices, usage, usages, error, crash}, a line for each client and scenario
//
// `error` is what the API said. Whatever else was thrown is a `crash`.

import { text } from "node:stream/consumers";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const AT_ONCE = 8;
const TIMEOUT_MS = 30_000; // a scenario that hangs is told by its name

globalThis.AI_SDK_LOG_WARNINGS = false;
const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => tell({ crash: { class: event, message: String(error?.stack ?? error) } }));
}

const { base_url: baseURL, api_key: apiKey, scenarios } = JSON.parse(await text(process.stdin));
const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: TIMEOUT_MS });

// --- openai-node ---------------------------------------------------------------------------------------------------

async function openaiUnary(scenario, request, seen) {
  lookAt(await openai.chat.completions.create(request, { headers: scenario.headers }), scenario, seen);
}

async function openaiStream(scenario, request, seen) {
  for await (const chunk of await openai.chat.completions.create(request, { headers: scenario.headers })) {
    if (chunk.usage) {
      seen.usage = chunk.usage;
      seen.usages += 1;
    }
    for (const choice of chunk.choices) addDelta(choice, scenario, seen);
  }
}

async function openaiHelper(scenario, request, seen) {
  const stream = openai.chat.completions.stream(request, { headers: scenario.headers });
  try {
    lookAt(await stream.finalChatCompletion(), scenario, seen);
  } catch (error) {
    if (stream.currentChatCompletionSnapshot) lookAt(stream.currentChatCompletionSnapshot, scenario, seen);
    throw error;
  }
}

// Joins deltas as an application does, and counts what must come once.
function addDelta({ index, delta, finish_reason, logprobs }, scenario, seen) {
  const choice = (seen.choices[index] ??= {
    content: null,
    refusal: null,
    reasoning: null,
    tool_calls: [],
    function_call: null,
    finish: null,
    logprobs: null,
    counts: { role: 0, finish: 0, calls: [] },
  });
  const add = (name, piece) => typeof piece === "string" && (choice[name] = (choice[name] ?? "") + piece);
  add("content", delta.content);
  add("refusal", delta.refusal);
  add("reasoning", delta[scenario.reasoning_names[0]]);
  add("finish", finish_reason);
  if (logprobs?.content) choice.logprobs = [...(choice.logprobs ?? []), ...logprobs.content];
  if (delta.role) choice.counts.role += 1;
  if (finish_reason) choice.counts.finish += 1;
  for (const piece of delta.tool_calls ?? []) {
    const call = (choice.tool_calls[piece.index] ??= { id: "", name: "", arguments: "" });
    const counts = (choice.counts.calls[piece.index] ??= { id: 0, name: 0 });
    const body = piece.function ?? piece.custom ?? {};
    call.id += piece.id ?? "";
    call.name += body.name ?? "";
    call.arguments += body.arguments ?? body.input ?? "";
    if (piece.id) counts.id += 1;
    if (body.name) counts.name += 1;
  }
  if (delta.function_call) {
    choice.function_call ??= { name: "", arguments: "" };
    choice.function_call.name += delta.function_call.name ?? "";
    choice.function_call.arguments += delta.function_call.arguments ?? "";
  }
}

function lookAt(completion, scenario, seen) {
  seen.choices = completion.choices.map(({ message, finish_reason, logprobs }) => ({
    content: message.content ?? null,
    refusal: message.refusal ?? null,
    reasoning: message[scenario.reasoning_names[0]] ?? null,
    tool_calls: (message.tool_calls ?? []).map(({ id, function: body, custom }) => ({
      id,
      name: (body ?? custom).name,
      arguments: (body ?? custom).arguments ?? custom.input,
    })),
    function_call: message.function_call ?? null,
    finish: finish_reason,
    logprobs: logprobs?.content ?? null,
  }));
  if (completion.usage) {
    seen.usage = completion.usage;
    seen.usages = 1;
  }
}

// --- AI SDK --------------------------------------------------------------------------------------------------------

async function aiUnary(scenario, request, seen) {
  const [step] = (await generateText(aiCall(scenario, request))).steps;
  seen.choices[0] = {
    content: step.text,
    reasoning: step.reasoningText ?? "",
    tool_calls: step.toolCalls.map((call) => aiToolCall(call, asText(call.input))),
    finish: step.finishReason,
    raw_finish: step.rawFinishReason ?? null,
  };
  addAiUsage(step.usage, seen);
}

async function aiStream(scenario, request, seen) {
  const inputs = {};
  const choice = { content: "", reasoning: "", tool_calls: [], counts: { starts: {}, finish: 0 } };
  const on = {
    "text-delta": (part) => (choice.content += part.text),
    "reasoning-delta": (part) => (choice.reasoning += part.text),
    "tool-input-start": (part) => (choice.counts.starts[part.id] = (choice.counts.starts[part.id] ?? 0) + 1),
    "tool-input-delta": (part) => (inputs[part.id] = (inputs[part.id] ?? "") + part.delta),
    "tool-call": (part) => choice.tool_calls.push(aiToolCall(part, inputs[part.toolCallId] ?? "")),
    "finish-step": (part) => {
      choice.finish = part.finishReason;
      choice.raw_finish = part.rawFinishReason ?? null;
      choice.counts.finish += 1;
      addAiUsage(part.usage, seen);
    },
  };
  let failure;
  for await (const part of streamText({ ...aiCall(scenario, request), onError: () => {} }).fullStream) {
    if (on[part.type]) seen.choices[0] = choice;
    on[part.type]?.(part);
    if (part.type === "error") failure ??= { error: part.error };
  }
  if (failure) throw failure.error;
}

function aiCall(scenario, request) {
  // What the SDK has no words for goes into the body behind its back.
  const sending = (url, init) =>
    fetch(url, { ...init, body: JSON.stringify({ ...JSON.parse(init.body), ...request }) });
  const provider = createOpenAICompatible({ name: "tidegate", baseURL, apiKey, includeUsage: true, fetch: sending });
  // It must know the tools, or every call is one of an unknown tool; without `execute` it does not run them.
  const functions = (request.tools ?? []).filter((made) => made.type === "function").map((made) => made.function);
  const tools = functions.map(({ name, parameters }) => [
    name,
    tool({ inputSchema: jsonSchema(parameters ?? { type: "object" }) }),
  ]);
  return {
    model: provider(request.model),
    prompt: "hi",
    tools: tools.length ? Object.fromEntries(tools) : undefined,
    headers: scenario.headers,
    maxRetries: 0,
    abortSignal: AbortSignal.timeout(TIMEOUT_MS),
  };
}

// What is no JSON is left a string.
const asText = (input) => (typeof input === "string" ? input : JSON.stringify(input));

const aiToolCall = (call, args) => ({
  id: call.toolCallId,
  name: call.toolName,
  arguments: args,
  invalid: call.error?.name ?? null,
});

function addAiUsage({ inputTokens, outputTokens, totalTokens, raw }, seen) {
  if (!raw) return;
  seen.usage = { input: inputTokens, output: outputTokens, total: totalTokens, raw };
  seen.usages += 1;
}

// --- all of them ---------------------------------------------------------------------------------------------------

const CLIENTS = {
  "openai create": { mode: "unary", read: openaiUnary },
  "openai create, streamed": { mode: "stream", read: openaiStream },
  "openai stream helper": { mode: "stream", read: openaiHelper },
  "ai generateText": { mode: "unary", read: aiUnary },
  "ai streamText": { mode: "stream", read: aiStream },
};

async function run({ client, scenario }) {
  const { mode, read } = CLIENTS[client];
  const seen = { choices: [], usage: undefined, usages: 0 };
  let failure = {};
  try {
    await read(scenario, scenario.modes[mode].request, seen);
  } catch (error) {
    failure = told(error);
  }
  tell({ client, scenario: scenario.name, mode, ...seen, ...failure });
}

// What the API said has an error object in it; a connection that fails has none, nor has a page of HTML.
function told(error) {
  const name = error?.constructor?.name;
  if (error instanceof OpenAI.APIError && error.error) {
    return { error: { status: error.status ?? null, code: error.code, message: error.message, class: name } };
  }
  if (APICallError.isInstance(error) && error.data) {
    const { code, message } = error.data.error;
    return { error: { status: error.statusCode, code, message, class: error.name } };
  }
  if (name === "Object" && typeof error.message === "string") {
    // in band; the AI SDK hands it out as it came
    return { error: { status: null, code: error.code, message: error.message, class: name } };
  }
  return { crash: { class: name, message: String(error?.stack ?? error) } };
}

const left = Object.entries(CLIENTS).flatMap(([client, { mode }]) =>
  scenarios.filter((scenario) => scenario.modes[mode]).map((scenario) => ({ client, scenario })),
);
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    while (left.length) await run(left.shift());
  }),
);
