// The matrix: rows, columns and tables of their own for the settings that are neither.
const state = { rows: "", columns: "", colour: "", order: "", size: 100, pins: [], open: [], mode: "side", theme: "", within: "" };
const cells = new Map();  // the views of the matrix by their run's number
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) see(Number(target.dataset.run), target, isIntersecting);
}, { rootMargin: "120px" });

/** Choose axes that show a sweep at a glance: prompts below each other, the setting with most levels across. */
function chooseAxes() {
  const swept = factors.filter((factor) => !factor.isRepeat);
  const prompt = factorOf("prompt") || factorOf("prompt_text");
  const others = swept.filter((factor) => factor !== prompt);
  others.sort((a, b) => (b.isNumeric - a.isNumeric) || (b.levels.length - a.levels.length));
  const columns = others[0] || (prompt ? null : factorOf("repeat"));
  const rows = prompt || others[1] || null;
  state.columns = columns ? columns.key : "";
  state.rows = rows ? rows.key : "";
}

/** Put runs together by their level of a setting: level -> runs, in the order of the levels. */
function grouped(list, factor) {
  const found = new Map();
  for (const run of list) {
    const level = levelOf(run, factor);
    if (!found.has(level)) found.set(level, []);
    found.get(level).push(run);
  }
  return new Map([...found].sort(([a], [b]) => a - b));
}

/** Return levels best first by the colour's metric, or as they are. */
function ordered(groups, isByColour) {
  const quantity = quantityOf(state.colour);
  if (!isByColour || !quantity) return [...groups.keys()];
  const merit = (list) => {
    const values = list.map((run) => valueOf(run, quantity)).filter((value) => value !== null);
    return values.length ? meritOf(quantity, mean(values)) : -1;
  };
  return [...groups].sort(([, a], [, b]) => merit(b) - merit(a)).map(([level]) => level);
}

function drawMatrix() {
  seen.disconnect();
  for (const { view } of cells.values()) if (view) view.drop();
  cells.clear();
  const rows = factorOf(state.rows), columns = factorOf(state.columns);
  const facets = factors.filter((factor) => factor !== rows && factor !== columns && !factor.isRepeat);
  const parts = new Map();
  for (const run of runs) {
    const key = facets.map((factor) => levelOf(run, factor)).join(",");
    if (!parts.has(key)) parts.set(key, []);
    parts.get(key).push(run);
  }
  const sorted = [...parts.values()].sort((a, b) => compare(facets.map((f) => levelOf(a[0], f)), facets.map((f) => levelOf(b[0], f))));
  const heads = ordered(grouped(runs, columns), state.order === "columns" || state.order === "both");
  $("matrix").replaceChildren();
  const boxes = sorted.map((list) => tableOf(list, rows, columns, heads, facets));
  // What the page does not hold yet is not laid out at every change.
  fit(boxes);
  tintAll(boxes);
  $("matrix").append(...boxes);
  $("empty").hidden = runs.length > 0;
  for (const rep of document.querySelectorAll(".rep[data-run]")) seen.observe(rep);
}

function compare(a, b) {
  const index = a.findIndex((value, place) => value !== b[place]);
  return index < 0 ? 0 : a[index] - b[index];
}

function tableOf(list, rows, columns, heads, facets) {
  const there = grouped(list, columns), byRow = grouped(list, rows);
  const across = heads.filter((level) => there.has(level));
  const title = facets.map((factor) => `${factor.key} ${labelOf(factor, levelOf(list[0], factor))}`).join(" · ");
  const table = el("table", { className: "matrix" });
  if (title) table.append(el("caption", {}, title));
  if (columns) {
    table.append(el("thead", {}, el("tr", {}, ...across.map((level) => el("th", { scope: "col" },
      el("span", { className: "key" }, `${columns.key} `), labelOf(columns, level))))));
  }
  for (const level of ordered(byRow, state.order === "rows" || state.order === "both")) {
    const inRow = byRow.get(level), byColumn = grouped(inRow, columns);
    const body = el("tbody", {});
    if (rows) body.append(el("tr", { className: "head" }, rowHead(rows, level, across.length)));
    body.append(el("tr", {}, ...across.map((column) => cellOf(byColumn.get(column) || []))));
    table.append(body);
  }
  return el("div", { className: "scroll" }, table);
}

function rowHead(factor, level, width) {
  const label = labelOf(factor, level);
  const text = factor.key === "prompt" ? texts[data.prompts[label]] : undefined;
  return el("th", { scope: "rowgroup", colSpan: width },
    el("div", { className: "band" },
      factor.key === "prompt" ? null : el("span", { className: "key" }, `${factor.key} `),
      el("b", {}, label),
      text && text !== label ? el("span", { className: "text", title: text }, ` ${text}`) : null));
}

function cellOf(list) {
  const cell = el("td", {});
  if (!list.length) return cell;
  const sorted = [...list].sort((a, b) => a.sample - b.sample);
  const stack = el("div", { className: "stack" }, ...sorted.map(repOf));
  stack.style.setProperty("--across", acrossIn(sorted));
  const inner = el("div", { className: "cell" }, stack, el("div", { className: "value" }));
  cell.append(inner);
  inner.runs = sorted;
  return cell;
}

/** Return how many repeats stand side by side in a cell. */
function acrossIn(list) {
  const isUpright = list.some((run) => run.size && run.size[1] > run.size[0]);
  return list.length <= (isUpright ? 5 : 3) ? list.length : Math.ceil(Math.sqrt(list.length * (isUpright ? 3 : 1)));
}

function repOf(run) {
  const words = { failed: "failed", coming: "on its way", finished: "no video" };
  if (run.status === "failed" || !run.size) {
    return el("div", { className: `rep gone ${run.status}`, title: run.why || run.flaws, tabIndex: 0, role: "group", "aria-label": `${run.name}: ${words[run.status]}` },
      el("b", {}, words[run.status]), el("p", {}, run.why || run.flaws));
  }
  const button = el("button", { type: "button", className: "open", "aria-label": `Enlarge ${run.name}` }, pictureOf(run));
  const pin = el("button", { type: "button", className: "pin", "aria-label": `Pin ${run.name}`, "aria-pressed": state.pins.includes(run.number), title: "Pin (p)" }, "⊕");
  const rep = el("div", { className: "rep", "data-run": run.number }, button, pin);
  if (samples.length > 1 && state.rows !== "repeat" && state.columns !== "repeat") rep.append(el("span", { className: "sample" }, `#${run.sample}`));
  if (run.broken) rep.append(el("p", { className: "broken", title: run.broken }, el("b", {}, "✕ not as expected"), ` ${run.broken}`));
  if (run.status === "coming") rep.append(el("p", { className: "broken coming", title: run.why }, el("b", {}, words.coming), ` ${run.why}`));
  rep.style.setProperty("--ratio", run.size[0] / run.size[1]);
  return rep;
}

/** Return what a run is seen in, empty until somebody looks. */
function pictureOf(run) {
  const frame = el("span", { className: "picture" });
  frame.style.setProperty("--ratio", run.size[0] / run.size[1]);
  return frame;
}

/** Put the canvas of a run's clip where it is shown, and below it, once it is read, its filmstrip: in a line on the screen, in two on paper. */
function fill(run, picture) {
  if (run.clip && !picture.querySelector("canvas")) picture.append(el("canvas", { role: "img", "aria-label": run.name }));
  if (picture.querySelector(".film") || !$(`film-${run.number}`)) return;
  run.film ||= URL.createObjectURL(new Blob([bytesOf(`film-${run.number}`)], { type: "image/webp" }));
  picture.prepend(el("span", { className: "film" }, ...["first", "second"].map((className) => el("img", { alt: "", decoding: "async", className, src: run.film }))));
}

function see(number, rep, isVisible) {
  const run = runs[number];
  if (!cells.has(number) && isVisible) {
    fill(run, rep.querySelector(".picture"));
    const canvas = rep.querySelector("canvas");
    cells.set(number, { rep, view: canvas ? viewOf(canvas, run) : null, isVisible });
  }
  const cell = cells.get(number);
  if (!cell) return;
  cell.isVisible = isVisible;
  if (cell.view) cell.view.see(isVisible);
}

// A filmstrip shows the picture of the time: FILM pictures are in it.
const FILM = 6;
hears.add((time) => {
  for (const [number, cell] of cells) {
    if (!cell.isVisible || (cell.view && cell.rep.querySelector(".drawn"))) continue;
    const picture = clamp(Math.round((time / runs[number].seconds) * (FILM - 1)), 0, FILM - 1);
    cell.rep.querySelector("img")?.style.setProperty("--picture", picture);
  }
});

/** Colour all cells, by where they lie among all runs, or among those of their row. */
function tintAll(boxes = [...$("matrix").children]) {
  const quantity = quantityOf(state.colour);
  for (const body of boxes.flatMap((box) => [...box.querySelectorAll("tbody")])) {
    const inRow = [...body.querySelectorAll(".cell")];
    const means = inRow.map((cell) => cell.runs.map((run) => valueOf(run, quantity)).filter((value) => value !== null)).filter((values) => values.length).map(mean);
    const scale = quantity && state.within === "row" ? { ...quantity, low: Math.min(...means), high: Math.max(...means) } : quantity;
    for (const cell of inRow) tint(cell, scale);
  }
  drawLegend();
}

/** Colour a cell by its metric, and write its number below. */
function tint(cell, quantity) {
  const finished = cell.runs.filter((run) => run.status === "finished");
  const values = cell.runs.map((run) => valueOf(run, quantity)).filter((value) => value !== null);
  const line = cell.querySelector(".value");
  const repeats = cell.runs.length > 1 ? `n = ${values.length}${finished.length < cell.runs.length ? ` of ${cell.runs.length}` : ""}` : "";
  cell.style.removeProperty("--merit");
  cell.classList.remove("tinted", "even");
  if (!quantity || !values.length) { line.replaceChildren(el("span", {}, repeats)); return; }
  const average = mean(values);
  cell.style.setProperty("--merit", meritOf(quantity, average));
  cell.classList.add("tinted");
  cell.classList.toggle("even", quantity.direction === "neither");
  const spread = values.length > 1 ? ` ± ${shown(Math.sqrt(values.reduce((sum, one) => sum + (one - average) ** 2, 0) / (values.length - 1)))}` : "";
  line.replaceChildren(el("b", {}, shown(average)), el("span", { title: "standard deviation of the repeats" }, spread), el("span", { className: "n" }, repeats));
}

function drawLegend() {
  const quantity = quantityOf(state.colour), legend = $("legend");
  if (!quantity || !quantity.isKnown) { legend.replaceChildren(); return; }
  const isEven = quantity.direction === "neither", isLower = quantity.direction === "lower";
  const ends = state.within === "row" ? ["the row's least", "the row's most"] : [shown(quantity.low), shown(quantity.high)];
  const [low, high] = isLower ? [...ends].reverse() : ends;
  legend.replaceChildren(
    el("span", { className: "what" }, `${quantity.name}${quantity.meaning ? `: ${quantity.meaning}` : ""}${quantity.unit ? `, ${quantity.unit}` : ""}`),
    el("span", { className: "scale" }, isEven ? `${low} ` : `worse ${low} `, el("i", { className: isEven ? "ramp even" : "ramp" }), isEven ? ` ${high}` : ` ${high} better`));
}

/** Make columns as wide as all of them fit, within reason; what is wider scrolls in a box of its own. */
function fit(boxes = [...$("matrix").children]) {
  const room = $("matrix").clientWidth, gap = 8;
  for (const box of boxes) {
    const across = Math.max(1, ...[...box.querySelectorAll("tbody tr")].map((row) => row.cells.length));
    const even = (room - gap * (across - 1)) / across;
    const inside = Math.max(...[...box.querySelectorAll(".cell")].map((cell) => acrossIn(cell.runs)), 1);
    const width = clamp(Math.floor(even), room < 600 ? 148 : 112, Math.max(360, 260 * inside)) * (state.size / 100);
    box.style.setProperty("--w", `${Math.floor(Math.min(width, room))}px`);
    box.classList.toggle("wider", across * (Math.min(width, room) + gap) - gap > room + 1);
  }
}

// The curve of the colour's metric, over the video that is looked at.
let hovered = null;
function hover(rep) {
  if (hovered && hovered.rep === rep) return;
  if (hovered) { hovered.curve.remove(); hovered = null; }
  const run = rep && runs[Number(rep.dataset.run)], quantity = quantityOf(state.colour);
  const series = run && seriesOf(run, quantity);
  if (!series) return;
  const curve = curveOf(series, run, quantity);
  rep.querySelector(".open").append(curve);
  hovered = { rep, curve };
}

/** Return a curve over a run's frames with a mark at the clock's time. */
function curveOf(series, run, quantity, height = 40) {
  const mark = el("line", { class: "mark", y1: 0, y2: height });
  const curve = el("svg", { class: "curve", viewBox: `0 0 100 ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    el("path", { d: pathOf(series, 100, height - 4), transform: "translate(0 2)" }), mark);
  const label = el("span", { className: "label" });
  const box = el("span", { className: "curved" }, curve, label);
  const [low, high] = quantity.range;
  const move = (time) => {
    if (!box.isConnected && box.wasShown) { hears.delete(move); return; }
    box.wasShown ||= box.isConnected;
    const share = clamp(time / run.seconds, 0, 1), value = nearest(series, Math.round(share * (series.length - 1)));
    mark.setAttribute("x1", share * 100);
    mark.setAttribute("x2", share * 100);
    label.textContent = `${quantity.name} ${value === null ? "–" : shown(Number((low + value * (high - low)).toPrecision(3)))}`;
  };
  hears.add(move);
  move(clock.time);
  return box;
}
