// Moving through the epochs of one series.
let series, records, at, playing, updates = [];

function show(index) {
  at = Math.max(0, Math.min(records.length - 1, index));
  const record = records[at];
  byId("epoch").value = at;
  byId("epoch").setAttribute("aria-valuetext", `epoch ${record.epoch}`);
  byId("shown").textContent = `epoch ${record.epoch} (${at + 1} of ${records.length})`;
  for (const update of updates) update(record, at);
  pointAll(at);
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
  byId("epochs").hidden = records.length === 1;
  document.body.classList.toggle("one-probe", records.length === 1);
  charts.clear();
  updates = [buildVerdict, buildTiles, buildMainChart, buildPrototypes, buildScores, buildClasses, buildConfusion, buildSettings].map((build) => build());
  buildTimeline();
  show(records.length - 1);
}
function openTarget(hash) {
  const target = hash && document.getElementById(hash.slice(1));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}

for (const each of data.series) for (const record of each.records) record.settings_of = data.settings[record.settings];
byId("epoch").addEventListener("input", (event) => { stop(); show(Number(event.target.value)); });
byId("back").addEventListener("click", () => { stop(); show(at - 1); });
byId("next").addEventListener("click", () => { stop(); show(at + 1); });
byId("play").addEventListener("click", play);
byId("theme").addEventListener("change", (event) => { document.documentElement.dataset.theme = event.target.value; });
byId("gallery-close").addEventListener("click", () => byId("gallery").close());
byId("gallery").addEventListener("click", (event) => { if (event.target === byId("gallery")) byId("gallery").close(); });
byId("series").append(...data.series.map(({ name }, number) => element("option", { value: number }, name)));
byId("series-label").hidden = data.series.length === 1;
byId("series").addEventListener("change", (event) => choose(Number(event.target.value)));
addEventListener("hashchange", () => openTarget(location.hash));
// In a sandbox, as in MLflow's preview, the address cannot change
addEventListener("click", ({ target }) => openTarget(target.closest("a[href^='#']")?.getAttribute("href")));
choose(0);
buildComparison();
openTarget(location.hash);
