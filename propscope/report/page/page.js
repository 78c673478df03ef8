"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const SYMBOL = { broken: "✕", strained: "▲", healthy: "✓", "not measured": "?", "": "" };
const ORDER = ["broken", "strained", "not measured", "healthy", ""];
// What would move or hide the text around it is shown by its code.
const visible = (text) => String(text).replace(
  /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]/gu,
  (sign) => "\\u" + sign.codePointAt(0).toString(16).padStart(4, "0"));
const number = (value) => value === "inf" ? Infinity : value === "-inf" ? -Infinity : typeof value === "number" ? value : NaN;
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const known = (value) => value !== null && value !== undefined && value !== "" && !(Array.isArray(value) && !value.length);

function format(value, digits = 4) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string" && value !== "inf" && value !== "-inf") return value;
  if (Array.isArray(value)) return value.length && value.every((each) => typeof each !== "object") ? value.join(" × ") : JSON.stringify(value);
  const x = number(value);
  if (Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "-∞";
  if (x === 0 || (Number.isInteger(x) && Math.abs(x) < 1e9)) return String(x);
  return Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5 ? String(Number(x.toPrecision(digits))) : x.toExponential(digits - 1).replace("e+", "e");
}

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(9)) {
    if (child !== null && child !== undefined && child !== false) node.append(child instanceof Node ? child : visible(child));
  }
  return node;
}
const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const how = (...text) => el("details", { class: "how" }, el("summary", null, "How to read this"), text.map((part) => el("p", null, part)));
const choice = (label, options, value, change) => el("label", null, label,
  el("select", { onchange: (event) => change(event.target.value) },
    options.map(([key, name]) => el("option", { value: key, selected: key === value }, name))));
// What a mouse clicks, a keyboard presses.
const pressed = (act) => ({ tabindex: 0, role: "button", onclick: act,
  onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(event); } } });

// Drawn at the width that it has, so that its text keeps its size.
function responsive(draw) {
  const host = el("div");
  let last = 0;
  const redraw = () => { if (last) host.replaceChildren(draw(last)); };
  new ResizeObserver(() => {
    const width = Math.floor(host.clientWidth);
    if (width > 60 && width !== last) { last = width; redraw(); }
  }).observe(host);
  host.redraw = redraw;
  return host;
}

// What is drawn anew in the same shape keeps the keyboard where it was.
function keepingFocus(root, draw) {
  const path = [];
  let node = document.activeElement;
  if (!root.contains(node)) { draw(); return; }
  for (; node !== root; node = node.parentNode) path.unshift([...node.parentNode.childNodes].indexOf(node));
  draw();
  if (root.contains(document.activeElement)) return;
  const again = path.reduce((parent, at) => parent && parent.childNodes[at], root);
  if (again && again.focus) again.focus({ preventScroll: true });
}

function scaleOf(values, log, from, to) {
  const usable = values.filter((x) => Number.isFinite(x) && (!log || x > 0)).map((x) => log ? Math.log10(x) : x);
  let low = Math.min(...usable), high = Math.max(...usable);
  if (!usable.length) { low = log ? -1 : 0; high = 1; }
  const least = log ? 0.5 : Math.abs(high) * 0.1 || Math.abs(low) * 0.1 || 1;
  if (high - low < least) { const middle = (low + high) / 2; low = middle - least / 2; high = middle + least / 2; }
  const room = (high - low) * 0.06;
  low -= room; high += room;
  const ticks = [];
  if (log) {
    const step = Math.max(1, Math.ceil((high - low) / 5));
    for (let at = Math.ceil(low); at <= high; at += 1) if (((at % step) + step) % step === 0) ticks.push(10 ** at);
    if (ticks.length < 2) {
      ticks.length = 0;
      for (let at = Math.floor(low); at <= high; at += 1) {
        for (const each of [1, 2, 5].map((digit) => Number(`${digit}e${at}`))) if (Math.log10(each) >= low && Math.log10(each) <= high) ticks.push(each);
      }
    }
  } else {
    const raw = (high - low) / 4, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((each) => each * size).find((each) => each >= raw);
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push(Math.abs(at) < step / 1e6 ? 0 : at);
  }
  const place = (x) => from + ((log ? Math.log10(x) : x) - low) / (high - low) * (to - from);
  return { place, ticks, shows: (x) => Number.isFinite(x) && (!log || x > 0) };
}

// The numbers of lines at their ends, apart where lines end alike.
function keysAt(ends, top, bottom, x) {
  ends.sort((a, b) => a.at - b.at);
  const least = Math.min(11, (bottom - top) / Math.max(ends.length - 1, 1));
  let above = -Infinity, below = bottom;
  ends.forEach((end) => { end.at = above = Math.max(end.at, top, above + least); });
  ends.slice().reverse().forEach((end) => { end.at = Math.min(end.at, below); below = end.at - least; });
  return ends.map(({ at, key, color }) => { const text = svg("text", { class: "line-key", x, y: at + 4 }, key); text.style.fill = color; return text; });
}

// One figure: lines over positions, with bands, theory and a cursor that mouse, finger and arrow keys move.
function lineChart({ title, label, log, xs, xLabel, series, readout, pick, picks = "see a site", chosen, marks = [], everyMark = false, height = 230 }) {
  const line = el("p", { class: "readout", "aria-live": "polite" });
  const points = series[0] ? series[0].y.length : 0;
  const positions = xs || [...Array(points).keys()];
  let cursor = -1, move = () => {};
  const host = responsive((width) => {
    const left = 62, right = width - (series.some((each) => each.key) ? 28 : 10), top = 12, bottom = height - 34;
    const everything = series.flatMap((each) => [...each.y, ...(each.low || []), ...(each.high || []), ...(each.expected || []),
      ...(each.expectedLow || []), ...(each.expectedHigh || [])]);
    const y = scaleOf(everything, log, bottom, top);
    const first = positions[0], last = positions[points - 1];
    const x = (at) => points < 2 || last === first ? (left + right) / 2 : left + 8 + (positions[at] - first) / (last - first) * (right - left - 16);
    const parts = y.ticks.map((tick) => [svg("line", { class: "grid", x1: left, x2: right, y1: y.place(tick), y2: y.place(tick) }),
      svg("text", { class: "tick", x: left - 5, y: y.place(tick) + 4, "text-anchor": "end" }, format(tick, 3).replace(/\.?0+e/, "e"))]);
    const shownTicks = Math.max(2, Math.min(points, Math.floor((right - left) / 70)));
    const seen = new Set();
    for (let k = 0; k < shownTicks; k += 1) {
      const value = first + (last - first) * k / (shownTicks - 1 || 1);
      let at = 0;
      for (let i = 1; i < points; i += 1) if (Math.abs(positions[i] - value) < Math.abs(positions[at] - value)) at = i;
      if (points && !seen.has(at)) { seen.add(at); parts.push(svg("text", { class: "tick", x: x(at), y: bottom + 15, "text-anchor": "middle" }, format(positions[at]))); }
    }
    parts.push(svg("text", { class: "tick", x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel || ""));
    const path = (values, dash) => {
      let text = "", open = false;
      values.forEach((value, at) => {
        if (!y.shows(value)) { open = open && Number.isNaN(value) && series.gaps; return; }
        text += `${open ? "L" : "M"}${x(at).toFixed(1)},${y.place(value).toFixed(1)}`; open = true;
      });
      return text && svg("path", { class: dash || "line", d: text });
    };
    const band = (low, high, name) => {
      const runs = [[]];
      low.forEach((value, at) => { if (y.shows(value) && y.shows(high[at])) runs[runs.length - 1].push(at); else if (runs[runs.length - 1].length) runs.push([]); });
      return runs.filter((run) => run.length).map((run) => svg("path", { class: name, d: "M" + [...run.map((at) => [at, low]), ...run.slice().reverse().map((at) => [at, high])]
        .map(([at, edge]) => `${x(at).toFixed(1)},${y.place(edge[at]).toFixed(1)}`).join("L") + "Z" }));
    };
    series.forEach((each) => {
      if (each.expectedLow) parts.push(band(each.expectedLow, each.expectedHigh, "theoryband"));
      if (each.low) parts.push(band(each.low, each.high, "band"));
    });
    series.forEach((each) => {
      if (each.expected) parts.push(path(each.expected, "theory"));
      const drawn = path(each.y);
      if (drawn) { if (each.color) drawn.style.stroke = each.color; if (each.dash) drawn.style.strokeDasharray = each.dash; parts.push(drawn); }
      each.y.forEach((value, at) => {
        if (y.shows(value) && points <= 160 && series.length < 3) {
          const dot = svg("circle", { class: "dot", cx: x(at), cy: y.place(value), r: points > 60 ? 1.6 : 2.6 });
          if (each.color) dot.style.fill = each.color;
          parts.push(dot);
        }
        else if (value === 0 && log) parts.push(svg("text", { class: "bad", x: x(at), y: bottom - 1, "text-anchor": "middle" }, "▼"));
        else if (value === Infinity || value === -Infinity) parts.push(svg("text", { class: "bad", x: x(at), y: top + 8, "text-anchor": "middle" }, "▲"));
      });
    });
    // At a loss that is NaN an alarm stands at the top.
    marks.forEach(([at, name]) => { const shows = y.shows(series[0].y[at]), height = shows ? Math.max(y.place(series[0].y[at]) - 7, top + 4) : top + 8; if (shows || everyMark) parts.push(svg("text", { class: "bad", x: x(at), y: height, "text-anchor": "middle" }, name)); });
    parts.push(...keysAt(series.filter((each) => each.key).map((each) => {
      const last = each.y.findLastIndex((value) => y.shows(value) || (log && value === 0));
      return last >= 0 && { at: y.shows(each.y[last]) ? y.place(each.y[last]) : bottom, key: each.key, color: each.color };
    }).filter(Boolean), top, bottom, right + 3));
    const rule = svg("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
    const ring = svg("circle", { class: "ring", r: 6, visibility: "hidden" });
    const at = chosen ? chosen() : -1;
    if (at >= 0 && points && y.shows(series[0].y[at])) put(ring, { cx: x(at), cy: y.place(series[0].y[at]), visibility: "visible" }, []);
    move = (next) => {
      cursor = Math.max(0, Math.min(points - 1, next));
      put(rule, { x1: x(cursor), x2: x(cursor), visibility: "visible" }, []);
      line.textContent = visible(readout(cursor));
    };
    if (cursor >= 0) move(cursor);
    const nearest = (event) => {
      const box = event.currentTarget.getBoundingClientRect(), want = (event.clientX - box.left) / box.width * width;
      let best = 0;
      for (let i = 1; i < points; i += 1) if (Math.abs(x(i) - want) < Math.abs(x(best) - want)) best = i;
      return best;
    };
    return svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "group",
      "aria-label": `${visible(title)}; arrow keys move, Enter chooses`,
      onpointermove: (event) => points && move(nearest(event)),
      onclick: (event) => { if (points) { move(nearest(event)); if (pick) pick(cursor); } },
      onkeydown: (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
        if (step && points) { event.preventDefault(); move((cursor < 0 ? (step < 0 ? points : -1) : cursor) + step); }
        if (event.key === "Enter" && cursor >= 0 && pick) pick(cursor);
      } }, parts, rule, ring);
  });
  line.textContent = points ? (pick ? `Point at the curve for numbers, click to ${picks}.` : "Point at the curve for numbers.") : "Nothing was recorded.";
  const figure = el("div", { class: "figure" }, el("h3", null, title), el("p", { class: "quiet" }, label), host, line);
  figure.redraw = host.redraw;
  return figure;
}

const swatch = (cls, shape) => svg("svg", { width: 30, height: 12, viewBox: "0 0 30 12" },
  shape === "band" ? svg("rect", { class: cls, x: 0, y: 1, width: 30, height: 10 }) : svg("line", { class: cls, x1: 0, x2: 30, y1: 6, y2: 6 }));
const keyOf = (...entries) => el("ul", { class: "key" }, entries.filter(Boolean).map(([cls, shape, name]) => el("li", null, shape === "text" ? `${cls} ` : swatch(cls, shape), name)));

// Of several lines in one figure: a colour that is read on white and on black, dashes, and a number at the line's end.
const COLORS = ["#3182ce", "#c4622d", "#2f9150", "#9a6bc9", "#a9790a", "#d1477a", "#1f94a0", "#6f7f8f"], DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const styleOf = (at) => ({ color: COLORS[at % COLORS.length], dash: DASHES[at % DASHES.length], key: String(at + 1) });
const keyOfLines = (names) => el("ul", { class: "key" }, names.map((name, at) => {
  const sample = svg("line", { class: "line", x1: 0, x2: 30, y1: 6, y2: 6 }), { color, dash, key } = styleOf(at);
  sample.style.stroke = color;
  sample.style.strokeDasharray = dash;
  return el("li", null, svg("svg", { width: 30, height: 12 }, sample), `${key} ${name}`);
}));

function sortableTable(columns, rows, { chosen, caption } = {}) {
  let order = null, down = false;
  const body = el("tbody");
  const heads = columns.map((column, at) => el("th", { class: column.text ? "text" : null, scope: "col" },
    el("button", { onclick: () => { down = order === at ? !down : !column.text; order = at; fill(); }, title: column.title || column.name }, column.name)));
  function fill() {
    const sorted = rows.slice();
    if (order !== null) {
      const read = columns[order].sort || columns[order].value;
      const keys = new Map(sorted.map((row) => [row, read(row)]));
      sorted.sort((a, b) => {
        const [u, v] = [keys.get(a), keys.get(b)];
        if (columns[order].text) return (down ? -1 : 1) * String(u).localeCompare(String(v), undefined, { numeric: true });
        const [x, y] = [number(u), number(v)];
        // What is not known comes last, whichever way.
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? (y > x) - (y < x) : (x > y) - (x < y);
      });
    }
    heads.forEach((head, at) => head.setAttribute("aria-sort", at === order ? (down ? "descending" : "ascending") : "none"));
    heads.forEach((head, at) => { head.firstChild.textContent = visible(columns[at].name) + (at === order ? (down ? " ↓" : " ↑") : ""); });
    body.replaceChildren(...sorted.filter(table.keeps).map((row) => el("tr", { class: chosen && chosen(row) ? "chosen" : null },
      columns.map((column) => el("td", { class: column.text ? "text" : null }, column.cell ? column.cell(row) : format(column.value(row)))))));
  }
  const table = el("table", null, caption && el("caption", null, caption), el("thead", null, el("tr", null, heads)), body);
  table.keeps = () => true;
  table.fill = fill;
  fill();
  return table;
}

const figureName = (name) => (data.figures[name] || name.replaceAll("_", " "));
const badge = (severity) => el("span", { class: `t-${severity}` }, `${SYMBOL[severity] || ""} ${severity}`);
const verdictBox = (verdict, lines, ...more) => el("div", { class: `verdict is-${verdict.replace(" ", "-")}` },
  el("p", null, `${SYMBOL[verdict]} ${lines[0]}`), lines.slice(1).map((text) => el("p", null, text)), more);

// A name in so many signs: its longest modules lose their ends first, so that the number of a block is kept.
function shortened(name, most) {
  const text = visible(name), [, stem, call] = /^([^]*?)(#\d+)?$/.exec(text), parts = stem.split(".").map((part) => [...part]);
  const fits = (words) => words.join(".").length + (call || "").length <= most && words.join(".") + (call || "");
  const cut = (kept, size) => kept.map((part) => part.length > size + 1 ? part.slice(0, size).join("") + "…" : part.join(""));
  for (let first = 0; first < parts.length; first += 1) {
    for (let size = text.length; size >= 3; size -= 1) {
      const found = fits([...(first ? ["…"] : []), ...cut(parts.slice(first), size)]);
      if (found) return found;
    }
  }
  return [...text].slice(0, most - 1).join("") + "…";
}

// A module's path: dots part it, but not those within brackets.
const pathOf = (name) => name ? name.split(/\.(?![^[]*\])/) : [];

function networkView(network, heading) {
  const host = el("section", { class: "network" });
  const head = [heading && el("h2", null, heading)];
  host.append(...head.filter(Boolean), verdictBox(network.verdict, network.lines,
    network.inputs.map((text) => el("p", null, text.startsWith("input") ? text : `input ${text}`)),
    network.sites && known(network.first_bad) && el("p", null, "first bad site: ", firstBad() < 0 ? network.first_bad
      : el("button", { class: "plain first-bad", onclick: () => choose(firstBad(), true) }, network.first_bad || "(model)"))));
  if (network.findings.length) {
    host.append(el("details", null, el("summary", null, `All findings (${network.findings.length})`),
      network.findings.map((finding) => el("div", null, el("h3", null, badge(finding.severity), ` ${finding.kind}${finding.direction ? " " + finding.direction : ""}`),
        el("p", null, finding.message), finding.cause && el("p", null, `cause: ${finding.cause}`), finding.remedy && el("p", null, `remedy: ${finding.remedy.text}`),
        finding.effects.map((effect) => el("p", { class: "quiet" }, `explains: ${effect}`))))));
  }
  if (!network.sites) {
    host.append(el("p", null, "The sites of this network are not on this page; a report of fewer networks has them."));
    return host;
  }
  const columns = network.sites.columns, names = columns.name || (columns.index || []).map(() => "");
  if (!(columns.index || []).length) {
    host.append(el("p", null, "No site was recorded."));
    return host;
  }
  const count = names.length, all = [...Array(count).keys()];
  const cell = (column, at) => columns[column] ? columns[column][at] : null;
  const label = (at) => names[at] || "(model)";
  const place = new Map(names.map((name, at) => [name, at]).reverse());
  const parents = all.map((at) => (cell("parents", at) || []).filter(([name]) => place.has(name)).map(([name, operations, gradient]) => ({ at: place.get(name), operations, gradient })));
  const children = all.map(() => []);
  parents.forEach((list, at) => list.forEach((parent) => children[parent.at].push(at)));
  const severity = (at) => cell("severity", at) || "";
  const layered = all.some((at) => known(cell("layer", at)));
  let chosen = -1, chosenParameter = -1, shown = "signal", figure = "rms";
  const redraws = [];
  const parameters = network.parameters || {};
  const parameterPlace = new Map((parameters.name || []).map((name, at) => [name, at]));

  const detail = el("aside", { class: "detail", "aria-label": "site", tabindex: -1 });
  const curves = el("div", { class: "two" });
  const geometry = el("div");

  function choose(at, scroll) {
    if (at < 0) return;
    chosen = at;
    chosenParameter = -1;
    redraw(showSite);
    if (scroll) reveal();
  }

  function chooseParameter(at) {
    chosenParameter = at;
    redraw(() => showParameter(at));
    reveal();
  }

  function redraw(show) {
    const inside = detail.contains(document.activeElement);
    keepingFocus(left, () => { show(); redraws.forEach((each) => each()); });
    if (inside) detail.focus({ preventScroll: true });
  }

  function reveal() {
    const box = detail.getBoundingClientRect();
    detail.scrollTop = 0;
    if (box.top <= window.innerHeight * 0.8 && box.bottom >= 0) return;
    const before = window.scrollY, from = document.activeElement;
    detail.prepend(el("button", { class: "back", onclick: () => { window.scrollTo(0, before); if (from.isConnected) from.focus({ preventScroll: true }); } }, "↑ back"));
    detail.scrollIntoView({ block: "start" });
    detail.focus({ preventScroll: true });
  }

  function bars(histogram, cls, title) {
    if (!histogram) return null;
    const width = 350, height = 96, base = 76, most = Math.max(...histogram.shares), step = width / histogram.shares.length;
    const beyond = histogram.below + histogram.above;
    return el("div", null, el("p", { class: "quiet" }, title), svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": title },
      histogram.shares.map((share, at) => share > 0 && svg("rect", { class: cls, x: at * step, width: Math.max(step - 1, 0.5), y: base - Math.max(share / most * 70, 0.8), height: Math.max(share / most * 70, 0.8) },
        svg("title", null, `${(100 * share).toPrecision(3)}%`))),
      svg("line", { class: "grid", x1: 0, x2: width, y1: base, y2: base }),
      histogram.low < 0 && histogram.high > 0 && svg("line", { class: "cursor", x1: -histogram.low / (histogram.high - histogram.low) * width, x2: -histogram.low / (histogram.high - histogram.low) * width, y1: 4, y2: base }),
      svg("text", { class: "tick", x: 0, y: height - 4 }, format(histogram.low, 3)), svg("text", { class: "tick", x: width, y: height - 4, "text-anchor": "end" }, format(histogram.high, 3)),
      histogram.low < 0 && histogram.high > 0 && svg("text", { class: "tick", x: Math.min(Math.max(-histogram.low / (histogram.high - histogram.low) * width, 50), width - 50), y: height - 4, "text-anchor": "middle" }, "0")),
      beyond > 0 && el("p", { class: "quiet" }, `${(100 * beyond).toPrecision(2)}% of the values lie beyond`));
  }

  // What is wrong with a module shows at its sites: those of its calls and of its outputs, rnn#1 and rnn[0].
  function firstBad() {
    const sites = network.sites.columns.name || [], exact = sites.indexOf(network.first_bad);
    return exact >= 0 ? exact : sites.findIndex((name) => name.split(/[#[]/)[0] === network.first_bad);
  }

  const histogramsOf = (name, at) => ((network.parameter_histograms || {})[name] || [])[at];
  const parameterLink = (at) => el("button", { class: "plain", onclick: () => chooseParameter(at) }, parameters.name[at]);

  const PAIRED = ["rms", "norm", "mean", "std", "min", "max", "zero_fraction", "count", "nan_count", "posinf_count", "neginf_count", "gain"];
  // What was recorded of two tensors side by side, then what is of neither.
  function figureTables(read, parts, others) {
    const shownCell = (name) => { const given = read(name) ?? null; return el("td", { "data-column": name, "data-value": JSON.stringify(given), title: known(given) ? String(given) : "" }, format(given)); };
    const both = PAIRED.filter((name) => parts.some((part) => /^(nan|posinf|neginf)/.test(name) ? number(read(`${part}_${name}`)) > 0 : known(read(`${part}_${name}`))));
    const taken = new Set(["index", "name", "shape", "dtype", ...PAIRED.flatMap((name) => parts.map((part) => `${part}_${name}`))]);
    const heading = (text) => el("th", { class: "text", scope: "row" }, text);
    return [el("table", { class: "free" }, el("thead", null, el("tr", null, el("th", { class: "text" }, ""), parts.map((part) => el("th", null, part)))),
      el("tbody", null, both.map((name) => el("tr", null, heading(name.replaceAll("_", " ")), parts.map((part) => shownCell(`${part}_${name}`)))))),
    el("table", { class: "free" }, el("tbody", null, others.filter((name) => !taken.has(name) && known(read(name))).map((name) => el("tr", null, heading(figureName(name)), shownCell(name)))))];
  }

  function showParameter(at) {
    const read = (name) => (parameters[name] || [])[at];
    const users = all.filter((site) => (cell("parameters", site) || []).includes(parameters.name[at]));
    detail.classList.remove("unasked");
    detail.replaceChildren();
    put(detail, null, [el("h3", { class: "site-name" }, parameters.name[at]),
      el("p", { class: "quiet" }, ["parameter", `shape ${format((parameters.shape || [])[at])}`, (parameters.dtype || [])[at]].filter(known).join(", ")),
      bars(histogramsOf("value", at), "bar-f", "values"), bars(histogramsOf("gradient", at), "bar-b", "gradient"),
      !histogramsOf("value", at) && el("p", { class: "quiet" }, "no histogram of this parameter on this page"),
      figureTables(read, ["value", "gradient"], Object.keys(parameters)),
      users.length ? [el("h3", null, "Used by"), el("ul", { class: "plainlist" }, users.slice(0, 12).map((site) => el("li", null, el("button", { class: "plain", onclick: () => choose(site, true) }, label(site)))), users.length > 12 && el("li", null, `and ${users.length - 12} more`))] : null]);
  }

  function showSite() {
    if (chosen < 0) {
      detail.classList.add("unasked");
      detail.replaceChildren(el("h3", null, "A site"), el("p", { class: "quiet" }, "Click a point of a curve, a box of the graph or a row of the table: its histogram, figures and parents stand here."));
      return;
    }
    const at = chosen;
    detail.classList.remove("unasked");
    const taken = new Set(["kind", "role", "parents", "parameters", "marks", "severity", "signal", "activation", ...["low", "high", "center", "expected_low", "expected_high"].flatMap((name) => [`forward_${name}`, `backward_${name}`])]);
    const others = Object.keys(columns).filter((name) => !taken.has(name));
    const link = (to, more) => el("li", null, el("button", { class: "plain", onclick: () => choose(to, true) }, label(to)), more && el("span", { class: "quiet" }, more));
    const unknown = (cell("parents", at) || []).filter(([name]) => !place.has(name));
    const own = (cell("parameters", at) || []).filter((name) => parameterPlace.has(name)).map((name) => parameterPlace.get(name));
    const marks = cell("marks", at) || [];
    detail.replaceChildren();
    put(detail, null, [el("h3", { class: "site-name" }, severity(at) && [badge(severity(at)), " "], label(at)),
      el("p", { class: "quiet" }, [cell("kind", at), cell("role", at), `shape ${format(cell("shape", at))}`, cell("dtype", at), known(cell("activation", at)) ? `enters ${cell("activation", at)}` : null].filter(known).join(", ")),
      marks.length ? el("p", null, `marks: ${marks.join(", ")}`) : null,
      bars((network.sites.histograms.forward || [])[at], "bar-f", "values, forward"), bars((network.sites.histograms.backward || [])[at], "bar-b", "gradient, backward"),
      !(network.sites.histograms.forward || [])[at] && el("p", { class: "quiet" }, "no histogram of this site on this page"),
      figureTables((name) => cell(name, at), ["forward", "backward"], others),
      el("h3", null, "Computed from"), el("ul", { class: "plainlist" }, parents[at].map((parent) => link(parent.at, ` ${parent.operations.length ? "by " + parent.operations.join(", ") : ""}${parent.gradient ? "" : " (no gradient)"}`)),
        unknown.map(([name]) => el("li", null, name === "?" ? "something that was not seen" : name)),
        !parents[at].length && !unknown.length && el("li", null, cell("parents", at) ? "no site" : "not known")),
      children[at].length ? [el("h3", null, "Feeds"), el("ul", { class: "plainlist" }, children[at].slice(0, 12).map((to) => link(to)), children[at].length > 12 && el("li", null, `and ${children[at].length - 12} more`))] : null,
      own.length ? [el("h3", null, "Parameters"), el("table", { class: "free" }, el("thead", null, el("tr", null, ["name", "rms", "gradient norm"].map((name, i) => el("th", { class: i ? null : "text" }, name)))),
        el("tbody", null, own.map((i) => el("tr", null, el("td", { class: "text" }, parameterLink(i), " ", el("span", { class: "quiet" }, format((parameters.shape || [])[i]))), ["value_rms", "gradient_norm"].map((name) => el("td", null, format((parameters[name] || [])[i])))))))] : null]);
  }

  const signals = () => all.filter((at) => shown === "signal" ? cell("signal", at) : cell("role", at) !== "input" || shown === "all");
  function signalChart(direction) {
    const sites = signals(), column = (name) => sites.map((at) => number(cell(name, at)));
    const isRms = figure === "rms", seeds = network.seeds > 1;
    const own = { y: column(isRms ? `${direction}_center` : `${direction}_${figure}`) };
    if (isRms && seeds) { own.low = column(`${direction}_low`); own.high = column(`${direction}_high`); }
    const expected = column(`expected_${direction}_${figure}`);
    if (expected.some(Number.isFinite)) {
      own.expected = expected;
      if (isRms) { own.expectedLow = column(`${direction}_expected_low`); own.expectedHigh = column(`${direction}_expected_high`); }
    }
    const layers = sites.map((at) => cell("layer", at));
    const byLayer = shown === "signal" && layers.every((layer, i) => known(layer) && (!i || layer > layers[i - 1]));
    const what = direction === "forward" ? "Forward: the values" : "Backward: the gradient of the loss";
    const chart = lineChart({ title: what, label: figure === "rms" ? "root mean square, logarithmic axis" : figure === "std" ? "standard deviation, logarithmic axis" : "mean",
      log: figure !== "mean", xs: sites.map((at, i) => byLayer ? layers[i] : at), xLabel: byLayer ? "layer" : "site, in execution order", series: [own],
      marks: sites.map((at, i) => [i, SYMBOL[severity(at)]]).filter(([, mark]) => mark),
      readout: (i) => `${label(sites[i])}: ${figure} ${format(own.y[i])}${own.low && Number.isFinite(own.low[i]) ? ` (seeds ${format(own.low[i], 3)} to ${format(own.high[i], 3)})` : ""}${
        own.expected && !Number.isNaN(own.expected[i]) ? `; theory ${format(own.expected[i])}${own.expectedLow && Number.isFinite(own.expectedLow[i]) ? ` (${format(own.expectedLow[i], 3)} to ${format(own.expectedHigh[i], 3)})` : ""}` : ""}`,
      pick: (i) => choose(sites[i], true), chosen: () => sites.indexOf(chosen) });
    return chart;
  }
  function drawCurves() {
    const charts = ["forward", "backward"].map(signalChart);
    curves.replaceChildren(...charts);
    curves.redraw = () => charts.forEach((chart) => chart.redraw());
  }
  const options = [["flat_fraction", "share where the nonlinearity is flat"], ["dead", "share of dead units"], ["mean_cosine", "mean cosine between samples"], ["effective_rank", "effective rank"],
    ["forward_gain", "forward gain"], ["backward_gain", "backward gain"], ["attention_entropy", "attention entropy"], ["largest_logit", "largest logit"], ["branch_share", "share of the branch in a residual sum"]]
    .filter(([name]) => all.some((at) => Number.isFinite(geometryOf(name, at))));
  function geometryOf(name, at) { return name === "dead" ? number(cell("dead_units", at)) / number(cell("units", at)) : number(cell(name, at)); }
  function drawGeometry(name) {
    const sites = all.filter((at) => !Number.isNaN(geometryOf(name, at)));
    const y = sites.map((at) => geometryOf(name, at));
    const chart = lineChart({ title: options.find(([key]) => key === name)[1], label: name.endsWith("gain") ? "logarithmic axis" : "", log: name.endsWith("gain"), xs: sites, xLabel: "site, in execution order", series: [{ y }], height: 190,
      readout: (i) => `${label(sites[i])}: ${format(y[i])}`, pick: (i) => choose(sites[i], true), chosen: () => sites.indexOf(chosen) });
    geometry.replaceChildren(chart);
    geometry.redraw = chart.redraw;
  }

  drawCurves();
  const theory = ["forward", "backward"].some((part) => (columns[`expected_${part}_rms`] || []).some(known));
  const left = el("div", { class: "left" },
    el("h2", null, "Signal along the depth"),
    el("div", { class: "bar" }, choice("figure", [["rms", "root mean square"], ["std", "standard deviation"], ["mean", "mean"]], figure, (value) => { figure = value; drawCurves(); }),
      choice("sites", [["signal", layered ? "pre-activations" : "signal sites"], ["sites", "all sites"], ["all", "all sites and inputs"]], shown, (value) => { shown = value; drawCurves(); })),
    keyOf(["line", "line", "measured"], network.seeds > 1 && ["band", "band", "95% interval of the mean over seeds"], theory && ["theory", "line", "infinite-width theory"], theory && ["theoryband", "band", "where theory expects 95% of networks of this width"],
      ["✕ ▲", "text", "broken, strained"], ["▼", "text", "exactly zero"], ["▲ (top)", "text", "NaN or Inf"]),
    how("A flat curve is healthy. Read the forward curve from left to right: falling means that the signal vanishes, rising that it explodes. The gradient travels from right to left.",
      "The root mean square is sqrt(E[x²]) over all finite elements. Where dashes or a grey band are drawn, theory has a prediction for this network; a curve that leaves the grey band is unlike 95% of such networks."),
    curves,
    options.length ? [el("div", { class: "bar" }, choice("another figure", options, options[0][0], drawGeometry)), geometry,
      how("Flat: the share of pre-activations where the slope of the nonlinearity is below a fraction of its largest slope. Dead: units that are flat on every sample. Mean cosine: towards 1 the layer no longer tells inputs apart. Gain: rms over that of the site that feeds it.")] : null,
    timeSection(),
    (columns.parents || []).some((value) => value !== null) ? graphSection() : [el("h2", null, "Network"), el("p", null, "This file does not say what feeds what, so that no graph is drawn.")],
    tableSection(), parameterSection());
  if (options.length) drawGeometry(options[0][0]);
  redraws.push(() => { curves.redraw(); if (geometry.redraw) geometry.redraw(); });
  showSite();
  host.append(el("div", { class: "columns" }, left, detail), coverageSection());

  function timeSection() {
    const courses = network.time_courses;
    if (!courses.length) return null;
    const host = el("div");
    const draw = (course) => {
      const state = course.cell || course.hidden, what = course.cell ? "cell state" : "hidden state", steps = course.steps;
      const chart = (title, text, log, series, names) => series.some(({ y }) => y.some((x) => !Number.isNaN(x))) && lineChart({ title, label: text, log, xs: steps, xLabel: "step", height: 190, series,
        readout: (i) => `step ${steps[i]}: ` + series.map(({ y }, k) => `${names[k]} ${format(y[i])}`).join(", ") });
      const factor = (text, value) => known(value) && `${text} ×${format(value, 3)}`;
      const styled = (values, k) => ({ y: values.map(number), ...styleOf(k) });
      const gates = course.gates.filter((gate) => gate.mean.length);
      const rows = (course.weights.length ? course.weights : course.gates).map(({ name }) => ({ gate: course.gates.find((each) => each.name === name) || { mean: [], flat: [] }, weights: course.weights.find((each) => each.name === name) || {}, name }));
      const mean = (values) => values.length ? values.map(number).reduce((a, b) => a + b, 0) / values.length : null;
      const table = [{ name: "gate", text: true, value: (row) => row.name }, { name: "mean", value: (row) => mean(row.gate.mean) }, { name: "flat", value: (row) => mean(row.gate.flat) },
        { name: "W_ih gain", value: (row) => row.weights.input_gain }, { name: "W_hh gain", value: (row) => row.weights.recurrent_gain }, { name: "radius of W_hh", value: (row) => row.weights.radius }].filter((column) => rows.some((row) => known(column.value(row))));
      const factors = [factor("values", course.forward_gain), factor("gradient, back in time,", course.backward_gain), factor("what one step passes on of it", course.step_gain)].filter(Boolean);
      host.replaceChildren(...[el("p", { class: "quiet" }, `${course.kind}, ${course.length} steps, ${steps.length} of them held${factors.length ? `. A step: ${factors.join("; ")}` : ""}.${course.reason ? " " + course.reason : ""}`),
        el("div", { class: "two" }, state && chart(`Values: the ${what}`, "root mean square, logarithmic axis", true, [{ y: state.forward.map(number) }], ["rms"]),
          state && state.backward && chart(`Gradient: of the loss with respect to the ${what}`, "root mean square, logarithmic axis; it travels from the last step to the first", true, [{ y: state.backward.map(number) }], ["rms"]),
          chart("Gates: mean", "", false, gates.map((gate, k) => styled(gate.mean, k)), gates.map((gate) => gate.name)), chart("Gates: share that is flat", "", false, gates.map((gate, k) => styled(gate.flat, k)), gates.map((gate) => gate.name))),
        gates.length && keyOfLines(gates.map((gate) => gate.name)), rows.length && el("div", { class: "scroll free" }, el("table", null, el("thead", null, el("tr", null, table.map((column) => el("th", { class: column.text ? "text" : null }, column.name)))),
          el("tbody", null, rows.map((row) => el("tr", null, table.map((column) => el("td", { class: column.text ? "text" : null }, format(column.value(row)))))))))].filter(Boolean));
    };
    draw(courses[0]);
    return [el("h2", null, "Recurrent layers over time"), courses.length > 1 && el("div", { class: "bar" }, choice("layer", courses.map((course, at) => [String(at), course.label]), "0", (value) => draw(courses[Number(value)]))),
      how("The state after each step of the sequence, and the gradient of the loss with respect to it. A flat curve keeps what it learned: falling, it forgets; rising, it explodes. A gate that is flat at most elements is stuck open or shut. Gain: Frobenius norm of a gate's weights over the square root of its number of rows."), host];
  }

  function graphSection() {
    const paths = names.map(pathOf);
    const sizes = new Map();
    const prefixes = paths.map((path) => path.map((_, size) => path.slice(0, size + 1).join(".")));
    prefixes.forEach((list) => list.forEach((prefix) => sizes.set(prefix, (sizes.get(prefix) || 0) + 1)));
    const isModule = (prefix) => sizes.get(prefix) > 1;
    const open = new Set();
    const nodeOf = (at) => prefixes[at].find((prefix) => isModule(prefix) && !open.has(prefix)) ?? at;
    const visibleCount = () => new Set(all.map(nodeOf)).size;
    const FITS = 60;
    const openLevel = (level) => prefixes.forEach((list) => list.slice(0, level).forEach((prefix) => isModule(prefix) && open.add(prefix)));
    const deepest = Math.max(...paths.map((path) => path.length));
    for (let level = 1; level <= deepest; level += 1) {
      const before = new Set(open);
      openLevel(level);
      if (visibleCount() > FITS) { open.clear(); before.forEach((prefix) => open.add(prefix)); break; }
    }
    const openTo = (at) => prefixes[at].forEach((prefix) => isModule(prefix) && open.add(prefix));
    if (known(network.first_bad) && firstBad() >= 0) openTo(firstBad());
    const chips = el("div", { class: "open" }), drawing = el("div", { class: "scroll graph" }), said = el("p", { class: "quiet" });

    function draw(focus) {
      const nodes = new Map();
      all.forEach((at) => {
        const key = nodeOf(at);
        if (!nodes.has(key)) nodes.set(key, { key, sites: [], sources: new Map(), rank: 0, first: at });
        nodes.get(key).sites.push(at);
      });
      all.forEach((at) => parents[at].forEach((parent) => {
        const [from, to] = [nodeOf(parent.at), nodeOf(at)];
        if (from !== to) nodes.get(to).sources.set(from, nodes.get(to).sources.get(from) || parent.gradient);
      }));
      const list = [...nodes.values()].sort((a, b) => a.first - b.first);
      // A collapsed module may run before and after another: only ways forward set the rank.
      list.forEach((node) => node.sources.forEach((_, from) => { const source = nodes.get(from); if (source.first < node.first) node.rank = Math.max(node.rank, source.rank + 1); }));
      const rows = [];
      list.forEach((node) => (rows[node.rank] = rows[node.rank] || []).push(node));
      const W = 172, H = 36, GAP = 16, ROW = 58;
      const widest = Math.max(...rows.map((row) => row.length)), width = Math.max(widest * (W + GAP) + 90, 300);
      rows.forEach((row, rank) => {
        row.forEach((node) => { const from = [...node.sources.keys()].map((key) => nodes.get(key)).filter((source) => source.rank < rank && source.x !== undefined);
          node.want = from.length ? from.reduce((sum, source) => sum + source.x, 0) / from.length : width / 2; });
        row.sort((a, b) => a.want - b.want || a.first - b.first);
        const span = row.length * (W + GAP) - GAP;
        row.forEach((node, i) => { node.x = (width - 60) / 2 - span / 2 + i * (W + GAP) + W / 2; node.y = 10 + rank * ROW; });
      });
      const height = rows.length * ROW + 10, edges = [];
      list.forEach((node) => node.sources.forEach((gradient, key) => {
        const source = nodes.get(key), cls = gradient ? "edge" : "edge stopped";
        if (node.rank === source.rank + 1) edges.push(svg("path", { class: cls, "marker-end": "url(#tip)", d: `M${source.x},${source.y + H}C${source.x},${source.y + H + 14} ${node.x},${node.y - 14} ${node.x},${node.y - 1}` }));
        else { const far = Math.min(24 + 7 * Math.abs(node.rank - source.rank), 62), right = Math.max(source.x, node.x) + W / 2;
          edges.push(svg("path", { class: cls, "marker-end": "url(#tip)", d: `M${source.x + W / 2},${source.y + H / 2}C${right + far},${source.y + H / 2} ${right + far},${node.y + H / 2} ${node.x + W / 2 + 1},${node.y + H / 2}` })); }
      }));
      const boxes = list.map((node) => {
        const module = typeof node.key === "string", at = node.first;
        const worst = ORDER.find((each) => node.sites.some((site) => severity(site) === each)) || "";
        const name = module ? node.key : label(at);
        const status = worst || (network.verdict === "not measured" ? "" : "healthy");
        const act = () => { if (module) { open.add(node.key); draw(node.first); } else choose(at, true); };
        return svg("g", { class: `node is-${status}${module ? " module" : ""}${node.sites.includes(chosen) ? " chosen" : ""}`, ...pressed(act),
          "aria-label": `${visible(name)}${module ? `, module of ${node.sites.length} sites, opens` : ""}${worst ? `, ${worst}` : ""}`, "data-first": at },
          svg("title", null, name), svg("rect", { x: node.x - W / 2, y: node.y, width: W, height: H, rx: module ? 3 : 9 }),
          svg("text", { x: node.x, y: node.y + 15, "text-anchor": "middle" }, `${worst ? SYMBOL[worst] + " " : ""}${module ? "▸ " : ""}${shortened(name, 24)}`),
          svg("text", { class: "small", x: node.x, y: node.y + 29, "text-anchor": "middle" }, module ? `${node.sites.length} sites` : `${shortened(cell("kind", at) || "", 16)}  rms ${format(cell("forward_rms", at), 3)}`));
      });
      drawing.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "graph of the network" },
        svg("defs", null, svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0L8,4L0,8z", fill: "context-stroke" }))), edges, boxes));
      drawing.firstChild.style.maxWidth = "none";
      const shut = [...open].filter((prefix) => !prefixes.some((list) => list.includes(prefix) && list.slice(0, list.indexOf(prefix)).some((outer) => isModule(outer) && !open.has(outer))));
      chips.replaceChildren(...(shut.length > 24 ? [] : shut).map((prefix) => el("button", { title: "close this module", onclick: () => { open.delete(prefix); draw(); } }, `▾ ${prefix}`)));
      said.textContent = `${list.length} boxes for ${count} sites`;
      if (focus !== undefined) { const box = drawing.querySelector(`[data-first="${focus}"]`); if (box) box.focus({ preventScroll: false }); }
    }
    const level = choice("modules", [["", "as fits"], ...Array.from({ length: deepest }, (_, i) => [String(i), i === 0 ? "all closed" : `open to level ${i}`]), ["all", "all open"]], "", (value) => {
      open.clear();
      if (value === "all") openLevel(deepest); else if (value) openLevel(Number(value)); else { for (let i = 1; i <= deepest; i += 1) { const before = [...open]; openLevel(i); if (visibleCount() > FITS) { open.clear(); before.forEach((prefix) => open.add(prefix)); break; } } }
      draw();
    });
    draw();
    redraws.push(() => { if (chosen >= 0) { openTo(chosen); draw(); const box = drawing.querySelector(".node.chosen"); if (box) { const to = box.querySelector("rect"); drawing.scrollTop = Number(to.getAttribute("y")) - drawing.clientHeight / 2; } } });
    requestAnimationFrame(() => { drawing.scrollLeft = (drawing.scrollWidth - drawing.clientWidth) / 2; });
    return [el("h2", null, "Network"), el("div", { class: "bar" }, level, said),
      keyOf(["edge", "line", "value and gradient"], ["edge stopped", "line", "no gradient passes"], ["✕", "text", "broken (thick border)"], ["▲", "text", "strained (dashed border)"], ["▸", "text", "closed module, click to open"]),
      how("A box is a site, in execution order from top to bottom; a line leads from what it was computed from. A closed module stands for all its sites and has the worst verdict among them. The buttons above the graph close modules."), chips, drawing];
  }

  function tableSection() {
    const text = (name, heading) => ({ name: heading, text: true, value: (at) => cell(name, at) ?? "" });
    const figureColumn = (name, heading, read) => ({ name: heading, title: figureName(name), value: read || ((at) => cell(name, at)) });
    const wanted = [{ name: "#", value: (at) => at }, { name: "site", text: true, value: label, sort: label, cell: (at) => el("button", { class: "plain", onclick: () => choose(at, true) }, label(at)) },
      text("kind", "kind"), text("role", "role"), { name: "shape", text: true, value: (at) => format(cell("shape", at)) },
      figureColumn("forward_rms", "rms"), figureColumn("forward_gain", "gain"), figureColumn("backward_rms", "gradient rms"), figureColumn("backward_gain", "gradient gain"),
      figureColumn("flat_fraction", "flat"), figureColumn("dead_units", "dead", (at) => { const share = geometryOf("dead", at); return Number.isNaN(share) ? null : share; }),
      figureColumn("mean_cosine", "cosine"), figureColumn("effective_rank", "rank"),
      figureColumn("nonfinite", "not finite", (at) => ["forward", "backward"].flatMap((part) => ["nan", "posinf", "neginf"].map((kind) => number(cell(`${part}_${kind}_count`, at)) || 0)).reduce((a, b) => a + b)),
      { name: "marks", text: true, value: (at) => (cell("marks", at) || []).join(", "), cell: (at) => [severity(at) && [el("span", { class: `t-${severity(at)}` }, SYMBOL[severity(at)]), " "], (cell("marks", at) || []).join(", ")] }]
      .filter((column) => column.name === "#" || all.some((at) => known(column.value(at)) && column.value(at) !== 0));
    const table = sortableTable(wanted, all, { chosen: (at) => at === chosen });
    let filter = "", marked = false;
    const shownCount = el("span", { class: "quiet" });
    const update = () => { table.keeps = (at) => (!marked || severity(at)) && (!filter || `${label(at)} ${cell("kind", at)} ${cell("role", at)} ${(cell("marks", at) || []).join(" ")}`.toLowerCase().includes(filter));
      table.fill(); shownCount.textContent = `${table.tBodies[0].rows.length} of ${count} sites`; };
    update();
    redraws.push(update);
    return [el("h2", null, "Sites"), el("div", { class: "bar" }, el("label", null, "filter", el("input", { type: "search", "aria-label": "filter sites", placeholder: "name, kind, role, mark", oninput: (event) => { filter = event.target.value.toLowerCase(); update(); } })),
      el("label", null, el("input", { type: "checkbox", onchange: (event) => { marked = event.target.checked; update(); } }), "only what is marked"), shownCount),
      how("A click on a heading sorts, a second one turns the order; # is the order in which the sites ran. gain: rms over that of the site that feeds it. dead: share of units that are flat on every sample.", ...network.mark_legend), el("div", { class: "scroll sites" }, table)];
  }

  function parameterSection() {
    const rows = [...(parameters.name || []).keys()];
    if (!rows.length) return null;
    const wanted = [["name", "parameter", true], ["shape", "shape", true], ["value_rms", "rms"], ["value_norm", "norm"], ["gradient_norm", "gradient norm"], ["expected_gradient_norm", "theory"], ["update_ratio", "update ratio"], ["symmetric_units", "equal rows"], ["gradient_outlook", "gradient comes", true]]
      .filter(([name]) => parameters[name]).map(([name, heading, isText]) => ({ name: heading, text: isText, title: figureName(name), value: (at) => isText ? format(parameters[name][at]) : parameters[name][at], cell: name === "name" ? parameterLink : null }));
    const inside = el("div", { class: "scroll" });
    // Thousands of cells that are looked at rarely.
    const fill = () => {
      if (inside.firstChild) return;
      const table = sortableTable(wanted, rows, { chosen: (at) => at === chosenParameter });
      redraws.push(table.fill);
      inside.append(table);
    };
    return el("details", { class: "parameters", ontoggle: fill }, el("summary", null, `Parameters (${rows.length})`), how("A click on a name shows its histograms, of its values and of its gradient, and all that was recorded of it. update ratio: norm of a step's change over the norm of the values. equal rows: units whose rows of weights equal another's."), inside);
  }

  function coverageSection() {
    const given = network.provenance;
    let spec = given.spec;
    if (spec && typeof spec === "object") spec = JSON.stringify(spec, null, 1);
    return el("section", null, el("h2", null, "Provenance and coverage"),
      el("dl", null, Object.entries(given).filter(([name, value]) => name !== "spec" && known(value)).map(([name, value]) => [el("dt", null, name.replaceAll("_", " ")), el("dd", null, format(value))])),
      spec && spec !== "{}" && el("details", null, el("summary", null, "Everything that was asked for"), el("pre", null, spec)),
      known(network.loss_fault[0]) && el("p", null, `The ${network.loss_fault[0]} of the loss is not finite${network.loss_fault[1] ? ` (${network.loss_fault[1]})` : ""}.`),
      network.coverage.length ? el("ul", { class: "plainlist" }, network.coverage.map(([name, what, reason]) => el("li", null, `${what}${name ? " " + name : ""}: ${reason}`))) : el("p", null, "Coverage: nothing was left out."));
  }
  return host;
}

// Dark is small and light is large, in grey too.
const ANCHORS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function colorAt(share) {
  const at = Math.max(0, Math.min(0.9999, share)) * (ANCHORS.length - 1), low = Math.floor(at), part = at - low;
  return ANCHORS[low].map((value, i) => Math.round(value + (ANCHORS[low + 1][i] - value) * part));
}

function heatMap({ values, names, steps, log, alarms, cursor, pick, note }) {
  const flat = [];
  values.forEach((row) => row.forEach((value) => { const x = number(value); if (Number.isFinite(x) && (!log || x > 0)) flat.push(log ? Math.log10(x) : x); }));
  flat.sort((a, b) => a - b);
  const at = (share) => flat[Math.min(flat.length - 1, Math.floor(share * flat.length))];
  // A few wild values would leave one colour for all others.
  let low = flat.length ? at(0.01) : 0, high = flat.length ? at(0.99) : 1;
  if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
  const line = el("p", { class: "readout", "aria-live": "polite" }, "Point at the map for numbers; a click sets the step.");
  const host = responsive((width) => {
    const left = Math.min(170, Math.round(width * 0.34)), top = 18, rowHeight = Math.max(3, Math.min(18, Math.floor(520 / names.length)));
    const height = rowHeight * names.length, room = width - left - 8, cell = room / steps.length;
    const canvas = el("canvas", { width: steps.length, height: names.length, "aria-hidden": "true" });
    const context = canvas.getContext("2d"), image = context.createImageData(steps.length, names.length);
    values.forEach((row, r) => row.forEach((value, c) => {
      const x = number(value), start = 4 * (r * steps.length + c);
      const color = Number.isNaN(x) ? [128, 128, 128, 40] : !Number.isFinite(x) ? [255, 0, 0, 255] : log && x <= 0 ? [0, 0, 0, 255] : [...colorAt(((log ? Math.log10(x) : x) - low) / (high - low)), 255];
      color.forEach((part, i) => { image.data[start + i] = part; });
    }));
    context.putImageData(image, 0, 0);
    const box = el("div", { class: "map" }), whole = top + height + 20, rule = svg("line", { class: "cursor", y1: top, y2: top + height });
    const every = Math.max(1, Math.ceil(13 / rowHeight));
    const frame = svg("svg", { width, height: whole, viewBox: `0 0 ${width} ${whole}` },
      names.map((name, r) => r % every === 0 && svg("text", { x: left - 5, y: top + r * rowHeight + Math.min(rowHeight, 12) - 1, "text-anchor": "end" },
        shortened(name || "(model)", Math.floor((left - 8) / 6.6)), svg("title", null, name))),
      // A column is a sample, so that steps need not be evenly spread.
      [...new Set(Array.from({ length: Math.max(2, Math.floor(room / 90)) }, (_, k, shown = Math.max(2, Math.floor(room / 90))) => Math.round(k * (steps.length - 1) / (shown - 1))))].map((c) => [
        svg("line", { class: "grid", x1: left + (c + 0.5) * cell, x2: left + (c + 0.5) * cell, y1: top + height, y2: top + height + 4 }),
        svg("text", { class: "tick", x: left + (c + 0.5) * cell, y: top + height + 15, "text-anchor": c === 0 ? "start" : c === steps.length - 1 ? "end" : "middle" }, (c ? "" : "step ") + String(steps[c]))]),
      alarms.map((alarm) => svg("text", { class: "bad", x: left + (alarm.at + 0.5) * cell, y: 13, "text-anchor": "middle" }, alarm.severity === "broken" ? "✕" : "▲", svg("title", null, alarm.message))), rule);
    const put2 = () => { const x = left + (cursor() + 0.5) * cell; put(rule, { x1: x, x2: x }, []); };
    put2();
    host.moveCursor = put2;
    // As shares, so that on paper it shrinks with what stands around it.
    canvas.style.cssText = `left:${100 * left / width}%;top:${100 * top / whole}%;width:${100 * room / width}%;height:${100 * height / whole}%`;
    box.style.maxWidth = `${width}px`;
    let row = 0;
    const read = (event) => { const place = frame.getBoundingClientRect(); return [Math.floor((event.clientX - place.left - left) / cell), Math.floor((event.clientY - place.top - top) / rowHeight)]; };
    const tell = (c, r) => { if (c >= 0 && r >= 0 && c < steps.length && r < names.length) line.textContent = visible(`step ${steps[c]}, ${names[r] || "(model)"}: ${format(values[r][c])}`); };
    put(frame, { tabindex: 0, role: "group", "aria-label": "map over steps; arrow keys move",
      onpointermove: (event) => tell(...read(event)),
      onclick: (event) => { const [c, r] = read(event); if (c >= 0 && c < steps.length) { row = Math.max(0, Math.min(names.length - 1, r)); pick(c, row); tell(c, row); } },
      onkeydown: (event) => { const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (step) { event.preventDefault(); row = Math.max(0, Math.min(names.length - 1, row + step[1])); const c = Math.max(0, Math.min(steps.length - 1, cursor() + step[0])); pick(c, row); tell(c, row); } } }, []);
    box.append(canvas, frame);
    return box;
  });
  const unit = (value) => format(log ? 10 ** value : value, 3);
  const legend = el("p", { class: "quiet" }, `dark ${unit(low)} to light ${unit(high)}${log ? ", logarithmic" : ""}. ${note}`);
  const figure = el("div", null, host, line, legend);
  figure.moveCursor = () => host.moveCursor && host.moveCursor();
  return figure;
}

function runView() {
  const run = data.run, maps = run.maps, table = run.step_table, section = el("section");
  // Those of steps that were taken again no longer hold.
  const alarms = standing, steps = maps.steps;
  section.append(verdictBox(run.verdict, run.lines));
  section.append(el("p", null, `${run.steps} steps${run.steps ? ` (${run.first_step} to ${run.last_step})` : ""}, ${run.samples} samples, ${alarms.length} alarm${alarms.length === 1 ? "" : "s"}.`));
  let at = Math.max(steps.length - 1, 0), quantity = maps.quantities.length ? 0 : -1, map = null;
  const nearest = (step) => steps.reduce((best, each, i) => Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best, 0);
  const slider = el("input", { type: "range", min: 0, max: Math.max(steps.length - 1, 0), value: at, "aria-label": "sample", oninput: (event) => go(Number(event.target.value)) });
  const now = el("strong", null, "");
  const mapHost = el("div"), along = el("div", { class: "two" });
  function go(next) {
    at = Math.max(0, Math.min(steps.length - 1, next));
    slider.value = at;
    now.textContent = `step ${steps[at]}`;
    slider.setAttribute("aria-valuetext", `step ${steps[at]}`);
    if (map) map.moveCursor();
    drawAlong();
  }
  function drawMap() {
    const each = maps.quantities[quantity];
    const log = !["flat_fraction", "dead_units", "mean_cosine", "attention_entropy", "largest_logit"].includes(each.quantity);
    map = heatMap({ values: each.values, names: each.names, steps, log, cursor: () => at, pick: (c) => go(c),
      alarms: alarms.slice(0, 200).map((alarm) => ({ at: nearest(alarm.step), severity: alarm.severity, message: `step ${alarm.step}: ${alarm.kind}` })),
      note: "Grey: not recorded. Red: infinite. Black: exactly zero, where the scale is logarithmic. ✕ ▲ above the map: alarms." });
    mapHost.replaceChildren(map);
  }
  function drawAlong() {
    along.replaceChildren(...["forward_rms", "backward_rms"].map((name) => maps.quantities.find((each) => each.quantity === name)).filter(Boolean).map((each) => {
      const y = each.values.map((row) => number(row[at])), start = each.values.map((row) => number(row.find((value) => Number.isFinite(number(value)))));
      return lineChart({ title: `${each.quantity === "forward_rms" ? "Forward" : "Backward"} at step ${steps[at]}`, label: `${each.label}; dashes: the first sample`, log: true, xLabel: "site, in execution order", series: [{ y, expected: start }], height: 200,
        readout: (i) => `${each.names[i] || "(model)"}: ${format(y[i])}, at first ${format(start[i])}` });
    }));
  }
  const stepChart = (name, title, label, log) => {
    const y = (table[name] || []).map(number);
    if (!y.some((value) => !Number.isNaN(value))) return null;
    const marks = [];
    alarms.slice(0, 60).forEach((alarm) => { const i = table.number.findIndex((step) => step >= alarm.step); if (i >= 0) marks.push([i, SYMBOL[alarm.severity]]); });
    return lineChart({ title, label, log, xs: table.number, xLabel: "step", series: [{ y }], marks, everyMark: true, height: 190, readout: (i) => `step ${table.number[i]}: ${format(y[i])}`, picks: "set the step below", pick: steps.length ? (i) => go(nearest(table.number[i])) : null });
  };
  const positive = (name) => (table[name] || []).every((value) => !(number(value) <= 0));
  section.append(el("h2", null, "Every step"), how("The loss and the norm of all gradients that the optimizer stepped with. ▼: exactly zero, ▲ at the top: NaN or Inf, ✕ ▲ on a curve: an alarm. A click sets the step of the maps below."),
    el("div", { class: "two" }, stepChart("loss", "Loss", positive("loss") ? "logarithmic axis" : "", positive("loss")), stepChart("gradient_norm", "Gradient norm", "L2 norm of all gradients, logarithmic axis", true), stepChart("learning_rate", "Learning rate", "", false)));
  if (alarms.length) {
    const columns = [{ name: "step", value: (alarm) => alarm.step, cell: (alarm) => el("button", { class: "plain", onclick: () => go(nearest(alarm.step)) }, String(alarm.step)) }, { name: "since", value: (alarm) => alarm.since },
      { name: "severity", text: true, value: (alarm) => alarm.severity, cell: (alarm) => badge(alarm.severity) }, { name: "kind", text: true, value: (alarm) => alarm.kind }, { name: "where", text: true, value: (alarm) => alarm.site || alarm.parameter || "the whole step" },
      { name: "value", value: (alarm) => alarm.value }, { name: "before", value: (alarm) => alarm.baseline }, { name: "what was seen, and what to do", text: true, value: (alarm) => alarm.message }];
    section.append(el("h2", null, "Alarms"), how("The first alarm is most often the cause, and later ones its effects. A click on a step sets the maps below to it."), el("div", { class: "scroll alarms" }, sortableTable(columns, alarms)));
  }
  if (steps.length && quantity >= 0) {
    section.append(el("h2", null, "Over the steps"), el("div", { class: "bar" }, choice("figure", maps.quantities.map((each, i) => [String(i), `${each.label} (${each.of}s)`]), "0", (value) => { quantity = Number(value); drawMap(); })),
      how("A row is a site in execution order, or a parameter; a column is a sample of the run. A row that changes its colour alone is where something happens; all rows changing together follow the loss. The slider moves the dashed line, and the two curves show all sites at that step."),
      mapHost, el("div", { class: "bar" }, el("label", null, "sample"), slider, now), along);
    drawMap();
    go(at);
  }
  return section;
}

function gridView(pick, opened) {
  const networks = data.networks, labels = networks.map((network) => network.labels);
  const varied = [...new Set(labels.flatMap(Object.keys))].filter((name) => new Set(labels.map((each) => String(each[name]))).size > 1);
  const rowName = varied.includes("initializer") ? "initializer" : varied[0];
  const rest = varied.filter((name) => name !== rowName);
  const rowOf = (each) => rowName ? String(each[rowName] ?? "–") : "network", columnOf = (each) => rest.map((name) => `${name === "activation" ? "" : name + " "}${each[name] ?? "–"}`).join(", ") || "all";
  const rows = [...new Set(labels.map(rowOf))], columns = [...new Set(labels.map(columnOf))];
  const figures = [["verdict", "verdict"], ["forward_factor", "forward: factor over the whole depth"], ["backward_factor", "backward: factor over the whole depth"], ["forward_gain", "forward gain a layer"], ["backward_gain", "backward gain a layer"],
    ["flat_fraction", "flat fraction"], ["dead_fraction", "dead units"], ["mean_cosine", "mean cosine at the last layer"], ["nonfinite_count", "values not finite"]]
    .filter(([name]) => name === "verdict" || data.pairs.some((pair) => known(pair[name])));
  const host = el("div", { class: "scroll" });
  let chosen = opened, shown = "verdict";
  const read = (at, name) => { const value = data.pairs[at][name]; return value && typeof value === "object" ? value.center : value; };
  function draw() {
    const values = networks.map((_, at) => shown === "verdict" ? NaN : number(read(at, shown)));
    const log = /factor|gain/.test(shown), usable = values.filter((x) => Number.isFinite(x) && (!log || x > 0)).map((x) => log ? Math.log10(x) : x);
    const low = Math.min(...usable), high = Math.max(...usable);
    host.replaceChildren(el("table", { class: "cells" }, el("thead", null, el("tr", null, el("th", null, ""), columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", null, rows.map((row) => el("tr", null, el("th", { class: "text", scope: "row" }, row), columns.map((column) => el("td", null, networks.map((network, at) => {
        if (rowOf(network.labels) !== row || columnOf(network.labels) !== column) return null;
        const worst = network.findings.find((finding) => finding.severity !== "note");
        const button = el("button", { class: `is-${network.verdict.replace(" ", "-")}`, "aria-pressed": String(at === chosen), title: network.lines[0], onclick: () => { chosen = at; keepingFocus(host, draw); pick(at); } },
          `${SYMBOL[network.verdict]} `, shown === "verdict" ? (worst ? `${worst.kind} ${worst.direction || ""}` : network.verdict) : format(read(at, shown), 3));
        const x = values[at];
        if (Number.isFinite(x) && (!log || x > 0)) { const [r, g, b] = colorAt(high > low ? ((log ? Math.log10(x) : x) - low) / (high - low) : 0.5); button.style.background = `rgb(${r},${g},${b})`; button.style.color = 0.3 * r + 0.59 * g + 0.11 * b > 125 ? "#000" : "#fff"; }
        return button;
      }))))))));
  }
  draw();
  const counts = ORDER.slice(0, 4).map((verdict) => [networks.filter((network) => network.verdict === verdict).length, verdict]).filter(([n]) => n);
  return el("section", null, el("h2", null, `${networks.length} networks: ${counts.map(([n, verdict]) => `${n} ${verdict}`).join(", ")}`),
    el("div", { class: "bar" }, choice("figure", figures, shown, (value) => { shown = value; draw(); })),
    how("Each cell is a network, its seeds together; a click shows it below. ✕ and a double border: broken, the network will not train; ▲ and dashes: strained; ✓: healthy. A factor of 1 over the whole depth is best: far below 1 the signal vanishes, far above it explodes. Dark cells are the smallest numbers of the map, light ones the largest."), host);
}

function trainingView() {
  const runs = data.trainings, section = el("section", null, el("h2", null, "How training went"));
  const groups = [...new Set(runs.map((run) => run.name))];
  const style = (run, k, drawn) => ({ ...styleOf(groups.indexOf(run.name)), ...(drawn.findIndex((other) => other.name === run.name) < k ? { key: "" } : {}) });
  const chart = (name, title) => {
    const drawn = runs.filter((run) => run[name].some(known));
    if (!drawn.length) return null;
    const longest = drawn.reduce((best, run) => run.epochs.length > best.epochs.length ? run : best).epochs;
    const series = drawn.map((run, k) => { const at = new Map(run.epochs.map((epoch, i) => [epoch, i])); return { y: longest.map((epoch) => number(run[name][at.get(epoch)])), ...style(run, k, drawn) }; });
    return lineChart({ title, label: /loss/.test(name) ? "logarithmic axis" : "", log: /loss/.test(name), xs: longest, xLabel: "epoch", series,
      readout: (i) => `epoch ${longest[i]}: ` + drawn.slice(0, 6).map((run, k) => `${run.name}${known(run.labels.seed) ? ` seed ${run.labels.seed}` : ""} ${format(series[k].y[i], 3)}`).join("; ") + (drawn.length > 6 ? `; and ${drawn.length - 6} more` : "") });
  };
  const pairs = data.trained_pairs, center = (value) => value && value.center;
  section.append(keyOfLines(groups),
    how("A line is a run, from before the first step on; runs that differ only in the seed look alike. ▲ at the top: the loss is not finite."),
    el("div", { class: "two wide" }, chart("train_loss", "Training loss"), chart("validation_loss", "Validation loss"), chart("train_accuracy", "Training accuracy"), chart("validation_accuracy", "Validation accuracy")),
    el("div", { class: "scroll" }, sortableTable([{ name: "network", text: true, value: (pair) => pair.name }, { name: "runs", value: (pair) => pair.runs }, { name: "final loss", value: (pair) => center(pair.final_loss) }, { name: "final accuracy", value: (pair) => center(pair.final_accuracy) },
      { name: "steps to target", value: (pair) => pair.steps_to_target, cell: (pair) => pair.steps_to_target === "inf" ? "never" : format(pair.steps_to_target) }, { name: "stability", text: true, value: (pair) => Object.entries(pair.stability).map(([name, n]) => `${name} ${n}`).join(", ") }], pairs)));
  return section;
}

// What differs from another record: both signals along the depth, every site with its ratio, the weights that moved.
function againstView() {
  const { same, lines, called, network, sites, differences, parameters } = data.against;
  const of = Object.entries(network).map(([name, value]) => `${name} ${value}`).join(", ");
  const was = (row) => row.renamed ? `${row.site || "(model)"} (was ${row.renamed})` : row.site || "(model)";
  const pair = (row, direction) => row[direction].map(number);
  const ratio = (row, direction) => { const [a, b] = pair(row, direction); return a > 0 && Number.isFinite(a) && Number.isFinite(b) ? b / a : NaN; };
  const charts = ["forward", "backward"].map((direction) => lineChart({
    title: direction === "forward" ? "Forward: the values" : "Backward: the gradient of the loss", label: "root mean square, logarithmic axis",
    log: true, xLabel: "site of both, in execution order", series: [0, 1].map((side) => ({ y: sites.map((row) => pair(row, direction)[side]), ...styleOf(side) })),
    marks: sites.map((row, at) => [at, row.differs.includes(direction) ? "▲" : ""]).filter(([, mark]) => mark), everyMark: true,
    readout: (at) => `${was(sites[at])}: ${pair(sites[at], direction).map((value) => format(value)).join(" -> ")}${Number.isFinite(ratio(sites[at], direction)) ? `, x${format(ratio(sites[at], direction))}` : ""}` }));
  const column = (direction, name, value) => ({ name: `${direction} ${name}`, value });
  const table = sortableTable([{ name: "site", text: true, value: was },
    ...["forward", "backward"].flatMap((direction) => [column(direction, "first", (row) => row[direction][0]), column(direction, "second", (row) => row[direction][1]), column(direction, "ratio", (row) => ratio(row, direction))]),
    { name: "difference", text: true, value: (row) => row.difference }], sites, { caption: of && `sites of ${of}` });
  const list = (heading, rows, open) => rows.length ? el("details", open ? { open: "" } : null, el("summary", null, heading), el("table", { class: "free" }, el("tbody", null, rows.map((row) => el("tr", null, row.map((cell) => el("td", { class: "text" }, cell))))))) : null;
  return el("section", { id: "against" }, el("h2", null, called[0] === "first" ? "Against the first" : `Against ${called[0]}`), el("div", { class: `verdict is-${same ? "healthy" : "strained"}` }, el("p", null, `${same ? SYMBOL.healthy : SYMBOL.strained} ${lines[0]}`), lines.slice(1).map((text) => el("p", null, text))),
    how("First is the other file, second the one of this page. A difference counts if it exceeds the tolerance and lies outside the interval over the seeds. A gain is the step from the site before (backward: after): a gain alone says where a change is made, the rms how far it reaches. ▲ marks a site that differs."),
    sites.length ? [keyOfLines(called), charts, el("div", { class: "scroll" }, table)] : null,
    list(counted(differences.length, "difference"), differences, differences.length <= 10),
    list(`${counted(parameters.length, "parameter")} with other values: rms of first and second`, parameters.map((row) => [row.renamed ? `${row.name} (was ${row.renamed})` : row.name, format(row.before), format(row.after)])));
}

const title = data.title || "propscope report";
const parts = [el("h1", null, title), el("p", { class: "quiet" }, `propscope report, written by propscope ${data.propscope_version}`)];
const view = el("div");
const show = (at) => view.replaceChildren(networkView(data.networks[at], data.networks.length > 1 ? data.networks[at].name : data.against ? data.against.called[1] : ""));
// Of a run, the sample that shows the first alarm; of a grid, the first network of the worst verdict.
const standing = data.run ? data.run.alarms.filter((alarm) => alarm.superseded !== 1) : [];
const alarmed = Math.min(...standing.map((alarm) => alarm.step));
const opened = data.run ? Math.max(0, data.networks.filter((network) => network.labels.step <= alarmed).length - 1)
  : Math.max(0, Math.min(...data.networks.map((network, at) => ORDER.indexOf(network.verdict) * data.networks.length + at)) % data.networks.length || 0);
if (data.against) parts.push(againstView());
if (data.run) parts.push(runView());
if (data.trainings) parts.push(trainingView());
if (data.networks.length > 1) {
  if (data.run) parts.push(el("h2", null, "Samples in full"), el("div", { class: "bar" }, choice("sample", data.networks.map((network, at) => [String(at), network.name]), String(opened), (value) => show(Number(value)))));
  else parts.push(gridView(show, opened));
}
if (data.networks.length) show(opened);
page.replaceChildren(...parts, view);
if (data.no_theory.length) page.append(data.no_theory.map((text) => el("p", { class: "quiet" }, text)).reduce((box, each) => (box.append(each), box), el("div")));
page.append(el("h2", null, "About this page"), el("ul", { class: "plainlist" }, data.thinned.map((text) => el("li", null, text)),
  el("li", null, "The page is one file: everything drawn comes from the JSON document in it, and it loads nothing from the network.")));
document.documentElement.dataset.ready = "yes";
})();
