"use strict";
// Small helpers: elements, numbers as text, tables.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

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

// Two digits, and more where two would say 0 or 1 of something that is neither.
function figure(value, name = "") {
  if (value == null) return "none";
  if (name === "seconds") return `${value.toPrecision(3)} s`;
  const rounded = value.toFixed(2);
  if (Number(rounded) === value || !["0.00", "-0.00", "1.00"].includes(rounded)) return rounded === "-0.00" ? "0.00" : rounded;
  return Math.abs(value) < 0.5 ? value.toPrecision(1) : value > 1 ? value.toFixed(4) : value.toFixed(Math.min(5, -Math.floor(Math.log10(1 - value))));
}
const interval = (pair) => pair?.every((end) => end !== null) ? `${figure(pair[0])} to ${figure(pair[1])}` : "";
// Of the figures that are shown, so that they add up
function change(now, before) {
  if (now == null || before == null) return "";
  const places = Math.max(...[now, before].map((value) => (figure(value).split(".")[1] ?? "").length));
  const difference = Number(figure(now)) - Number(figure(before));
  return `${difference < 0 ? "−" : "+"}${Math.abs(difference).toFixed(places)}`;
}
// Long names lose their middle. Where two would look the same, they show what follows where they differ, or else their number
const middleCut = (name, most) => name.length <= most ? name : `${name.slice(0, Math.floor(most / 2) - 1).trimEnd()}…${name.slice(1 - Math.ceil(most / 2)).trimStart()}`;
function alikeIn(texts) {
  const groups = new Map();
  for (const [name, text] of texts) groups.set(text, [...(groups.get(text) ?? []), name]);
  return [...groups.values()].filter(({ length }) => length > 1);
}
function toldApart(names, most) {
  const texts = new Map(names.map((name) => [name, middleCut(name, most)]));
  for (const alike of alikeIn(texts)) {
    let same = 0;
    while (alike.every((name) => name[same] === alike[0][same])) same++;
    for (const name of alike) texts.set(name, `${name.slice(0, 4)}…${middleCut(name.slice(same), most - 5)}`);
  }
  for (const alike of alikeIn(texts))
    for (const name of alike) texts.set(name, `${middleCut(name, most - 4)} ${names.indexOf(name)}`);
  return texts;
}
const allClasses = [...new Set(data.series.flatMap(({ records }) => records.flatMap(({ classes }) => classes)))], shortNames = {};
const short = (name, most = 18) => (shortNames[most] ??= toldApart(allClasses, most)).get(name) ?? middleCut(name, most);
const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;

const head = (...cells) => element("thead", {}, element("tr", {}, ...cells));
const column = (text, options = {}) => element("th", { scope: "col", title: text, ...options }, element("span", {}, text));
const row = (...content) => element("th", { scope: "row" }, ...content);
