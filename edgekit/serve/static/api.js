// What the page asks of the server.

const KEY = "edgekit.key";
let key = sessionStorage.getItem(KEY) ?? "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setKey(given) {
  key = given;
  sessionStorage.setItem(KEY, given);
}

async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Refused(response.status, body?.error?.message ?? `the server answered ${response.status}`);
  }
  return response;
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function postJson(path, body) {
  return (await ask(path, { method: "POST", body: JSON.stringify(body) })).json();
}

// The pieces of an answer, as they come. `signal` ends it.
export async function* chat(model, messages, signal) {
  const body = JSON.stringify({ model, messages, stream: true, max_completion_tokens: 1024 });
  const response = await ask("/v1/chat/completions", { method: "POST", body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Refused(500, found.error.message);
      const delta = found.choices?.[0]?.delta;
      if (delta?.content) yield delta.content;
    }
  }
}
