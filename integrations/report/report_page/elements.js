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
// Long names often differ at their end
const short = (name, most = 18) => name.length <= most ? name : `${name.slice(0, Math.floor(most / 2) - 1).trimEnd()}…${name.slice(1 - Math.ceil(most / 2)).trimStart()}`;
const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;

const head = (...cells) => element("thead", {}, element("tr", {}, ...cells));
const column = (text, options = {}) => element("th", { scope: "col", title: text, ...options }, element("span", {}, text));
const row = (...content) => element("th", { scope: "row" }, ...content);
