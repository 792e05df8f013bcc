"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });
const show = (value) => {
  if (value === null) return "NaN";
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e3 ? value.toPrecision(4) : short.format(value);
};
const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a page from a file may have no storage */ } };
const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
document.documentElement.classList.add("js");

/* Theme: the system's choice until the reader makes one. */
{
  const root = document.documentElement;
  const chosen = recall("bikd-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  $("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember("bikd-theme", root.dataset.theme);
  });
}

/* The slider over a picture: 0 picture, 0.4 to 0.75 heat map, 1 ground truth; layers fade in between. */
const viewName = (view) => (view < 20 ? "picture" : view < 55 ? "heat map" : view < 90 ? "heat map and ground truth" : "ground truth");
function setView(holder, input, value) {
  input.value = value;
  input.setAttribute("aria-valuetext", viewName(Number(value)));
  holder.style.setProperty("--view", value / 100);
}
const cards = $$("#gallery .card");
for (const card of cards) {
  const input = $("input.view", card);
  setView(card, input, input.value);
  input.addEventListener("input", () => setView(card, input, input.value));
}
const everyView = $("#view");
everyView?.addEventListener("input", () => {
  everyView.setAttribute("aria-valuetext", viewName(Number(everyView.value)));
  for (const card of cards) setView(card, $("input.view", card), everyView.value);
});

/* Gallery: filter, order, pages. */
const compare = {
  "error": (a, b) => b.dataset.error - a.dataset.error,
  "score-down": (a, b) => b.dataset.score - a.dataset.score,
  "score-up": (a, b) => a.dataset.score - b.dataset.score,
  "name": (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }),
};
const PAGE = 24;
let visible = PAGE;
let matching = cards;
const form = $("#filter");
function arrange() {
  const chosen = new FormData(form);
  const wanted = { category: chosen.get("category") || "", kind: chosen.get("kind") || "" };
  const inScope = cards.filter((card) => Object.entries(wanted).every(([key, value]) => !value || card.dataset[key] === value));
  for (const counter of $$("[data-count]", form)) {
    const outcome = counter.dataset.count;
    counter.textContent = inScope.filter((card) => !outcome || card.dataset.outcome === outcome).length;
  }
  const outcome = chosen.get("outcome") || "";
  matching = inScope.filter((card) => !outcome || card.dataset.outcome === outcome).sort(compare[chosen.get("order")]);
  const kept = new Set(matching.slice(0, visible));
  for (const card of cards) card.hidden = !kept.has(card);
  $("#gallery").append(...matching);
  $("#nothing").hidden = matching.length > 0;
  $("#more").hidden = matching.length <= visible;
  $("#tally").textContent = matching.length > visible ? `${visible} of ${matching.length} pictures` : `${matching.length} ${matching.length === 1 ? "picture" : "pictures"}`;
}
if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    visible = PAGE;
    arrange();
  });
  $("#more").addEventListener("click", () => {
    const next = matching[visible];
    visible += PAGE;
    arrange();
    $(".stage", next).focus();
  });
  arrange();
}

/* One picture large. */
const viewer = $("#viewer");
let current = null;
function open(card) {
  current = card;
  const stage = $(".stage", viewer);
  const source = $(".stage", card);
  stage.replaceChildren(...[...source.childNodes].map((node) => node.cloneNode(true)));
  stage.style.aspectRatio = source.style.aspectRatio;
  const [width, height] = source.style.aspectRatio.split("/").map(Number);
  stage.style.width = `min(100%, calc((100vh - 15rem) * ${width / (height || 1)}))`;
  const { row, outcome, kind, category } = card.dataset;
  const group = data.categories[category];
  const verdict = $(".verdict", viewer);
  verdict.className = `verdict ${outcome.replace(" ", "-")}`;
  verdict.textContent = outcome;
  $(".file", viewer).textContent = $(".file", card).title;
  const threshold = group.threshold === null ? "none" : show(group.threshold);
  $(".facts", viewer).textContent = `${group.name} · ${kind} · score ${show(group.rows[row]?.[4] ?? Number(card.dataset.score))} · threshold ${threshold}`;
  const at = matching.indexOf(card);
  $("[data-do=previous]", viewer).disabled = at <= 0;
  $("[data-do=next]", viewer).disabled = at < 0 || at >= matching.length - 1;
  const input = $("input.view", viewer);
  setView(viewer, input, viewer.open ? input.value : $("input.view", card).value);
  if (!viewer.open) viewer.showModal();
}
function move(by) {
  const next = matching[matching.indexOf(current) + by];
  if (!next) return;
  if (next.hidden) { visible += PAGE; arrange(); }
  open(next);
}
for (const card of cards) $(".stage", card).addEventListener("click", () => open(card));
$("input.view", viewer).addEventListener("input", (event) => setView(viewer, event.target, event.target.value));
viewer.addEventListener("click", (event) => {
  const action = event.target.closest("[data-do]")?.dataset.do;
  if (action === "previous") move(-1);
  else if (action === "next") move(1);
  else if (action === "close" || event.target === viewer) viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  if (event.target.matches("input")) return; /* there the arrows move the slider */
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
viewer.addEventListener("close", () => $(".stage", current)?.focus());

/* Tabs: one category at a time. */
const tabs = $("#tabs");
function selectTab() {
  const value = new Map($$("input", tabs).map((input) => [input.checked, input.value])).get(true);
  for (const panel of $$(".panel")) panel.hidden = panel.dataset.category !== value;
}
if (tabs) {
  tabs.addEventListener("change", selectTab);
  selectTab();
}

/* Charts: the nearest point under the pointer. */
for (const chart of $$("svg.chart[data-names]")) {
  const [left, , right, bottom, x0, x1, y0, y1] = chart.dataset.scale.split(" ").map(Number);
  const top = Number(chart.dataset.scale.split(" ")[1]);
  const line = $$("polyline", chart).pop();
  if (!line) continue;
  const points = line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
  const [xName, yName] = chart.dataset.names.split("|");
  const readout = Object.assign(document.createElement("div"), { className: "readout", hidden: true });
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  dot.setAttribute("class", "dot");
  dot.setAttribute("r", 4);
  const leave = () => { readout.hidden = true; dot.remove(); };
  chart.after(readout);
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const scale = box.width / chart.viewBox.baseVal.width;
    const [px, py] = [(event.clientX - box.left) / scale, (event.clientY - box.top) / scale];
    const away = ([x, y]) => (x - px) ** 2 + (yName ? (y - py) ** 2 : 0);
    const near = points.reduce((best, point) => (away(point) < away(best) ? point : best));
    const x = x0 + ((near[0] - left) / (right - left)) * (x1 - x0);
    const y = y0 + ((bottom - near[1]) / (bottom - top)) * (y1 - y0);
    dot.setAttribute("cx", near[0]);
    dot.setAttribute("cy", near[1]);
    chart.append(dot);
    readout.textContent = yName ? `${xName} ${x.toFixed(3)}, ${yName} ${y.toFixed(3)}` : `${xName} ${Math.round(x)}: ${short.format(y)}`;
    readout.hidden = false;
    const half = readout.offsetWidth / 2;
    readout.style.left = `${Math.min(Math.max(chart.offsetLeft + near[0] * scale || near[0] * scale, half), box.width - half)}px`;
    readout.style.top = `${box.top - chart.parentElement.getBoundingClientRect().top + near[1] * scale}px`;
  });
}

/* Another threshold, tried under the histogram. */
for (const input of $$(".trialinput")) {
  const panel = input.closest(".panel");
  const group = data.categories[panel.dataset.category];
  const chart = $("svg.chart", panel);
  if (group.threshold === null) {
    input.hidden = true; /* an infinite threshold has no place on the axis */
    continue;
  }
  const [low, high] = chart.dataset.range.split(" ").map(Number);
  const [left, , right] = chart.dataset.scale.split(" ").map(Number);
  const text = $(".trialtext", panel);
  const trial = $(".trial", chart);
  const say = (threshold, own) => {
    let [missed, alarms, defects, normals] = [0, 0, 0, 0];
    for (const [, , label, , score] of group.rows) {
      if (label) { defects += 1; missed += score === null || score < threshold; }
      else { normals += 1; alarms += score !== null && score >= threshold; }
    }
    const part = group.rows.length < group.count ? `Among the first ${group.rows.length} scores, at` : "At";
    text.textContent = `${part} ${own ? "the recorded threshold" : "a threshold of"} ${show(threshold)}: ${missed} of ${defects} defects missed, ${alarms} of ${normals} good pictures called defective.`;
  };
  input.value = ((group.threshold - low) / (high - low)) * 1000;
  say(group.threshold, true);
  input.addEventListener("input", () => {
    const share = input.value / 1000;
    const x = left + share * (right - left);
    trial.setAttribute("x1", x);
    trial.setAttribute("x2", x);
    trial.classList.add("on");
    say(low + share * (high - low), false);
  });
}

/* All scores: search, sort, pages. */
const body = $("#rows");
if (body) {
  const several = data.categories.length > 1;
  const all = data.categories.flatMap((group, category) => group.rows.map(([path, kind, label, outcome, score, error], row) => ({
    category: group.name, name: path, kind: data.kinds[kind], outcome: data.outcomes[outcome], score, error, number: category, row,
  })));
  const STEP = 100;
  let count = 50;
  let key = "error";
  let falling = true;
  let rows = [];
  const cell = (text, className = "") => Object.assign(document.createElement("td"), { textContent: text, className });
  const rank = (value) => (value === null ? Infinity : value);
  function list() {
    const words = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const sign = falling ? -1 : 1;
    rows = all.filter((row) => words.every((word) => `${row.category} ${row.name} ${row.kind} ${row.outcome}`.toLowerCase().includes(word)));
    const text = (a, b) => a[key].localeCompare(b[key], "en", { numeric: true });
    rows.sort(key === "score" || key === "error" ? (a, b) => sign * (rank(a[key]) - rank(b[key]) || 0) : (a, b) => sign * text(a, b));
    body.replaceChildren(...rows.slice(0, count).map((row) => {
      const line = document.createElement("tr");
      const verdict = document.createElement("span");
      verdict.className = `verdict ${row.outcome.replace(" ", "-")}`;
      verdict.textContent = row.outcome;
      const outcome = cell("");
      outcome.append(verdict);
      const error = row.error === null ? "–" : row.error.toFixed(2).replace("-", "−");
      line.append(...(several ? [cell(row.category)] : []), Object.assign(cell(row.name, "path"), { title: data.prefix + row.name }), cell(row.kind), outcome, cell(show(row.score)), cell(error));
      return line;
    }));
    $("#morerows").hidden = rows.length <= count;
    $("#found").textContent = `${Math.min(count, rows.length)} of ${rows.length} rows${rows.length < all.length ? ` found among ${all.length}` : ""}`;
  }
  for (const button of $$("[data-sort]")) {
    button.addEventListener("click", () => {
      falling = key === button.dataset.sort ? !falling : ["score", "error"].includes(button.dataset.sort);
      key = button.dataset.sort;
      for (const head of $$(".scores th")) head.setAttribute("aria-sort", "none");
      button.closest("th").setAttribute("aria-sort", falling ? "descending" : "ascending");
      list();
    });
  }
  $("#search").addEventListener("input", () => { count = 50; list(); });
  $("#morerows").addEventListener("click", () => { count += STEP; list(); });
  list();
}
