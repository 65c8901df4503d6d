// What is looked at closely: one video enlarged, several side by side, or two over each other with an edge to wipe.
const theatre = $("theatre");
// In MLflow's viewer the page is a blob of the server's, which has the videos as they came.
const SERVER = location.href.startsWith("blob:http") ? new URL(location.href.slice(5)).origin : null;
let stagedViews = [];

function open(numbers, mode = "side") {
  state.open = numbers.filter((number) => runs[number] && runs[number].size);
  if (!state.open.length) return;
  state.mode = state.open.length > 1 ? mode : "side";
  setTheatre();
  if (!theatre.open) {
    theatre.showModal();
    $("theatre-title").focus();
    theatre.append($("bar"));
    stage();  // whose size is known only now
  }
  save();
}

function close() {
  if (theatre.open) theatre.close();
}

theatre.addEventListener("close", () => {
  document.body.append($("bar"));
  clearStage();
  const [first] = state.open;
  state.open = [];
  save();
  const cell = document.querySelector(`.rep[data-run="${first}"] .open`);
  if (cell) cell.focus();
});

function clearStage() {
  for (const view of stagedViews) view.drop();
  stagedViews = [];
}

function setTheatre() {
  const shownRuns = state.open.map((number) => runs[number]);
  $("theatre-title").textContent = shownRuns.length === 1 ? shownRuns[0].name : `${shownRuns.length} videos`;
  $("modes").replaceChildren(...modes(shownRuns));
  stage();
  $("beside").replaceChildren(...beside(shownRuns));
}

function modes(list) {
  if (list.length === 1) {
    const isPinned = state.pins.includes(list[0].number);
    const button = (text, label, act) => {
      const made = el("button", { type: "button", title: label, "aria-label": label }, text);
      made.addEventListener("click", act);
      return made;
    };
    const pin = button(isPinned ? "unpin" : "pin", isPinned ? "Unpin (p)" : "Pin (p)", () => togglePin(list[0].number));
    pin.setAttribute("aria-pressed", isPinned);
    return [button("←", "The video before (←)", () => neighbour(-1)), button("→", "The next video (→)", () => neighbour(1)), pin];
  }
  if (list.length > 2) return [];
  return [["side", "side by side"], ["wipe", "wipe"]].map(([mode, text]) => {
    const made = el("button", { type: "button", "aria-pressed": state.mode === mode, "data-mode": mode }, text);
    made.addEventListener("click", () => { state.mode = mode; setTheatre(); save(); });
    return made;
  });
}

/** Tell whether two videos lie over each other; more stand side by side. */
const isWiped = () => state.mode === "wipe" && state.open.length === 2;

function stage() {
  clearStage();
  const list = state.open.map((number) => runs[number]);
  const box = $("stage");
  if (isWiped()) box.replaceChildren(wipeOf(...list));
  else box.replaceChildren(...list.map((run) => el("figure", {}, largeOf(run), captionOf(run, list))));
  const across = isWiped() ? 1 : acrossOf(list, box);
  box.style.setProperty("--across", across);
  box.style.setProperty("--down", Math.ceil(list.length / across));
  for (const view of stagedViews) view.see(true);
}

/** Return how many videos side by side make each as large as can be. */
function acrossOf(list, box) {
  const [width, height] = [box.clientWidth || innerWidth, box.clientHeight || innerHeight];
  const ratio = mean(list.map((run) => run.size[0] / run.size[1]));
  const sizeOf = (across) => {
    const down = Math.ceil(list.length / across);
    return Math.min(width / across, (height / down - 50) * ratio);
  };
  return list.map((_, index) => index + 1).sort((a, b) => sizeOf(b) - sizeOf(a))[0];
}

function captionOf(run, list) {
  const told = list.length === 1 ? [] : factors.filter((factor) => new Set(list.map((one) => levelOf(one, factor))).size > 1);
  const hue = list.length > 1 ? `hue-${list.indexOf(run) % 8}` : "";
  return el("figcaption", { className: hue }, told.map((factor) => (factor.key === "prompt" ? labelOf(factor, levelOf(run, factor)) : `${factor.key} ${labelOf(factor, levelOf(run, factor))}`)).join(" · "));
}

/** Return a run as large as there is room: its clip, and over it the original where a server has it. */
function largeOf(run) {
  const picture = pictureOf(run);
  fill(run, picture);
  const canvas = picture.querySelector("canvas");
  if (canvas) stagedViews.push(viewOf(canvas, run));
  if (SERVER && run.run) {
    const whole = el("canvas", { className: "whole", "aria-hidden": "true" });
    picture.append(whole);
    stagedViews.push(new View(whole, run.size, originalOf(run)));
  }
  return picture;
}

const originals = new Map();
function originalOf(run) {
  if (!originals.has(run.number)) {
    const source = new Source(() => `${SERVER}/get-artifact?path=video.mp4&run_uuid=${run.run}`, run.seconds, run.seconds / Math.max(1, run.frames));
    source.isWhole = true;
    source.video.addEventListener("loadedmetadata", () => {
      for (const view of source.views) [view.canvas.width, view.canvas.height] = [source.video.videoWidth, source.video.videoHeight];
    });
    originals.set(run.number, source);
    sources.push(source);
  }
  return originals.get(run.number);
}

function wipeOf(one, other) {
  const edge = el("input", { type: "range", min: 0, max: 100, step: "any", value: 50, className: "edge", "aria-label": `Wipe between ${one.name} and ${other.name}` });
  const above = largeOf(other), frame = el("div", { className: "wiped" }, largeOf(one), above, el("i", { className: "line" }), edge,
    el("span", { className: "name left" }, captionOf(one, [one, other]).textContent), el("span", { className: "name right" }, captionOf(other, [one, other]).textContent));
  above.classList.add("above");
  frame.style.setProperty("--ratio", one.size[0] / one.size[1]);
  const move = () => frame.style.setProperty("--edge", `${edge.value}%`);
  edge.addEventListener("input", move);
  move();
  return frame;
}

/** Return what is told beside the videos: prompts, curves, and each metric of each. */
function beside(list) {
  const parts = [];
  for (const text of new Set(list.map((run) => texts[run.text]))) parts.push(el("blockquote", { tabIndex: 0 }, text));
  const quantity = quantityOf(state.colour);
  if (list.some((run) => seriesOf(run, quantity))) parts.push(curvesOf(list, quantity));
  const differing = factors.filter((factor) => list.length === 1 || new Set(list.map((run) => levelOf(run, factor))).size > 1);
  const rows = differing.map((factor) => el("tr", {}, el("th", { scope: "row" }, factor.key), ...list.map((run) => el("td", {}, labelOf(factor, levelOf(run, factor))))));
  const known = quantities.filter((one) => list.some((run) => valueOf(run, one) !== null));
  known.sort((a, b) => (b.high > b.low) - (a.high > a.low));
  const numbers = known.map((one) => {
    const values = list.map((run) => valueOf(run, one));
    const merits = values.map((value) => (value === null || one.direction === "neither" ? -1 : meritOf(one, value)));
    const best = Math.max(...merits), isTold = list.length > 1 && best >= 0 && new Set(merits).size > 1;
    return el("tr", { className: one.isGoal ? "goal" : "" },
      el("th", { scope: "row", title: `${one.meaning}${one.unit ? `, ${one.unit}` : ""}` }, one.name.replaceAll("_", "_\u200b")),
      ...values.map((value, index) => el("td", { className: isTold && merits[index] === best ? "best" : "" }, shown(value), value === null || one.high === one.low ? null : placeOf(one, value))));
  });
  const heads = list.map((run, index) => el("th", { scope: "col", className: `hue-${index % 8}`, title: run.name, "aria-label": run.name }, list.length === 1 ? "" : String(index + 1)));
  const table = el("table", {}, el("thead", { hidden: list.length === 1 }, el("tr", {}, el("td", {}), ...heads)), el("tbody", {}, ...rows, ...numbers));
  const flaws = list.filter((run) => run.flaws).map((run) => el("p", { className: "note" }, run.flaws));
  const broken = list.filter((run) => run.broken).map((run) => el("p", {}, el("b", { className: "bad" }, "✕ not as expected"), ` ${run.broken}`));
  return [...parts, ...broken, ...flaws, table];
}

/** Return a mark that shows where a value lies among those of all runs. */
function placeOf(quantity, value) {
  const mark = el("i", { className: "place", "aria-hidden": "true" });
  mark.style.setProperty("--share", shareOf(quantity, value));
  return mark;
}

function curvesOf(list, quantity) {
  const height = 90, mark = el("line", { class: "mark", y1: 0, y2: height });
  const longest = Math.max(...list.map((run) => run.seconds));
  const paths = list.map((run, index) => {
    const series = seriesOf(run, quantity);
    return el("path", { class: `hue-${index % 8}`, d: series ? pathOf(series, (300 * run.seconds) / longest, height - 8) : "", transform: "translate(0 4)" });
  });
  const box = el("svg", { class: "curves", viewBox: `0 0 300 ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${quantity.name} over time` }, ...paths, mark);
  box.addEventListener("click", (event) => seek((event.offsetX / box.clientWidth) * longest));
  const move = (time) => {
    if (!box.isConnected && box.wasShown) { hears.delete(move); return; }
    box.wasShown ||= box.isConnected;
    for (const side of ["x1", "x2"]) mark.setAttribute(side, clamp(time / longest, 0, 1) * 300);
  };
  hears.add(move);
  move(clock.time);
  const names = list.length === 1 ? [] : list.map((run, index) => el("li", { className: `hue-${index % 8}` }, captionOf(run, list).textContent || run.name));
  return el("div", { className: "over" }, el("h3", {}, `${quantity.name} over time`), box, el("ul", {}, ...names));
}

function neighbour(direction) {
  const order = [...document.querySelectorAll(".rep[data-run]")].map((rep) => Number(rep.dataset.run));
  const place = order.indexOf(state.open[0]) + direction;
  open([order[(place + order.length) % order.length]]);
}

function togglePin(number) {
  state.pins = state.pins.includes(number) ? state.pins.filter((one) => one !== number) : [...state.pins, number];
  drawPins();
  if (theatre.open && state.open.length === 1) $("modes").replaceChildren(...modes(state.open.map((one) => runs[one])));
  save();
}

function drawPins() {
  for (const rep of document.querySelectorAll(".rep[data-run]")) {
    const isPinned = state.pins.includes(Number(rep.dataset.run));
    rep.classList.toggle("is-pinned", isPinned);
    rep.querySelector(".pin").setAttribute("aria-pressed", isPinned);
  }
  const box = $("pinned");
  if (!state.pins.length) { box.replaceChildren(); return; }
  const compareButton = el("button", { type: "button", id: "compare", className: "strong", disabled: state.pins.length < 2, title: "Compare what is pinned (c)" }, "compare");
  compareButton.addEventListener("click", () => open(state.pins));
  const clear = el("button", { type: "button", id: "unpin" }, "unpin all");
  clear.addEventListener("click", () => { state.pins = []; drawPins(); save(); });
  box.replaceChildren(el("span", {}, `${state.pins.length} pinned`), compareButton, clear);
}

$("close").addEventListener("click", close);
theatre.addEventListener("click", (event) => { if (event.target === theatre) close(); });
