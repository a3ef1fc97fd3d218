// Conversations, kept in this browser.

const KEY = "edgekit.conversations";

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((c) => typeof c?.id === "string" && Array.isArray(c.messages)) : [];
  } catch {
    return [];
  }
}

export const conversations = read();
if (conversations.length === 0) add();

export function add() {
  conversations.unshift({ id: crypto.randomUUID?.() ?? String(Math.random()), messages: [] });
  return conversations[0];
}

export function remove(id) {
  conversations.splice(conversations.findIndex((c) => c.id === id), 1);
  if (conversations.length === 0) add();
  save();
}

export function title(conversation) {
  return conversation.messages[0]?.content.slice(0, 40) || "New conversation";
}

// False when the browser has no room left.
export function save() {
  try {
    localStorage.setItem(KEY, JSON.stringify(conversations));
    return true;
  } catch {
    return false;
  }
}
