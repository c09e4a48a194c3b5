// Runs side by side: the deciding scores first, then what each model fills in.
const MOST_COMPARED = 20;

function buildComparison() {
  const chosen = data.runs.map((name, run) => ({ name, series: data.series.find((each) => each.run === run) }));
  if (chosen.length < 2) return;
  const lasts = chosen.map(({ series }) => series.records.at(-1));
  byId("comparison").hidden = false;
  byId("compared-scores").replaceChildren(
    head(column("score"), ...chosen.map(({ name }) => column(name))),
    element("tbody", {}, verdictRow(lasts), ...scoreRows(lasts)));
  byId("compared-note").textContent = differences(lasts).join(" ");
  const { classes } = lasts[0], shown = classes.slice(0, MOST_COMPARED);
  byId("compared-scope").textContent = shown.length < classes.length ? `${shown.length} of ${classes.length} classes.` : "";
  const line = (title, record, kind) => element("tr", {}, element("th", { scope: "row", title }, element("span", {}, short(title, 30))),
    ...shown.map((name) => element("td", {}, comparedTile(record, kind, name))));
  byId("compared-pictures").replaceChildren(
    head(element("td", {}), ...shown.map((name) => column(short(name, 14), { title: name }))),
    element("tbody", {}, line("image", lasts[0], "image"), ...chosen.map(({ name }, number) => line(name, lasts[number], "prototype"))));
  compareCurves(chosen);
}
function comparedTile(record, kind, name) {
  const index = record.classes.indexOf(name), canvas = tile(`${kind} of class ${name}`);
  if (index < 0) return element("span", { className: "quiet" }, "not probed");
  paintClass(canvas, record, kind, index);
  if (kind === "image") return canvas;
  const line = element("p");
  const [sign, text, said] = answerLines(record.gallery, record.first[index], name)[0];
  writeLines([line], [[sign, text, said.replace("model: ", "")]]);
  return element("div", {}, canvas, line);
}
function verdictRow(lasts) {
  const sign = { good: "✓", bad: "✗" };
  return element("tr", {}, row("verdict"), ...lasts.map(({ verdict }) => element("td", { className: { good: "right", bad: "wrong" }[verdict.tone] ?? "" }, `${sign[verdict.tone] ?? "?"} ${verdict.headline}`)));
}
function scoreRows(lasts) {
  const names = [...new Set([...data.tiles, ...data.key])].filter((name) => lasts.some((record) => scoresOf([record], name)[0] !== null) && data.metrics[name]?.scope !== "training");
  return names.map((name) => {
    const values = lasts.map((record) => scoresOf([record], name)[0]), better = name === "validation" ? "higher" : data.metrics[name]?.better;
    const known = values.filter((value) => value !== null);
    const best = better === "higher" ? Math.max(...known) : better === "lower" ? Math.min(...known) : null;
    const unequal = new Set(known.map((value) => figure(value, name))).size > 1;
    return element("tr", {}, row(name === "validation" ? "accuracy of the training" : element("a", { href: `#meaning-${name}` }, name)), ...values.map((value, number) => {
      const pair = interval(lasts[number].intervals[name]), wins = unequal && value !== null && value === best;
      return element("td", {}, element(wins ? "b" : "span", {}, `${figure(value, name)}${wins ? " ★" : ""}`), pair ? element("span", { className: "quiet" }, ` ${pair}`) : "");
    }));
  });
}
// What makes scores incomparable, in sentences
function differences(lasts) {
  const [first, ...others] = lasts, said = [];
  const settings = new Set(others.flatMap((record) => Object.keys({ ...first.settings_of, ...record.settings_of })
    .filter((name) => JSON.stringify(first.settings_of[name]) !== JSON.stringify(record.settings_of[name]))));
  if (settings.size) said.push(`The probes had different settings (${[...settings].join(", ")}), so scores compare only roughly.`);
  if (others.some((record) => record.gallery.images_key !== first.gallery.images_key)) said.push("The probe images differ, so scores compare only roughly.");
  return said.length ? said : ["Same settings, same probe images. ★ is the better value; look at the intervals before you believe a small difference."];
}
function compareCurves(chosen) {
  const longest = Math.max(...chosen.map(({ series }) => series.records.length));
  byId("compared-chart").hidden = longest < 2;
  if (longest < 2) return;
  const epochs = chosen.find(({ series }) => series.records.length === longest).series.records.map((record) => record.epoch);
  const styles = ["first", "second", "third"], several = chosen.slice(0, styles.length);
  const lines = several.map(({ name, series }, number) => ({ name, style: styles[number], values: scoresOf(series.records, data.headline) }));
  const chart = makeChart({ lines, epochs, width: 520, height: 240, label: `${data.headline} of each run` });
  const legend = several.map(({ name }, number) => {
    const swatch = drawn("svg", { class: "swatch", viewBox: "0 0 28 10", "aria-hidden": "true" });
    swatch.append(drawn("line", { class: `curve ${styles[number]}`, x1: 0, x2: 28, y1: 5, y2: 5 }));
    return element("li", {}, swatch, element("span", {}, `${data.headline}, ${name}`));
  });
  chart.point(longest - 1);
  byId("compared-chart").replaceChildren(chart.svg, element("ul", { className: "legend" }, ...legend));
}
