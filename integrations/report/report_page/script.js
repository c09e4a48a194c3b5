"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
let series, records, at, playing;

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) name in made ? (made[name] = value) : made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function drawn(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
const figure = (value, name = "") =>
  value == null ? "none" : name === "seconds" ? `${value.toPrecision(3)} s` : value.toFixed(2);
const head = (...cells) => element("thead", {}, element("tr", {}, ...cells));
const column = (text, options = {}) => element("th", { scope: "col", ...options }, text);
const row = (text) => element("th", { scope: "row" }, text);

// --- pictures: a strip of tiles a probe, a tile a class ---------------------------------------------------------

const strips = new Map();
function strip(number) {
  if (!strips.has(number)) {
    const image = new Image();
    strips.set(number, image);
    image.src = data.pictures[number];
    image.whenReady = image.decode().catch((error) => console.error(error));
  }
  return strips.get(number);
}
function paint(canvas, number, classes, index) {
  const image = strip(number);
  canvas.wanted = number;
  if (!image.complete || !image.naturalWidth) {
    image.whenReady.then(() => canvas.wanted === number && image.naturalWidth && paint(canvas, number, classes, index));
    return;
  }
  const width = image.naturalWidth / classes, height = image.naturalHeight;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.className = Math.max(width, height) <= 40 ? "small" : "";
  }
  canvas.getContext("2d").drawImage(image, index * width, 0, width, height, 0, 0, width, height);
}
const canvas = (label) => element("canvas", { width: 1, height: 1, role: "img", "aria-label": label });

// --- what follows the slider: each part is built once and returns how it is updated --------------------------------

function buildPrototypes() {
  const cards = records.at(-1).classes.map((name, index) => {
    const tiles = ["prototype", "image", "update"].map((kind) => [kind, canvas(kind)]);
    const answers = Object.keys(records.at(-1).answers).map((who) => [who, element("p")]);
    const card = element("article", { className: "card" }, element("h3", { title: name }, name),
      element("div", { className: "tiles" }, ...tiles.map(([, tile]) => tile)), ...answers.map(([, line]) => line));
    return { card, update(record) {
      for (const [kind, tile] of tiles) {
        paint(tile, record.pictures[kind], record.classes.length, index);
        tile.setAttribute("aria-label", `${kind} of class ${name}, epoch ${record.epoch}`);
      }
      for (const [who, line] of answers) {
        const answer = record.answers[who]?.[index] ?? null;
        const right = answer === name;
        line.className = answer === null ? "" : right ? "right" : "wrong";
        line.textContent = line.title = answer === null
          ? who === "model" ? "no mask kept: no prototype" : "the judge says nothing"
          : `${right ? "✓" : "✗"} the ${who} says ${answer}`;
      }
    } };
  });
  byId("prototypes").replaceChildren(...cards.map(({ card }) => card));
  return (record) => cards.forEach(({ update }) => update(record));
}

const WIDTH = 300, HEIGHT = 120, LEFT = 36, RIGHT = 8, TOP = 8, BOTTOM = 20;
function buildChart(name) {
  const values = records.map((record) => record.scores[name] ?? null);
  const ends = records.map((record) => record.intervals[name]?.every((end) => end !== null) ? record.intervals[name] : null);
  const known = [...values, ...ends.flatMap((pair) => pair ?? [])].filter((value) => value !== null);
  const bounded = known.every((value) => value >= 0 && value <= 1) && data.metrics[name]?.bounds !== "0 and up";
  const low = Math.min(0, ...known), high = bounded ? 1 : Math.max(...known, low + 1e-9) * 1.05;
  const x = (index) => LEFT + (WIDTH - LEFT - RIGHT) * (records.length > 1 ? index / (records.length - 1) : 0.5);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const write = (text, left, top, anchor) => {
    const node = drawn("text", { x: left, y: top, "text-anchor": anchor });
    node.textContent = text;
    svg.append(node);
  };
  svg.append(drawn("rect", { class: "frame", x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }));
  write(bounded ? "1" : high.toPrecision(2), LEFT - 5, TOP + 9, "end");
  write(bounded || low === 0 ? "0" : low.toPrecision(2), LEFT - 5, HEIGHT - BOTTOM, "end");
  write(records.length > 1 ? String(records[0].epoch) : "", LEFT, HEIGHT - 4, "start");
  write(`epoch ${records.at(-1).epoch}`, WIDTH - RIGHT, HEIGHT - 4, "end");
  for (const run of runs(ends)) {
    const upper = run.map((index) => `${x(index)},${y(ends[index][1])}`), lower = run.map((index) => `${x(index)},${y(ends[index][0])}`);
    svg.append(drawn("polygon", { class: "band", points: [...upper, ...lower.reverse()].join(" ") }));
  }
  for (const run of runs(values)) {
    svg.append(drawn("polyline", { class: "curve", points: run.map((index) => `${x(index)},${y(values[index])}`).join(" ") }));
    if (run.length === 1) svg.append(drawn("circle", { cx: x(run[0]), cy: y(values[run[0]]), r: 2.5 }));
  }
  const cursor = drawn("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM }), dot = drawn("circle", { r: 4 });
  svg.append(cursor, dot);
  const value = element("output");
  const title = element("a", { href: `#meaning-${name}` }, name);
  const better = { higher: "Higher is better.", lower: "Lower is better." }[data.metrics[name]?.better] ?? "";
  const chart = element("figure", {}, element("figcaption", {}, element("b", {}, title), value),
    element("p", {}, `${data.metrics[name]?.meaning ?? ""}. ${better}`), svg);
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), inside = (event.clientX - box.left) / box.width * WIDTH;
    const share = (inside - LEFT) / (WIDTH - LEFT - RIGHT);
    return Math.max(0, Math.min(records.length - 1, Math.round(share * (records.length - 1))));
  };
  svg.addEventListener("pointermove", (event) => {
    const index = nearest(event), tip = byId("tip"), pair = ends[index];
    tip.textContent = `epoch ${records[index].epoch}: ${figure(values[index], name)}` +
      (pair && values[index] !== null ? ` (${figure(pair[0])} to ${figure(pair[1])})` : "");
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY + 14}px`;
    point(index);
  });
  svg.addEventListener("pointerleave", () => { byId("tip").hidden = true; point(at); });
  svg.addEventListener("click", (event) => show(nearest(event)));
  function point(index) {
    cursor.setAttribute("x1", x(index));
    cursor.setAttribute("x2", x(index));
    dot.setAttribute("visibility", values[index] === null ? "hidden" : "visible");
    if (values[index] !== null) { dot.setAttribute("cx", x(index)); dot.setAttribute("cy", y(values[index])); }
  }
  return { chart, update(record, index) {
    value.textContent = figure(values[index], name);
    svg.setAttribute("aria-label", `${name} over training; epoch ${record.epoch}: ${figure(values[index], name)}`);
    point(index);
  } };
}
function runs(values) {
  const found = [];
  values.forEach((value, index) => {
    if (value === null) return;
    index && values[index - 1] !== null ? found.at(-1).push(index) : found.push([index]);
  });
  return found;
}
function buildCharts() {
  const there = new Set(records.flatMap((record) => Object.keys(record.scores).filter((name) => record.scores[name] !== null)));
  const updates = [], parts = [];
  for (const [title, names] of Object.entries(data.groups)) {
    const charts = names.filter((name) => there.has(name)).map(buildChart);
    if (!charts.length) continue;
    parts.push(element("h3", {}, title), element("div", { className: "charts" }, ...charts.map(({ chart }) => chart)));
    updates.push(...charts.map(({ update }) => update));
  }
  byId("charts").replaceChildren(...parts);
  const names = Object.values(data.groups).flat().filter((name) => there.has(name));
  byId("score-table").replaceChildren(head(column("epoch"), ...names.map((name) => column(name))),
    element("tbody", {}, ...records.map((record) => element("tr", {}, row(String(record.epoch)),
      ...names.map((name) => element("td", { className: "number" }, figure(record.scores[name], name)))))));
  return (record, index) => updates.forEach((update) => update(record, index));
}

function buildClasses() {
  const last = records.at(-1), kinds = Object.keys(last.per_class);
  const rows = last.classes.map((name, index) => {
    const cells = kinds.map((kind) => [kind, element("meter", { min: 0, max: 1 }), element("span")]);
    const line = element("tr", {}, row(name), element("td", { className: "number" }, String(last.number[index])),
      ...cells.map(([, meter, text]) => element("td", {}, meter, " ", text)));
    return { line, update(record) {
      for (const [kind, meter, text] of cells) {
        const value = record.per_class[kind]?.[index] ?? null;
        meter.value = value ?? 0;
        meter.setAttribute("aria-label", `${kind} of class ${name}`);
        text.textContent = figure(value);
      }
    } };
  });
  byId("classes").replaceChildren(
    head(column("class"), column("images", { className: "number" }), ...kinds.map((kind) => column(kind))),
    element("tbody", {}, ...rows.map(({ line }) => line)));
  return (record) => rows.forEach(({ update }) => update(record));
}

function buildConfusion() {
  const last = records.at(-1), answers = [...last.classes, "other", "none"];
  const tables = Object.keys(last.confusion).map((who) => {
    const cells = last.classes.map(() => answers.map(() => element("td")));
    const table = element("table", {}, head(column("class"), ...answers.map((name) => column(name))),
      element("tbody", {}, ...last.classes.map((name, index) => element("tr", {}, row(name), ...cells[index]))));
    const part = element("div", {}, element("h3", {}, `the ${who} takes it for`),
      element("div", { className: "wide", role: "region", tabIndex: 0, "aria-label": `Confusion, the ${who}` }, table));
    return { part, update(record) {
      record.confusion[who]?.forEach((counts, index) => {
        const sum = Math.max(1, counts.reduce((total, count) => total + count, 0));
        counts.forEach((count, answer) => {
          const cell = cells[index][answer], fill = answer === index ? "--good-fill" : "--bad-fill";
          cell.textContent = count || "";
          cell.style.background = count ? `color-mix(in srgb, var(${fill}) ${Math.round(45 * count / sum)}%, var(--paper))` : "";
        });
      });
    } };
  });
  byId("confusion").replaceChildren(...tables.map(({ part }) => part));
  return (record) => tables.forEach(({ update }) => update(record));
}

function buildSettings() {
  return (record) => {
    const lines = Object.entries(data.settings[record.settings]).map(([name, value]) =>
      element("tr", {}, row(name), element("td", {}, typeof value === "string" ? value : JSON.stringify(value))));
    byId("settings").replaceChildren(element("tbody", {}, ...lines));
  };
}

function buildVerdict() {
  return (record) => {
    const name = "structure" in record.scores ? "structure" : "accuracy_all";
    byId("verdict").dataset.tone = record.verdict.tone;
    byId("headline-value").textContent = figure(record.scores[name]);
    byId("headline-name").textContent = `${name}, of 1`;
    byId("headline-name").href = `#meaning-${name}`;
    byId("verdict-headline").textContent = record.verdict.headline;
    byId("verdict-reason").textContent = record.verdict.reason;
  };
}

// --- what does not -----------------------------------------------------------------------------------------------

const MOST_COLUMNS = 12;
function buildTimeline() {
  const spacing = Math.ceil(records.length / MOST_COLUMNS);
  const shown = records.filter((record, index) => index % spacing === 0 || index === records.length - 1);
  const classes = records.at(-1).classes;
  byId("timeline").replaceChildren(head(element("td", {}, "epoch"), ...shown.map((record) => column(String(record.epoch)))),
    element("tbody", {}, ...classes.map((name, index) => element("tr", {}, row(name), ...shown.map((record) => {
      const tile = canvas(`prototype of class ${name}, epoch ${record.epoch}`);
      paint(tile, record.pictures.prototype, record.classes.length, index);
      return element("td", {}, tile);
    })))));
}

// --- moving through the epochs -----------------------------------------------------------------------------------

let updates = [];
function show(index) {
  at = Math.max(0, Math.min(records.length - 1, index));
  const record = records[at];
  byId("epoch").value = at;
  byId("epoch").setAttribute("aria-valuetext", `epoch ${record.epoch}`);
  byId("shown").textContent = `epoch ${record.epoch} (${at + 1} of ${records.length})`;
  for (const update of updates) update(record, at);
}
function stop() {
  clearInterval(playing);
  playing = undefined;
  byId("play").textContent = "Play";
}
function play() {
  if (playing) return stop();
  if (at === records.length - 1) show(0);
  byId("play").textContent = "Pause";
  playing = setInterval(() => (at < records.length - 1 ? show(at + 1) : stop()), Math.max(60, Math.min(500, 8000 / records.length)));
}
function choose(number) {
  stop();
  series = data.series[number];
  records = series.records;
  const first = records[0], last = records.at(-1);
  byId("scope").textContent = `${records.length === 1 ? "one probe" : `${records.length} probes, epochs ${first.epoch} to ${last.epoch}`}, ` +
    `${last.images} images of ${last.classes.length} classes`;
  byId("epoch").max = records.length - 1;
  for (const control of ["play", "back", "next", "epoch"]) byId(control).disabled = records.length === 1;
  updates = [buildVerdict, buildPrototypes, buildCharts, buildClasses, buildConfusion, buildSettings].map((build) => build());
  buildTimeline();
  show(records.length - 1);
}

byId("epoch").addEventListener("input", (event) => { stop(); show(Number(event.target.value)); });
byId("back").addEventListener("click", () => { stop(); show(at - 1); });
byId("next").addEventListener("click", () => { stop(); show(at + 1); });
byId("play").addEventListener("click", play);
byId("theme").addEventListener("change", (event) => { document.documentElement.dataset.theme = event.target.value; });
byId("series").append(...data.series.map(({ name }, number) => element("option", { value: number }, name)));
byId("series-label").hidden = data.series.length === 1;
byId("series").addEventListener("change", (event) => choose(Number(event.target.value)));
choose(0);
