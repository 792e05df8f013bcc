"use strict";
// Sends each picture to /v1/predict and shows what comes back. Text is only ever set as text, never as HTML.
const byId = (id) => document.getElementById(id);
const authorised = () => {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
};

async function state() {
  const found = await (await fetch("/health")).json();
  byId("categories").textContent = found.categories.length ? "· " + found.categories.join(", ") : "";
  byId("promise").textContent = found.promise;
}

async function judge(file) {
  const form = new FormData();
  form.append("file", file);
  const answer = await fetch("/v1/predict?heatmap=true", { method: "POST", body: form, headers: authorised() });
  const found = await answer.json();
  if (answer.status === 401) byId("access").hidden = false;
  if (!answer.ok) throw new Error(found.error || `refused with status ${answer.status}`);
  return found;
}

function card(name) {
  const made = byId("card").content.cloneNode(true).firstElementChild;
  made.querySelector("h2").textContent = name;
  byId("results").prepend(made);
  return made;
}

function fill(made, found) {
  made.classList.add(found.label);
  made.querySelector("img").src = found.heatmap;
  made.querySelector("img").alt = "heat map of the picture";
  made.querySelector(".verdict").textContent = found.label;
  const limit = found.threshold;
  const known = limit === null ? "no threshold" : `threshold ${limit.toPrecision(4)}`;
  made.querySelector(".numbers").textContent =
    `score ${found.score.toPrecision(4)}, ${known}, ${found.width} × ${found.height} pixels`;
  if (limit !== null && limit > 0) {
    const end = Math.max(2 * limit, found.score * 1.05);
    made.querySelector(".bar").style.width = `${Math.max(0, (100 * found.score) / end)}%`;
    made.querySelector(".mark").style.left = `${(100 * limit) / end}%`;
  }
  const count = found.regions?.length;
  const marked = count ? `${count} marked region${count > 1 ? "s" : ""}` : "no marked region";
  made.querySelector(".regions").textContent = found.regions ? marked : "regions unknown";
}

async function all(files) {
  let done = 0;
  for (const file of files) {
    byId("status").textContent = `${++done} of ${files.length}: ${file.name}`;
    try {
      const found = await judge(file);
      fill(card(file.name), found);
    } catch (error) {
      const made = card(file.name);
      made.classList.add("failed");
      made.querySelector(".verdict").textContent = error.message;
    }
  }
  byId("status").textContent = "";
}

const drop = byId("drop");
byId("files").addEventListener("change", (event) => {
  all([...event.target.files]).then(() => { event.target.value = ""; });
});
drop.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); byId("files").click(); }
});
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
drop.addEventListener("drop", (event) => all([...event.dataTransfer.files]));
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  byId("access").hidden = true;
  byId("token").value = "";
});
state();
