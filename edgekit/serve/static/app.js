// The page: conversations, the answer that is being written, and the measurements beside them.

import { chat, getJson, postJson, setKey } from "./api.js";
import { render } from "./markdown.js";
import { Plots, sizeText } from "./plots.js";
import { add, conversations, remove, save, title } from "./store.js";

const $ = (id) => document.getElementById(id);
const plots = new Plots($("plots"));
const STATS_MS = 1000;
let current = conversations[0];
let answering = null; // the AbortController of the answer that is being written
let sliding = false;

function show(problem) {
  $("problem").hidden = !problem;
  $("problem").textContent = problem ?? "";
}

function failed(error) {
  if (error.status === 401) $("key-field").hidden = false;
  show(error.message);
}

function keep() {
  if (!save()) show("This browser has no room for more conversations; remove one.");
}

function button(text, act, label = text) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

// --- Conversations ---

function open(conversation) {
  answering?.abort();
  current = conversation;
  show(null);
  draw();
}

function drawConversations() {
  const items = conversations.map((conversation) => {
    const item = document.createElement("li");
    const name = title(conversation);
    const opened = button(name, () => open(conversation));
    opened.setAttribute("aria-current", String(conversation === current));
    const gone = button("×", () => {
      answering?.abort();
      remove(conversation.id);
      open(conversation === current ? conversations[0] : current);
    }, `Remove ${name}`);
    item.append(opened, gone);
    return item;
  });
  $("conversations").replaceChildren(...items);
}

// --- Messages ---

function drawMessage(message, index) {
  const made = document.createElement("article");
  made.className = `message ${message.role === "user" ? "user" : "assistant"}`;
  const who = document.createElement("h2");
  who.textContent = message.role === "user" ? "You" : "Model";
  const body = document.createElement("div");
  body.className = "body";
  body.replaceChildren(...render(message.content));
  const actions = document.createElement("div");
  actions.className = "actions";
  if (message.role === "user") actions.append(button("Edit", () => edit(made, index), "Edit this message"));
  else actions.append(button("Regenerate", () => answer(index), "Regenerate this answer"));
  made.append(who, body, actions);
  return made;
}

function draw() {
  $("messages").replaceChildren(...current.messages.map(drawMessage));
  $("messages").scrollTop = $("messages").scrollHeight;
  drawConversations();
}

function edit(article, index) {
  const field = document.createElement("textarea");
  field.rows = 4;
  field.value = current.messages[index].content;
  field.setAttribute("aria-label", "Message");
  const send = button("Send again", () => {
    current.messages[index].content = field.value;
    void answer(index + 1);
  });
  article.querySelector(".body").replaceChildren(field);
  article.querySelector(".actions").replaceChildren(send, button("Cancel", draw));
  field.focus();
}

// Writes the answer that becomes message `index`; what was there and behind it goes.
async function answer(index) {
  answering?.abort();
  const conversation = current;
  const control = new AbortController();
  const message = { role: "assistant", content: "" };
  const asked = conversation.messages.slice(0, index);
  conversation.messages = [...asked, message];
  answering = control;
  show(null);
  draw();
  const article = $("messages").lastElementChild;
  busy(true);
  try {
    for await (const piece of chat($("model").value, asked, control.signal)) {
      message.content += piece;
      schedule(article, message);
    }
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
  }
  if (!message.content) conversation.messages = asked;
  keep();
  if (answering !== control) return;
  answering = null;
  busy(false);
  draw();
}

let due = 0;
function schedule(article, message) {
  cancelAnimationFrame(due);
  due = requestAnimationFrame(() => {
    const log = $("messages");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    article.querySelector(".body").replaceChildren(...render(message.content));
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
}

function busy(is) {
  $("stop").hidden = !is;
  $("send").disabled = is;
  $("messages").setAttribute("aria-busy", String(is)); // a screen reader speaks the answer when it is whole
}

function send() {
  const text = $("input").value.trim();
  if (!text || answering) return;
  $("input").value = "";
  current.messages.push({ role: "user", content: text });
  keep();
  void answer(current.messages.length);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => answering?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") answering?.abort();
});
$("new").addEventListener("click", () => {
  open(conversations.find((c) => c.messages.length === 0) ?? add());
  $("input").focus();
});
$("key").addEventListener("change", () => {
  setKey($("key").value);
  void begin();
});

// --- Measurements ---

function drawBudget(stats) {
  const loaded = stats.models.length > 0;
  const sum = (name) => stats.models.reduce((total, m) => total + m[name], 0);
  $("unlimited").disabled = !loaded;
  $("budget").disabled = !loaded;
  if (!loaded || sliding) return;
  const least = sum("floor");
  const most = Math.max(least + sum("weights") * 1.1, stats.ram);
  const now = stats.ram || most;
  Object.assign($("budget"), { min: least, max: most, step: Math.max(1, Math.round((most - least) / 200)) });
  $("budget").value = now;
  showBudgetText(stats.ram);
}

function showBudgetText(ram) {
  const text = ram ? sizeText(ram) : "no limit";
  $("budget-text").textContent = text;
  $("budget").setAttribute("aria-valuetext", text);
}

async function setBudget(ram) {
  try {
    const stats = await postJson("/budget", { ram });
    show(null);
    sliding = false;
    drawBudget(stats);
  } catch (error) {
    failed(error);
  } finally {
    sliding = false;
  }
}

$("budget").addEventListener("input", () => {
  sliding = true;
  showBudgetText(Number($("budget").value));
});
$("budget").addEventListener("change", () => void setBudget(Math.round(Number($("budget").value))));
$("unlimited").addEventListener("click", () => void setBudget(0));

async function look() {
  try {
    if (!document.hidden) {
      const stats = await getJson("/stats");
      plots.push(stats, performance.now());
      drawBudget(stats);
    }
  } catch {
    // The server may be away for a moment; what is asked of it by hand says so.
  }
  setTimeout(look, STATS_MS);
}

async function begin() {
  try {
    const writers = (await getJson("/v1/models")).data.filter((m) => m.output === "logits");
    const models = writers.map((m) => {
      const option = document.createElement("option");
      option.value = option.textContent = m.id;
      return option;
    });
    $("model").replaceChildren(...models);
    $("key-field").hidden = true;
    show(null);
  } catch (error) {
    failed(error);
  }
}

draw();
void begin();
void look();
