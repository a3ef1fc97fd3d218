// Plots of the last minute, as SVG: each has its value as text too.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 60;

export function sizeText(bytes) {
  if (bytes >= 1 << 30) return `${(bytes / (1 << 30)).toFixed(2)} GiB`;
  if (bytes >= 1 << 20) return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  return `${(bytes / 1024).toFixed(0)} KiB`;
}

class Plot {
  constructor(name, format) {
    this.format = format;
    this.values = [];
    this.figure = document.createElement("figure");
    this.figure.className = "plot";
    const caption = document.createElement("figcaption");
    const label = document.createElement("span");
    label.textContent = name;
    this.text = document.createElement("output");
    this.text.setAttribute("aria-live", "off");
    caption.append(label, this.text);
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 100`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.curve = document.createElementNS(SVG, "polyline");
    this.limit = document.createElementNS(SVG, "line");
    this.svg.append(this.curve, this.limit);
    this.figure.append(caption, this.svg);
  }

  // `limit`: a line across, or 0.
  push(value, limit = 0) {
    this.values = [...this.values, value].slice(-POINTS);
    const most = Math.max(limit, ...this.values) * 1.05 || 1;
    const height = (v) => 100 - (100 * v) / most;
    const first = POINTS - this.values.length;
    this.curve.setAttribute("points", this.values.map((v, i) => `${first + i},${height(v).toFixed(1)}`).join(" "));
    const at = { x1: 0, x2: limit ? POINTS - 1 : 0, y1: height(limit), y2: height(limit) };
    for (const [name, to] of Object.entries(at)) this.limit.setAttribute(name, to);
    this.text.textContent = this.format(value) + (limit ? ` of ${this.format(limit)}` : "");
  }
}

export class Plots {
  constructor(parent) {
    this.speed = new Plot("Tokens a second", (v) => v.toFixed(1));
    this.memory = new Plot("Memory", sizeText);
    this.read = new Plot("Read per token", sizeText);
    this.hits = new Plot("Window hits", (v) => `${v.toFixed(0)}%`);
    parent.append(...[this.speed, this.memory, this.read, this.hits].map((p) => p.figure));
    this.last = null;
  }

  // `stats`: what /stats gives, at `time` in milliseconds.
  push(stats, time) {
    const sum = (name) => stats.models.reduce((total, m) => total + m[name], 0);
    const now = {
      time,
      tokens: stats.generated_tokens,
      read: sum("bytes_read"),
      hits: sum("window_hits"),
      misses: sum("window_misses"),
    };
    const last = this.last ?? now;
    this.last = now;
    const grown = (name) => Math.max(0, now[name] - last[name]);
    const seconds = (now.time - last.time) / 1000;
    const units = grown("hits") + grown("misses");
    this.speed.push(seconds > 0 ? grown("tokens") / seconds : 0);
    this.memory.push(sum("memory"), sum("budget"));
    this.read.push(grown("tokens") ? grown("read") / grown("tokens") : 0);
    this.hits.push(units ? (100 * grown("hits")) / units : 0);
  }
}
