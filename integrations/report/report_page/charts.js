// Curves over the probes of a run. Pointing at one moves the cursor of all.
const charts = new Set();
const LEFT = 40, RIGHT = 10, TOP = 8, BOTTOM = 22;

function niceCeiling(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 2.5, 5, 10].find((step) => step * unit >= value * 0.999999);
}
// From 0 to 1 where values are shares, but closer where all of them are small
function axis(values) {
  const most = Math.max(...values, 0), least = Math.min(...values, 0);
  const high = most > 1 ? niceCeiling(most) : most > 0.25 || most === 0 ? 1 : niceCeiling(most * 1.1);
  return [least < 0 ? -niceCeiling(-least) : 0, high];
}
const tick = (value) => String(Number(value.toPrecision(2)));

// lines: [{ name, values, ends, style }]; labels: what stands at both ends of the time axis
function makeChart({ lines, epochs, width, height, label, onPick }) {
  const known = lines.flatMap(({ values, ends = [] }) => [...values, ...ends.flatMap((pair) => pair ?? [])]).filter((value) => value != null);
  const [low, high] = axis(known), count = epochs.length;
  const x = (index) => LEFT + (width - LEFT - RIGHT) * (count > 1 ? index / (count - 1) : 0.5);
  const y = (value) => height - BOTTOM - (height - TOP - BOTTOM) * (value - low) / (high - low);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const write = (text, left, top, anchor) => {
    const node = drawn("text", { x: left, y: top, "text-anchor": anchor });
    node.textContent = text;
    svg.append(node);
  };
  const marks = height > 200 ? [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low)) : [low, high];
  for (const mark of low < 0 ? [...marks, 0] : marks) {
    svg.append(drawn("line", { class: mark === 0 ? "zero" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }));
    write(tick(mark), LEFT - 6, y(mark) + 4, "end");
  }
  if (count > 1) write(String(epochs[0]), LEFT, height - 5, "start");
  write(`epoch ${epochs.at(-1)}`, width - RIGHT, height - 5, "end");
  const dots = [];
  for (const { values, ends = [], style } of lines) {
    for (const run of stretches(ends)) {
      const upper = run.map((index) => `${x(index)},${y(ends[index][1])}`), lower = run.map((index) => `${x(index)},${y(ends[index][0])}`);
      svg.append(drawn("polygon", { class: `band ${style}`, points: [...upper, ...lower.reverse()].join(" ") }));
    }
    for (const run of stretches(values)) {
      svg.append(drawn("polyline", { class: `curve ${style}`, points: run.map((index) => `${x(index)},${y(values[index])}`).join(" ") }));
      if (run.length === 1) svg.append(drawn("circle", { class: style, cx: x(run[0]), cy: y(values[run[0]]), r: 2.5 }));
    }
    dots.push(drawn("circle", { class: style, r: 4 }));
  }
  const cursor = drawn("line", { class: "cursor", y1: TOP, y2: height - BOTTOM });
  svg.append(cursor, ...dots);
  const chart = { svg, point(index) {
    cursor.setAttribute("x1", x(index));
    cursor.setAttribute("x2", x(index));
    lines.forEach(({ values }, number) => {
      const there = values[index] != null;
      dots[number].setAttribute("visibility", there ? "visible" : "hidden");
      if (there) { dots[number].setAttribute("cx", x(index)); dots[number].setAttribute("cy", y(values[index])); }
    });
  } };
  if (onPick) follow(svg, { count, width, onPick, describe: (index) => `epoch ${epochs[index]}: ` + lines.filter(({ values }) => values[index] != null)
    .map(({ name, values, ends = [] }) => `${lines.length > 1 ? `${name} ` : ""}${figure(values[index], name)}${interval(ends[index]) ? ` (${interval(ends[index])})` : ""}`).join(", ") });
  return chart;
}
function follow(svg, { count, width, onPick, describe }) {
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), inside = (event.clientX - box.left) / box.width * width;
    return Math.max(0, Math.min(count - 1, Math.round((inside - LEFT) / (width - LEFT - RIGHT) * (count - 1))));
  };
  svg.addEventListener("pointermove", (event) => {
    const index = nearest(event), tip = byId("tip");
    tip.textContent = describe(index);
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${event.clientY + 14}px`;
    pointAll(index);
  });
  svg.addEventListener("pointerleave", () => { byId("tip").hidden = true; pointAll(at); });
  svg.addEventListener("click", (event) => onPick(nearest(event)));
}
const pointAll = (index) => charts.forEach((chart) => chart.point(index));

// Where values follow one another without a gap
function stretches(values) {
  const found = [];
  values.forEach((value, index) => {
    if (value == null) return;
    index && values[index - 1] != null ? found.at(-1).push(index) : found.push([index]);
  });
  return found;
}
const scoresOf = (shown, name) => shown.map((record) => name === "validation" ? record.validation?.[1] ?? null : record.scores[name] ?? null);
const endsOf = (shown, name) => shown.map((record) => record.intervals[name]?.every((end) => end !== null) ? record.intervals[name] : null);

// --- the one chart at the top ------------------------------------------------------------------------------------

function mainLines() {
  const validation = records.find((record) => record.validation)?.validation[0];
  const wanted = [
    validation ? ["validation", `${validation} of the training`, "first"] : ["image_accuracy", "accuracy on the probe images", "first"],
    [data.headline, `${data.headline}, the headline`, "second"],
    ["judge_accuracy", "the judge on prototypes", "third"],
    ["judge_ceiling", "its ceiling: the images themselves", "third ceiling"],
    ["null_accuracy", "its null: noise", "third null"],
  ];
  return wanted.map(([key, name, style]) => ({ key, name, style, values: scoresOf(records, key), ends: key === data.headline ? endsOf(records, key) : [] }))
    .filter(({ values }) => values.some((value) => value !== null));
}
function buildMainChart() {
  byId("main-chart").hidden = records.length === 1;
  if (records.length === 1) return () => {};
  const lines = mainLines(), epochs = records.map((record) => record.epoch);
  const chart = makeChart({ lines, epochs, width: 520, height: 300, label: "Accuracy, headline and judge over training", onPick: show });
  const outputs = lines.map(() => element("output"));
  const legend = lines.map(({ name, style, key }, number) => {
    const swatch = drawn("svg", { class: "swatch", viewBox: "0 0 28 10", "aria-hidden": "true" });
    swatch.append(drawn("line", { class: `curve ${style}`, x1: 0, x2: 28, y1: 5, y2: 5 }));
    return element("li", {}, swatch, key === "validation" ? element("span", {}, name) : element("a", { href: `#meaning-${key}` }, name), outputs[number]);
  });
  byId("main-chart").replaceChildren(chart.svg, element("ul", { className: "legend" }, ...legend));
  const point = chart.point;
  chart.point = (index) => {
    point(index);
    lines.forEach(({ values }, number) => { outputs[number].textContent = figure(values[index]); });
  };
  charts.add(chart);
  return () => {};
}

// --- one for each score ------------------------------------------------------------------------------------------

function buildScore(name) {
  const values = scoresOf(records, name), epochs = records.map((record) => record.epoch);
  const chart = makeChart({ lines: [{ name, values, ends: endsOf(records, name), style: "first" }], epochs, width: 300, height: 130, label: name, onPick: show });
  charts.add(chart);
  const value = element("output"), better = { higher: "Higher is better.", lower: "Lower is better." }[data.metrics[name]?.better] ?? "";
  const part = element("figure", {}, element("figcaption", {}, element("b", {}, element("a", { href: `#meaning-${name}` }, name)), value),
    element("p", {}, `${data.metrics[name]?.meaning ?? ""}. ${better}`), chart.svg);
  return { part, update(record, index) {
    value.textContent = figure(values[index], name);
    chart.svg.setAttribute("aria-label", `${name} over training; epoch ${record.epoch}: ${figure(values[index], name)}`);
  } };
}
function buildScores() {
  const there = new Set(records.flatMap((record) => Object.keys(record.scores).filter((name) => record.scores[name] !== null)));
  const updates = [], parts = [];
  for (const [title, names] of Object.entries(data.groups)) {
    const made = names.filter((name) => there.has(name)).map(buildScore);
    if (!made.length) continue;
    parts.push(element("h3", {}, title), element("div", { className: "charts" }, ...made.map(({ part }) => part)));
    updates.push(...made.map(({ update }) => update));
  }
  byId("charts").replaceChildren(...parts);
  const names = Object.values(data.groups).flat().filter((name) => there.has(name));
  byId("score-table").replaceChildren(head(column("epoch"), ...names.map((name) => column(name))),
    element("tbody", {}, ...records.map((record) => element("tr", {}, row(String(record.epoch)),
      ...names.map((name) => element("td", { className: "number" }, figure(record.scores[name], name)))))));
  return (record, index) => updates.forEach((update) => update(record, index));
}
