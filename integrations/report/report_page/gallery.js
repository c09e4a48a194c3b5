// Every probe image of a class, worst first, in a dialog that cards, rows and cells open.
const galleryOf = (index) => records.slice(index).find((record) => record.gallery.pictures);

function worst(gallery, index, name) {
  const shown = gallery.shown[index];
  return [shown === null ? 0 : shown === name ? 2 : 1, gallery.answers.judge?.[index] === name ? 1 : 0, gallery.ranks[index] ?? 1];
}
const inOrder = (left, right) => left.map((value, place) => value - right[place]).find((difference) => difference) ?? 0;

// number: index of the class; taken: { who, answer } for those images only whose prototype is taken for that
function openGallery(number, taken) {
  const record = galleryOf(at), { gallery, classes } = record, name = classes[number];
  const chosen = gallery.number.map((each, index) => [each, index]).filter(([each]) => each === number).map(([, index]) => index)
    .filter((index) => !taken || taken.fits(gallery.answers[taken.who][index], classes))
    .sort((left, right) => inOrder(worst(gallery, left, name), worst(gallery, right, name)));
  const left = taken ? `, of which the ${taken.who} takes the prototype for ${taken.answer}` : ", worst first";
  byId("gallery-title").textContent = name;
  byId("gallery-scope").textContent = `${plural(chosen.length, "probe image", "probe images")}${left}; epoch ${record.epoch}` +
    `${record === records[at] ? "" : ", the next whose pictures are kept"}${chosen.length < record.number[number] && !taken ? `; ${chosen.length} of ${record.number[number]} are kept` : ""}`;
  byId("gallery-images").replaceChildren(...chosen.map((index) => galleryFigure(gallery, index, name)));
  for (const [id, step] of [["gallery-back", -1], ["gallery-next", 1]]) {
    byId(id).onclick = () => openGallery((number + step + classes.length) % classes.length);
    byId(id).hidden = Boolean(taken);
  }
  if (!byId("gallery").open) byId("gallery").showModal();
}
function galleryFigure(gallery, index, name) {
  const lines = answerLines(gallery, index, name), kinds = ["prototype", "image", "map"];
  const canvases = kinds.map((kind) => tile(`${kind}, probe image ${index + 1}, class ${name}`));
  canvases.forEach((canvas, place) => paintImage(canvas, gallery, kinds[place], index));
  const button = element("button", { type: "button", className: "enlarge", "aria-expanded": "false", "aria-label": `Enlarge image ${index + 1}: ${lines.map(([sign, text]) => SIGNS[sign] + text).join("; ")}` },
    element("span", { className: "tiles" }, ...canvases));
  const made = element("figure", {}, button, ...lines.map(([sign, text]) => element("p", { className: sign === "none" ? "" : sign }, SIGNS[sign] + text)));
  const byGradient = Object.entries(gallery.answers).map(([who, answers]) => `${who} ${answers[index] ?? "nothing"}`).join(", ");
  made.append(element("p", { className: "quiet" }, `prototype by one gradient: ${byGradient}`));
  button.addEventListener("click", () => {
    const large = made.classList.toggle("large");
    button.setAttribute("aria-expanded", String(large));
    if (large) made.scrollIntoView({ block: "nearest" });
  });
  return made;
}
function opener(text, number, taken, options = {}) {
  const button = element("button", { type: "button", className: "link", ...options }, text);
  button.addEventListener("click", () => openGallery(number, taken));
  return button;
}
