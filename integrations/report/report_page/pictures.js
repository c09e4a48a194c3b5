// Tiles of a sheet of pictures, painted onto canvases.
const sheets = new Map();
function sheet(number) {
  if (!sheets.has(number)) {
    const image = new Image();
    sheets.set(number, image);
    image.src = data.pictures[number];
    image.whenReady = image.decode().catch((error) => console.error(error));
  }
  return sheets.get(number);
}
// The index-th tile of a sheet with so many columns and tiles
function paint(canvas, number, { index, columns, tiles = columns }) {
  const image = sheet(number);
  canvas.wanted = `${number}/${index}`;
  if (!image.complete || !image.naturalWidth) {
    image.whenReady.then(() => canvas.wanted === `${number}/${index}` && image.naturalWidth && paint(canvas, number, { index, columns, tiles }));
    return;
  }
  const width = image.naturalWidth / columns, height = image.naturalHeight / Math.ceil(tiles / columns);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.classList.toggle("small", Math.max(width, height) <= 40);
  }
  canvas.getContext("2d").drawImage(image, (index % columns) * width, Math.floor(index / columns) * height, width, height, 0, 0, width, height);
}
const tile = (label) => element("canvas", { width: 1, height: 1, role: "img", "aria-label": label });
const paintClass = (canvas, record, kind, index) => paint(canvas, record.pictures[kind], { index, columns: record.classes.length });
function paintImage(canvas, gallery, kind, index) {
  paint(canvas, gallery.pictures[kind], { index, columns: gallery.columns, tiles: gallery.number.length });
}

// What is said below a picture: [sign, text, short text] each
function answerLines(gallery, index, name) {
  const shown = gallery.shown[index], rank = gallery.ranks[index], judged = gallery.answers.judge?.[index];
  const lines = [shown === null ? ["none", "no mask kept: no prototype", "no prototype"] : [shown === name ? "right" : "wrong", `the model says ${shown}`, `model: ${shown === name ? "right" : short(shown)}`]];
  if (rank != null) {
    const share = rank < 1 ? Math.min(99, Math.round(100 * rank)) : 100;
    lines.push([rank === 1 ? "right" : "none", `the judge ranks ${name} above ${share}% of the other classes`, `judge: ${share}%`]);
  } else if (judged !== undefined) {
    lines.push([judged === name ? "right" : judged === null ? "none" : "wrong", `the judge says ${judged ?? "nothing"}`, `judge: ${short(judged ?? "nothing")}`]);
  }
  return lines;
}
const SIGNS = { right: "✓ ", wrong: "✗ ", none: "" };
function writeLines(paragraphs, lines) {
  paragraphs.forEach((paragraph, number) => {
    const [sign, text, short] = lines[number] ?? ["none", "", ""];
    paragraph.className = sign === "none" ? "" : sign;
    paragraph.textContent = SIGNS[sign] + short;
    paragraph.title = text;
  });
}
