"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const palette = ["#1f6fd6", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0b7285", "#a67c00", "#5f3dc4", "#495057", "#74b816"];
const hidden = new Set();
const options = { x: "step", smooth: 0, intervals: false };

function element(parent, name, attributes = {}, text = null) {
  const svg = ["svg", "g", "path", "line", "circle", "text", "rect"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  parent.appendChild(node);
  return node;
}

function format(value) {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(1);
  if (size >= 1e9) return (value / 1e9).toPrecision(3) + "G";
  if (size >= 1e6) return (value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return (value / 1e3).toPrecision(3) + "k";
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

// Round numbers within [low, high], about `count` of them; powers of two or ten on a logarithmic axis.
function ticks(low, high, count, log) {
  if (log) {
    const base = high / low > 1e4 ? 10 : 2, all = [];
    for (let e = Math.ceil(Math.log(low) / Math.log(base) - 1e-9); base ** e <= high * (1 + 1e-9); e++) all.push(base ** e);
    if (all.length >= 2) return all.filter((_, i) => i % Math.ceil(all.length / (count + 2)) === 0);
  }
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const all = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) all.push(Number(t.toPrecision(10)));
  return all;
}

function smoothed(points, weight) {
  if (weight <= 0) return points;
  let mean = 0, norm = 0;
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    norm = weight * norm + (1 - weight);
    return [x, mean / norm];
  });
}

let tip = null;
function showTip(event, text) {
  if (!tip) tip = element(document.body, "div", { class: "tip" });
  tip.style.display = text ? "block" : "none";
  tip.textContent = text;
  tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = event.clientY + 14 + "px";
}

// Ends of an axis with some air around the values.
function extent(values, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= Math.abs(low) * 0.05 || 1; high += Math.abs(high) * 0.05 || 1; }
  const air = log ? (high / low) ** 0.04 : (high - low) * 0.04;
  return log ? [low / air, high * air] : [low - air, high + air];
}

// lines: [{name, color, points: [[x, y], ..], band: [[x, low, high], ..]?, dots, labels?}]; names: texts of x = 0, 1, ...
function chart(parent, { title, note = "", xLabel, yLabel, lines, logX = false, logY = false, names = null, yRange = null }) {
  const kept = lines.map((line) => ({ ...line, band: (options.intervals && line.band) || [], points: line.points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && (!logX || x > 0) && (!logY || y > 0)) }))
    .filter((line) => line.points.length > 0);
  if (kept.length === 0) return;
  const figure = element(parent, "figure");
  element(element(figure, "figcaption", {}, title + " "), "small", {}, note);
  const tilted = names !== null && names.reduce((sum, name) => sum + name.length + 2, 0) * 6 > 480;
  const longest = tilted ? Math.max(...names.map((name) => name.length)) : 0;
  const width = 560, left = 56, right = 12, top = 10, bottom = 40 + Math.min(80, 3 * longest), height = 230 + bottom;
  const svg = element(figure, "svg", { viewBox: `0 0 ${width} ${height}` });
  const every = kept.flatMap((line) => line.points);
  const [x0, x1] = extent(every.map((p) => p[0]), logX);
  const [y0, y1] = yRange || extent(every.map((p) => p[1]).concat(kept.flatMap((line) => line.band.flatMap((b) => [b[1], b[2]]))), logY);
  const scale = (v, a, b, log) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
  const px = (x) => left + scale(x, x0, x1, logX) * (width - left - right);
  const py = (y) => height - bottom - scale(y, y0, y1, logY) * (height - top - bottom);
  for (const t of ticks(y0, y1, 5, logY)) {
    element(svg, "line", { class: "grid", x1: left, x2: width - right, y1: py(t), y2: py(t) });
    element(svg, "text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" }, format(t));
  }
  for (const t of names ? names.map((_, i) => i) : ticks(x0, x1, 6, logX)) {
    element(svg, "line", { class: "grid", x1: px(t), x2: px(t), y1: top, y2: height - bottom });
    const x = px(t), y = height - bottom + 16;
    element(svg, "text", { x, y, ...(tilted ? { "text-anchor": "end", transform: `rotate(-30 ${x} ${y})` } : { "text-anchor": "middle" }) }, names ? names[t] : format(t));
  }
  element(svg, "line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
  element(svg, "line", { class: "axis", x1: left, x2: left, y1: top, y2: height - bottom });
  element(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel);
  element(svg, "text", { x: 12, y: (top + height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(top + height - bottom) / 2})` }, yLabel);
  for (const line of kept) {
    for (const [x, low, high] of line.band) element(svg, "line", { x1: px(x), x2: px(x), y1: py(low), y2: py(high), stroke: line.color, "stroke-opacity": 0.5 });
    if (!line.scatter) element(svg, "path", { stroke: line.color, "stroke-dasharray": line.dash || "", d: line.points.map(([x, y], i) => (i ? "L" : "M") + px(x).toFixed(1) + " " + py(y).toFixed(1)).join("") });
    if (line.scatter || line.points.length <= 20) for (const [x, y] of line.points) element(svg, "circle", { cx: px(x), cy: py(y), r: 2.6, fill: line.color });
  }
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const mx = ((event.clientX - box.left) / box.width) * width, my = ((event.clientY - box.top) / box.height) * height;
    let best = null;
    for (const line of kept) for (const [x, y] of line.points) {
      const distance = Math.hypot(px(x) - mx, py(y) - my);
      if (!best || distance < best.distance) best = { distance, line, x, y };
    }
    showTip(event, `${best.line.name}\n${xLabel}: ${names ? names[best.x] : format(best.x)}\n${yLabel}: ${format(best.y)}`);
  });
  svg.addEventListener("mouseleave", (event) => showTip(event, ""));
  const legend = element(figure, "div", { class: "legend" });
  for (const line of kept) {
    const item = element(legend, "span");
    element(item, "span", { class: "swatch", style: `background:${line.color}` });
    item.append(line.name);
  }
}

function table(parent, header, rows) {
  const box = element(element(parent, "div", { class: "scroll" }), "table");
  const head = element(box, "tr");
  for (const cell of header) element(head, "th", {}, cell);
  for (const row of rows) {
    const line = element(box, "tr");
    for (const cell of row) element(line, "td", {}, format(cell));
  }
}

function section(title, fill) {
  const part = document.createElement("section");
  element(part, "h2", {}, title);
  fill(part);
  if (part.childNodes.length > 1 && !(part.childNodes.length === 2 && part.lastChild.childNodes.length === 0)) document.getElementById("content").appendChild(part);
}

const runColor = new Map(data.runs.map((run, i) => [run, palette[i % palette.length]]));
const runDash = new Map(data.runs.map((run, i) => [run, ["", "5 3", "2 3"][Math.floor(i / palette.length) % 3]]));
const shown = () => data.runs.filter((run) => !hidden.has(run));
const isPerplexity = (e) => !e.task && Array.isArray(e.results);
const lastPerplexity = (run) => run.evaluations.filter(isPerplexity).at(-1) || null;
const ahead = (evaluation) => (evaluation.looks_ahead ? " (looks ahead)" : "");

function trainingCharts(part) {
  const charts = element(part, "div", { class: "charts" });
  const draw = (column, title, extra = {}) => chart(charts, {
    title, xLabel: options.x, yLabel: column, ...extra,
    lines: shown().filter((run) => run.series[column] && run.series[options.x]).map((run) => ({
      name: run.name, color: runColor.get(run), dash: runDash.get(run),
      points: smoothed(run.series[options.x].map((x, i) => [x, run.series[column][i]]).filter((p) => p[0] !== null && p[1] !== null), options.smooth),
    })),
  });
  draw("loss", "Training loss", { note: "nats a token" });
  draw("lr", "Learning rate");
  draw("grad_norm", "Gradient norm", { note: "before clipping", logY: true });
  draw("tokens_per_s", "Throughput", { note: "tokens a second, waiting for data included" });
  draw("mfu", "Model FLOPs utilisation");
}

function duringTraining(part) {
  const charts = element(part, "div", { class: "charts" });
  const lengths = [...new Set(data.runs.flatMap((run) => run.evaluations.filter(isPerplexity).flatMap((e) => e.results.map((r) => r.context_length))))];
  for (const length of lengths.sort((a, b) => a - b)) {
    const lines = shown().map((run) => ({
      name: run.name, color: runColor.get(run), dash: runDash.get(run),
      points: run.evaluations.filter((e) => isPerplexity(e) && e.step !== undefined)
        .flatMap((e) => e.results.filter((r) => r.context_length === length).map((r) => [e.step, r.nll])),
    })).filter((line) => line.points.length > 1);
    chart(charts, { title: `Held-out NLL at context ${length}`, xLabel: "step", yLabel: "nats a token", lines });
  }
}

function perplexityCharts(part) {
  const charts = element(part, "div", { class: "charts" });
  const last = shown().flatMap((run) => {
    const stepwise = run.evaluations.filter((e) => isPerplexity(e) && e.step !== undefined).at(-1);
    return run.evaluations.filter((e) => isPerplexity(e) && (e.step === undefined || e === stepwise))
      .map((e, i, all) => ({ run, e, name: run.name + (all.length > 1 ? " · " + e.file : "") + ahead(e) }));
  });
  const color = (i) => palette[i % palette.length];
  chart(charts, {
    title: "Perplexity by context length", xLabel: "context length", yLabel: "perplexity", logX: true, logY: true,
    lines: last.map(({ e, name }, i) => ({ name, color: color(i), points: e.results.map((r) => [r.context_length, r.perplexity]),
      band: e.results.filter((r) => r.nll_ci95).map((r) => [r.context_length, Math.exp(r.nll - r.nll_ci95), Math.exp(r.nll + r.nll_ci95)]) })),
  });
  chart(charts, {
    title: "Perplexity by position in the context", note: "longest context of each", xLabel: "tokens before it", yLabel: "perplexity", logY: true,
    lines: last.map(({ e, name }, i) => {
      const longest = e.results.reduce((a, b) => (b.context_length > a.context_length ? b : a), e.results[0] || {});
      return { name, color: color(i), points: (longest.by_position || []).filter((b) => b.tokens > 0).map((b) => [(b.begin + b.end) / 2, Math.exp(b.nll)]) };
    }),
  });
  const kinds = last.map(({ e, name }, i) => ({ name, color: color(i), scatter: true, points: e.results.filter((r) => r.visible_pairs_per_token).map((r) => [r.visible_pairs_per_token, r.perplexity]) }));
  if (kinds.length > 1) chart(charts, { title: "Perplexity against cost", note: "compare kinds at equal pairs", xLabel: "visible pairs a token", yLabel: "perplexity", logX: true, logY: true, lines: kinds });
  table(part, ["run", "file", "attention", "context", "pairs/token", "scored", "NLL", "± 95 %", "perplexity", "bits/byte", "note"],
    last.flatMap(({ run, e }) => e.results.map((r) => [run.name, e.file, e.attention, r.context_length, r.visible_pairs_per_token, r.tokens_scored,
      r.nll, r.nll_ci95, r.perplexity, r.bits_per_byte, e.looks_ahead ? "looks ahead" : ""])));
}

function retrievalCharts(part) {
  const charts = element(part, "div", { class: "charts" });
  const found = shown().flatMap((run) => run.evaluations.filter((e) => e.task).map((e) => ({ run, e })));
  for (const task of [...new Set(found.map(({ e }) => e.task))]) {
    chart(charts, {
      title: `Exact match: ${task}`, xLabel: "prompt tokens", yLabel: "exact match", logX: true, yRange: [-0.02, 1.02],
      lines: found.filter(({ e }) => e.task === task).map(({ run, e }) => ({ name: run.name, color: runColor.get(run),
        points: e.results.map((r) => [r.length, r.exact_match]), band: e.results.map((r) => [r.length, r.ci95[0], r.ci95[1]]) })),
    });
  }
  if (found.length > 0) {
    table(part, ["run", "task", "attention", "length", "samples", "exact match", "95 % from", "to"],
      found.flatMap(({ run, e }) => e.results.map((r) => [run.name, e.task, e.attention, r.length, r.samples, r.exact_match, r.ci95[0], r.ci95[1]])));
  }
}

// One chart a measure and swept field: the field along x, a line for each combination of the other fields.
function sweepCharts(part) {
  if (data.sweep.length === 0) return;
  const charts = element(part, "div", { class: "charts" });
  const runs = new Map(data.runs.map((run) => [run.name, run]));
  const points = data.sweep.filter((p) => runs.has(p.run) && !hidden.has(runs.get(p.run))).map((p) => ({ ...p, data: runs.get(p.run), value: Object.fromEntries(p.settings.map((s) => [s.path, s.value])) }));
  const fields = [...new Set(points.flatMap((p) => p.settings.map((s) => s.path)))];
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const measures = [{ title: "Training loss, last tenth", values: (run) => {
    const loss = (run.series.loss || []).filter((v) => v !== null);
    return loss.length ? [["", mean(loss.slice(-Math.max(1, Math.ceil(loss.length / 10))))]] : [];
  } }, { title: "Perplexity", values: (run) => (lastPerplexity(run)?.results || []).map((r) => [`context ${r.context_length}`, r.perplexity]) }];
  const drawn = fields.filter((field) => new Set(points.map((p) => p.value[field])).size > 1);
  for (const field of drawn.length > 0 && data.sweep.every((p) => drawn.every((f) => p.settings.some((s) => s.path === f))) ? drawn : [null]) {
    const texts = [...new Set(points.map((p) => (field ? p.value[field] : p.run)))];
    const numeric = field !== null && texts.every((t) => t !== "" && Number.isFinite(Number(t)));
    for (const measure of measures) {
      const lines = new Map();
      for (const point of points) {
        const others = field ? point.settings.filter((s) => s.path !== field && drawn.includes(s.path)).map((s) => `${s.path.split(".").at(-1)}=${s.value}`).join(" ") : "";
        for (const [label, y] of measure.values(point.data)) {
          const name = [others, label].filter(Boolean).join(", ") || measure.title;
          if (!lines.has(name)) lines.set(name, []);
          lines.get(name).push([numeric ? Number(point.value[field]) : texts.indexOf(field ? point.value[field] : point.run), y]);
        }
      }
      const spread = numeric && texts.every((t) => Number(t) > 0) && Math.max(...texts) / Math.min(...texts) >= 8;
      chart(charts, { title: `${measure.title} by ${field || "point"}`, xLabel: field || "point", yLabel: measure.title.split(",")[0].toLowerCase(), logX: spread, names: numeric ? null : texts,
        lines: [...lines].map(([name, at], i) => ({ name, color: palette[i % palette.length], points: at.sort((a, b) => a[0] - b[0]), scatter: !numeric })) });
    }
  }
}

function settingsTables(part) {
  if (data.runs.length > 1) {
    if (data.differing.length === 0) element(part, "p", { class: "note" }, "No setting differs between the runs.");
    else table(part, ["setting", ...data.runs.map((run) => run.name)], data.differing.map((row) => [row.path, ...row.values]));
  }
  for (const run of data.runs) {
    const all = element(part, "details");
    element(all, "summary", {}, `All settings of ${run.name} (${run.folder})`);
    table(all, ["setting", "value"], Object.entries(run.settings));
  }
}

function render() {
  document.getElementById("content").replaceChildren();
  section("Sweep", sweepCharts);
  section("Training", trainingCharts);
  section("Held-out text during training", duringTraining);
  section("Perplexity", perplexityCharts);
  section("Retrieval", retrievalCharts);
  section("Settings", settingsTables);
}

function controls() {
  const bar = document.getElementById("runs");
  for (const run of data.runs) {
    const label = element(bar, "label");
    const box = element(label, "input", { type: "checkbox" });
    box.checked = true;
    box.addEventListener("change", () => { box.checked ? hidden.delete(run) : hidden.add(run); render(); });
    element(label, "span", { class: "swatch", style: `background:${runColor.get(run)}` });
    label.append(run.name);
  }
  const more = element(bar, "span", { class: "controls" });
  const smooth = element(element(more, "label", {}, "smoothing "), "input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 });
  smooth.addEventListener("input", () => { options.smooth = Number(smooth.value); render(); });
  const intervals = element(element(more, "label", {}, "95 % intervals "), "input", { type: "checkbox" });
  intervals.addEventListener("change", () => { options.intervals = intervals.checked; render(); });
  const axis = element(element(more, "label", {}, "by "), "select");
  for (const name of ["step", "tokens"]) element(axis, "option", {}, name);
  axis.addEventListener("change", () => { options.x = axis.value; render(); });
}

controls();
render();
