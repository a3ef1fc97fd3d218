// Markdown as DOM nodes. Text only ever becomes text nodes: nothing here parses HTML, and links lead to http, https or
// mailto alone.

const INLINE = /(`+)([\s\S]+?)\1(?!`)|\*\*(?=\S)([\s\S]+?\S|\S)\*\*|\*(?=[^\s*])([\s\S]*?[^\s*])\*(?!\*)|\[([^\[\]\n]+)\]\(([^\s()]+(?:\([^\s()]*\)[^\s()]*)*)\)/;
const BULLET = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const MOST_DEPTH = 20; // of what stands within other marks

function element(name, children = []) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function safeLink(address) {
  return /^(https?:\/\/|mailto:)/i.test(address) ? address : null;
}

// The nodes of a line's text.
export function inline(text, depth = 0) {
  const nodes = [];
  let rest = text;
  while (rest) {
    const found = depth < MOST_DEPTH ? INLINE.exec(rest) : null;
    if (!found) break;
    if (found.index > 0) nodes.push(document.createTextNode(rest.slice(0, found.index)));
    nodes.push(marked(found, depth));
    rest = rest.slice(found.index + found[0].length);
  }
  if (rest) nodes.push(document.createTextNode(rest));
  return nodes;
}

function marked(found, depth) {
  const [whole, ticks, code, bold, italic, label, address] = found;
  if (ticks) return element("code", [code.trim()]);
  if (bold) return element("strong", inline(bold, depth + 1));
  if (italic) return element("em", inline(italic, depth + 1));
  const target = safeLink(address);
  if (!target) return document.createTextNode(whole);
  const link = element("a", inline(label, depth + 1));
  link.setAttribute("href", target);
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
  return link;
}

// The block that begins at a line, and the line behind it.
function block(lines, at, depth) {
  const line = lines[at];
  const fence = /^\s{0,3}(`{3,}|~{3,})/.exec(line);
  if (fence) return codeBlock(lines, at, fence[1]);
  const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
  if (heading) return [element(`h${Math.min(6, heading[1].length + 2)}`, inline(heading[2])), at + 1];
  if (/^\s{0,3}([-*_])(?:\s*\1){2,}\s*$/.test(line)) return [element("hr"), at + 1];
  if (/^\s{0,3}>/.test(line) && depth < MOST_DEPTH) {
    let end = at;
    while (end < lines.length && /^\s{0,3}>/.test(lines[end])) end += 1;
    const inner = lines.slice(at, end).map((l) => l.replace(/^\s{0,3}> ?/, ""));
    return [element("blockquote", blocks(inner, depth + 1)), end];
  }
  if (BULLET.test(line) && depth < MOST_DEPTH) return list(lines, at, depth);
  return paragraph(lines, at);
}

function codeBlock(lines, at, fence) {
  let end = at + 1;
  while (end < lines.length && !lines[end].trimStart().startsWith(fence)) end += 1;
  return [element("pre", [element("code", [lines.slice(at + 1, end).join("\n")])]), end + 1];
}

function list(lines, at, depth) {
  const [, indent, number] = BULLET.exec(lines[at]);
  const made = element(number ? "ol" : "ul");
  if (number && number !== "1") made.setAttribute("start", number);
  let next = at;
  while (next < lines.length) {
    const item = BULLET.exec(lines[next]);
    if (!item || item[1].length > indent.length + 1 || Boolean(item[2]) !== Boolean(number)) break;
    if (item[1].length < indent.length) break;
    const inner = [item[3]];
    next += 1;
    while (next < lines.length && /^\s+\S/.test(lines[next]) && lines[next].search(/\S/) > indent.length + 1) {
      inner.push(lines[next].slice(Math.min(lines[next].search(/\S/), indent.length + 2)));
      next += 1;
    }
    const [first, ...others] = inner;
    made.append(element("li", [...inline(first), ...blocks(others, depth + 1)]));
  }
  return [made, next];
}

function paragraph(lines, at) {
  let end = at + 1;
  const begins = /^\s{0,3}(?:`{3,}|~{3,}|>|#{1,6}\s)/;
  while (end < lines.length && lines[end].trim() && !begins.test(lines[end]) && !BULLET.test(lines[end])) end += 1;
  const nodes = [];
  lines.slice(at, end).forEach((line, i) => {
    if (i > 0) nodes.push(document.createElement("br"));
    nodes.push(...inline(line));
  });
  return [element("p", nodes), end];
}

// The nodes of some lines.
export function blocks(lines, depth = 0) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [node, next] = block(lines, at, depth);
    nodes.push(node);
    at = next;
  }
  return nodes;
}

// The nodes of a text.
export function render(text) {
  return blocks(text.replaceAll("\r\n", "\n").split("\n"));
}
