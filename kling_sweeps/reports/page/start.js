// What is chosen is kept in the address; keys; and what a person's own script may ask of the page.
const LISTS = ["pins", "open"], KEPT_KEYS = ["rows", "columns", "colour", "order", "size", "pins", "open", "mode", "theme", "setting", "within"];
let untouched = {};

function load() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of KEPT_KEYS) {
    if (!given.has(key)) continue;
    const value = given.get(key);
    if (LISTS.includes(key)) state[key] = value.split("-").map(Number).filter((number) => runs[number]);
    else if (key === "size") state.size = clamp(Number(value) || 100, 50, 250);
    else state[key] = value;
  }
  for (const key of ["rows", "columns"]) if (state[key] && !factorOf(state[key])) state[key] = untouched[key];
  if (state.setting && !factorOf(state.setting)) state.setting = untouched.setting;
  if (state.colour && !quantityOf(state.colour)) state.colour = untouched.colour;
  if (given.has("t")) clock.time = clamp(Number(given.get("t")) || 0, 0, clock.longest);
}

function save() {
  const kept = new URLSearchParams();
  for (const key of KEPT_KEYS) {
    const value = LISTS.includes(key) ? state[key].join("-") : String(state[key]);
    const before = LISTS.includes(key) ? (untouched[key] || []).join("-") : String(untouched[key]);
    if (value !== before) kept.set(key, value);
  }
  if (!clock.isPlaying && clock.time) kept.set("t", clock.time.toFixed(3));
  try { history.replaceState(null, "", `#${kept}`); } catch { /* a viewer that keeps no address */ }
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value }, text)));
}

function setView() {
  const axes = [["", "none"], ...factors.map((factor) => [factor.key, factor.key])];
  options($("rows"), axes);
  options($("columns"), axes);
  const known = quantities.filter((quantity) => quantity.isKnown);
  const arrow = { higher: " ↑", lower: " ↓", neither: "" };
  options($("colour"), [["", "none"], ...known.map((quantity) => [quantity.name, quantity.name + arrow[quantity.direction]])]);
  options($("setting"), factors.filter((factor) => !factor.isRepeat).map((factor) => [factor.key, factor.key]));
  $("setting").parentElement.hidden = !$("setting").options.length;
  for (const key of ["rows", "columns", "colour", "order", "size", "setting"]) $(key).value = state[key];
  $("within").checked = state.within === "row";
  document.documentElement.style.colorScheme = state.theme || "light dark";
}

function change(key, value) {
  if ((key === "rows" || key === "columns") && value && value === state[key === "rows" ? "columns" : "rows"]) {
    state[key === "rows" ? "columns" : "rows"] = state[key];
  }
  state[key] = value;
  if (key === "rows" || key === "columns") state.setting = (state.columns && !factorOf(state.columns).isRepeat && state.columns) || state.setting;
  setView();
  if (key === "size") fit();
  else if (key === "within" || (key === "colour" && !state.order)) tintAll();
  else if (key !== "setting" && key !== "theme") drawMatrix();
  if (key !== "size" && key !== "within") drawCharts();
  drawPins();
  save();
}

for (const key of ["rows", "columns", "colour", "order", "setting"]) $(key).addEventListener("change", () => change(key, $(key).value));
$("within").addEventListener("change", () => change("within", $("within").checked ? "row" : ""));
$("size").addEventListener("input", () => change("size", Number($("size").value)));
$("swap").addEventListener("click", () => {
  [state.rows, state.columns] = [state.columns, state.rows];
  change("order", state.order);
});
$("theme").addEventListener("click", () => {
  const isDark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  change("theme", isDark ? "light" : "dark");
});
$("view").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => { fit(); if (theatre.open) stage(); });

span(runs);
changes.add(save);

$("matrix").addEventListener("click", (event) => {
  const rep = event.target.closest(".rep[data-run]");
  if (!rep) return;
  const number = Number(rep.dataset.run);
  if (event.target.closest(".pin")) togglePin(number);
  else if (event.target.closest(".open")) open([number]);
});
for (const event of ["pointerover", "focusin"]) $("matrix").addEventListener(event, ({ target }) => hover(target.closest(".rep[data-run]")));
$("matrix").addEventListener("pointerleave", () => hover(null));

/** Go from a video to the nearest one in a direction. */
function walk(from, across, down) {
  const here = from.getBoundingClientRect();
  const middle = (box) => [box.left + box.width / 2, box.top + box.height / 2];
  const [x, y] = middle(here);
  let best = null, least = Infinity;
  for (const button of document.querySelectorAll("#matrix .open")) {
    const [toX, toY] = middle(button.getBoundingClientRect());
    const along = (toX - x) * across + (toY - y) * down, aside = Math.abs((toX - x) * down) + Math.abs((toY - y) * across);
    if (button !== from && along > 4 && along + 3 * aside < least) [best, least] = [button, along + 3 * aside];
  }
  if (best) { best.focus(); best.scrollIntoView({ block: "nearest", inline: "nearest" }); }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  if (target.matches("select, textarea") || (target.matches("input") && (key.startsWith("Arrow") || target.type === "checkbox"))) return;
  const cell = target.closest(".rep[data-run]");
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  if (isForBar(key, target)) act(key);
  else if (key === "p" && (cell || state.open.length === 1)) togglePin(cell ? Number(cell.dataset.run) : state.open[0]);
  else if (key === "c" && state.pins.length > 1) open(state.pins);
  else if (key === "w" && state.open.length === 2) { state.mode = state.mode === "wipe" ? "side" : "wipe"; setTheatre(); save(); }
  else if (arrows && theatre.open && state.open.length === 1 && arrows[0]) neighbour(arrows[0]);
  else if (arrows && cell) walk(cell.querySelector(".open"), ...arrows);
  else return;
  event.preventDefault();
});

// A button that is pressed by the space bar is so when the bar is let go.
document.addEventListener("keyup", (event) => { if (event.key === " " && isForBar(event.key, event.target)) event.preventDefault(); });

// What a printer gets are the filmstrips.
const fillAll = () => document.querySelectorAll(".rep[data-run]").forEach((rep) => fill(runs[Number(rep.dataset.run)], rep.querySelector(".picture")));
addEventListener("beforeprint", fillAll);

chooseAxes();
state.setting = state.columns || (factors.find((factor) => !factor.isRepeat) || { key: "" }).key;
state.colour = (quantities.find((quantity) => quantity.isGoal && quantity.isKnown) || quantities.find((quantity) => quantity.isKnown) || { name: "" }).name;
state.within = state.rows === "prompt" ? "row" : "";
untouched = { ...state };
load();
setView();
drawMatrix();
drawPins();

async function begin() {
  const looked = new Promise((resolve) => { requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(resolve, 0))); });
  await looked;
  const playable = (source) => new Promise((resolve) => {
    if (source.isReady || source.isBroken) { resolve(); return; }
    for (const event of ["canplay", "error"]) source.video.addEventListener(event, resolve, { once: true });
  });
  await Promise.race([Promise.all(wanted().map(playable)), sleep(20)]);
  const isStill = clock.time > 0 || matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (state.open.length) open(state.open, state.mode);
  requestAnimationFrame(tick);  // before, pictures of the screen would take an eighth of the CPU from reading and decoding
  await (isStill ? seek(clock.time) : play());
  // What nobody sees yet is drawn when the videos play.
  (window.requestIdleCallback || setTimeout)(() => {
    drawCharts();
    if (runs.length <= 300) fillAll();
  });
}

window.report = {
  get clock() { return clock.time; },
  set clock(seconds) { seek(Number(seconds)); },
  get playing() { return clock.isPlaying; },
  play,
  pause,
  arrive,
  ready: begin(),
};
