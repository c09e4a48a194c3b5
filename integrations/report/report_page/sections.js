// What follows the slider: each part is built once and returns how it is updated.
const FIRST_CARDS = 20, WIDE_FROM = 12;

function buildVerdict() {
  return (record, index) => {
    const { tone } = record.verdict;
    byId("verdict").dataset.tone = tone;
    byId("verdict-sign").textContent = { good: "✓", bad: "✗" }[tone] ?? "?";
    byId("verdict-headline").textContent = record.verdict.headline;
    byId("verdict-reason").textContent = record.verdict.reason;
    let first = index;
    while (first > 0 && records[first - 1].verdict.headline === record.verdict.headline) first--;
    byId("verdict-since").textContent = records.length > 1 ? (first === 0 ? "Same verdict since the first probe." : `Same verdict since epoch ${records[first].epoch}.`) : "";
    byId("verdict-next").textContent = record.advice;
    byId("judge-line").textContent = record.judge_line;
  };
}
function buildTiles() {
  const has = (name) => scoresOf(records, name).some((value) => value !== null);
  const names = data.tiles.filter(has).slice(0, 4), first = records[0];
  const tiles = names.map((name) => {
    const value = element("strong"), range = element("span"), since = element("span"), title = name === "validation" ? records.find((each) => each.validation).validation[0] : name;
    const label = name === "validation" ? element("span", { className: "label", title }, title) : element("a", { className: "label", href: `#meaning-${name}` }, title);
    const chance = (data.metrics[name]?.chance ?? "").split(/[:,(]/)[0].trim();
    const part = element("div", { className: "score" }, label, value, range, since);
    if (name === "validation") range.textContent = "of the training";
    return { part, update(record) {
      const now = scoresOf([record], name)[0], before = scoresOf([first], name)[0];
      value.textContent = figure(now, name);
      const pair = interval(record.intervals[name]);
      if (name !== "validation") range.textContent = pair ? `95%: ${pair}` : chance ? `chance: ${chance}` : "";
      const moved = record === first ? "" : change(now, before);
      since.textContent = moved && (Number(moved.slice(1)) ? `${moved} since epoch ${first.epoch}` : `as in epoch ${first.epoch}`);
    } };
  });
  byId("tiles").replaceChildren(...tiles.map(({ part }) => part));
  return (record) => tiles.forEach(({ update }) => update(record));
}
// How high the judge ranks each class on its pictures, the mean over its images; without a judge, how often the model is right
function shownValues({ gallery, classes }) {
  const judged = gallery.ranks.some((rank) => rank != null), sums = classes.map(() => [0, 0]);
  gallery.number.forEach((number, index) => {
    sums[number][0] += judged ? gallery.ranks[index] ?? 0 : Number(gallery.shown[index] === classes[number]);
    sums[number][1]++;
  });
  const values = sums.map(([sum, images]) => (images ? sum / images : null));
  return { title: judged ? "judge's rank" : "model right", say: judged ? "the judge ranks it above" : "the model is right on", values };
}
// By that, or where all classes are at their best, by the first of the other values that tells them apart
function worstFirst(record) {
  const { judge_accuracy: judge, accuracy, coverage } = record.per_class;
  const others = [["judge_accuracy", "by judge_accuracy", judge], ["accuracy", "by accuracy", accuracy], ["coverage", "by coverage", coverage]];
  const measures = [shownValues(record), ...others.filter(([, , values]) => values).map(([title, say, values]) => ({ title, say, values }))];
  const telling = measures.find(({ values }) => values.some((value) => value < 1)) ?? measures[0];
  const order = telling.values.map((value, index) => index).sort((left, right) => telling.values[left] - telling.values[right]);
  return { ...telling, order };
}
const percent = (share) => `${share < 1 ? Math.min(99, Math.round(100 * share)) : 100}%`;
function buildPrototypes() {
  const { classes } = records.at(-1);
  const cards = classes.map((name, index) => {
    const kinds = ["prototype", "image", "map"], tiles = kinds.map(() => tile(""));
    const lines = [element("span"), element("span")];
    const open = element("button", { type: "button", className: "card", title: name }, element("span", { className: "name" }, short(name)),
      element("span", { className: "tiles" }, ...tiles), ...lines);
    open.addEventListener("click", () => openGallery(index));
    return { open, update(record) {
      kinds.forEach((kind, place) => {
        paintClass(tiles[place], record, kind, index);
        tiles[place].setAttribute("aria-label", `${kind} of class ${name}, epoch ${record.epoch}`);
      });
      writeLines(lines, answerLines(record.gallery, record.first[index], name));
    } };
  });
  const all = byId("all-classes"), few = cards.length > FIRST_CARDS;
  all.hidden = !few;
  const fill = (everything) => {
    byId("prototypes").replaceChildren(...(everything ? cards : cards.slice(0, FIRST_CARDS)).map(({ open }) => open));
    all.textContent = everything ? `Show ${FIRST_CARDS} only` : `${FIRST_CARDS} of ${cards.length} classes: show all`;
    all.onclick = () => fill(!everything);
  };
  fill(false);
  return (record) => {
    cards.forEach(({ update }) => update(record));
    const { values, order, say } = worstFirst(record), bad = order.filter((index) => values[index] < 1).slice(0, 3);
    const links = bad.flatMap((index, place) => [place ? ", " : "", opener(short(classes[index], 24), index, undefined, { title: classes[index] }), ` ${percent(values[index])}`]);
    byId("worst").replaceChildren(...(bad.length ? [`Worst (${say}): `, ...links, ". "] : ["No class falls behind. "]), "Press a picture for all images of its class, worst first.");
  };
}
function buildClasses() {
  const last = records.at(-1), { order, title: by } = worstFirst(last), { title } = shownValues(last), kinds = [title, ...Object.keys(last.per_class)];
  const rows = order.map((index) => {
    const name = last.classes[index], cells = kinds.map((each) => [each, element("meter", { min: 0, max: 1 }), element("span")]);
    const line = element("tr", {}, row(opener(short(name, 30), index, undefined, { title: name })), element("td", { className: "number" }, String(last.number[index])),
      ...cells.map(([, meter, text]) => element("td", {}, meter, " ", text)));
    return { line, update(record) {
      for (const [each, meter, text] of cells) {
        const value = (each === title ? shownValues(record).values : record.per_class[each])?.[index] ?? null;
        meter.value = value ?? 0;
        meter.setAttribute("aria-label", `${each} of class ${name}`);
        text.textContent = figure(value);
      }
    } };
  });
  byId("classes-order").textContent = `Worst first, by the ${by} in epoch ${last.epoch}. `;
  byId("classes").replaceChildren(head(column("class"), column("images", { className: "number" }), ...kinds.map((each) => column(each))),
    element("tbody", {}, ...rows.map(({ line }) => line)));
  return (record) => rows.forEach(({ update }) => update(record));
}

// --- confusion ---------------------------------------------------------------------------------------------------

function takenFor(who, answers, place) {
  const answer = answers[place], classes = answers.length - 2;
  if (place === classes) return { who, answer: "another class", fits: (given, names) => given !== null && !names.includes(given) };
  if (place > classes) return { who, answer: "nothing", fits: (given) => given === null };
  return { who, answer, fits: (given) => given === answer };
}
function buildConfusion() {
  const last = records.at(-1), answers = [...last.classes, "other", "none"], wide = last.classes.length > WIDE_FROM;
  const parts = Object.keys(last.confusion).map((who) => {
    const top = element("ol", { className: "top" });
    const cells = last.classes.map(() => answers.map(() => element("td")));
    const table = element("table", { className: wide ? "rotated" : "" }, head(column("class"), ...answers.map((name) => column(short(name, 24), { title: name }))),
      element("tbody", {}, ...last.classes.map((name, index) => element("tr", {}, element("th", { scope: "row", title: name }, element("span", {}, short(name, 24))), ...cells[index]))));
    const region = element("div", { className: "wide", role: "region", tabIndex: 0, "aria-label": `Confusion, the ${who}` }, table);
    const part = element("div", {}, element("h3", {}, `The ${who} takes the prototypes for`), top,
      wide ? element("details", {}, element("summary", {}, `The whole table, ${last.classes.length} classes`), region) : region);
    return { part, update(record) {
      const wrong = [];
      record.confusion[who]?.forEach((counts, index) => {
        const sum = Math.max(1, counts.reduce((total, count) => total + count, 0));
        counts.forEach((count, answer) => {
          const cell = cells[index][answer], fill = answer === index ? "--good-fill" : "--bad-fill", taken = takenFor(who, answers, answer);
          const text = `${count} of ${sum}: ${last.classes[index]} taken for ${taken.answer}`;
          cell.replaceChildren(...(count ? [opener(String(count), index, taken, { title: text, "aria-label": text })] : []));
          cell.style.background = count ? `color-mix(in srgb, var(${fill}) ${Math.round(45 * count / sum)}%, var(--paper))` : "";
          if (count && answer !== index) wrong.push({ count, sum, index, taken });
        });
      });
      wrong.sort((left, right) => right.count - left.count || right.count / right.sum - left.count / left.sum);
      const most = wrong.slice(0, 10).map(({ count, sum, index, taken }) =>
        element("li", {}, opener(`${short(last.classes[index], 40)} for ${short(taken.answer, 40)}`, index, taken), ` ${count} of ${sum}`));
      top.replaceChildren(...(most.length ? most : [element("li", { className: "quiet" }, "none: all as their label")]));
      top.setAttribute("aria-label", wrong.length > 10 ? `Top 10 of ${wrong.length} confusions` : "Confusions");
    } };
  });
  byId("confusion-scope").textContent = `${last.settings_of.fill ? "Prototypes are made by one gradient. They are not the fills above, whose answers stand below them. " : ""}Press a number for its images.`;
  byId("confusion").replaceChildren(...parts.map(({ part }) => part));
  return (record) => parts.forEach(({ update }) => update(record));
}

// --- settings, prototypes over training --------------------------------------------------------------------------

function buildSettings() {
  return (record) => {
    const lines = Object.entries(record.settings_of).map(([name, value]) =>
      element("tr", {}, row(name), element("td", {}, typeof value === "string" ? value : JSON.stringify(value))));
    byId("settings").replaceChildren(element("tbody", {}, ...lines));
  };
}
const MOST_COLUMNS = 12;
function buildTimeline() {
  const start = records.find(({ before }) => before !== null);
  byId("timeline-part").hidden = records.length === 1 && !start;
  const spacing = Math.ceil(records.length / MOST_COLUMNS);
  const shown = records.filter((record, index) => index % spacing === 0 || index === records.length - 1)
    .map((record) => ({ title: String(record.epoch), when: `epoch ${record.epoch}`, strip: record.pictures.prototype }));
  if (start) shown.unshift({ title: "before training", when: "before training", strip: start.before });
  const { classes } = records.at(-1);
  byId("timeline").replaceChildren(head(element("td", {}, "epoch"), ...shown.map(({ title }) => column(title))),
    element("tbody", {}, ...classes.map((name, index) => element("tr", {}, row(opener(short(name, 30), index, undefined, { title: name })), ...shown.map(({ when, strip }) => {
      const canvas = tile(`prototype of class ${name}, ${when}`);
      paint(canvas, strip, { index, columns: classes.length });
      return element("td", {}, canvas);
    })))));
}
