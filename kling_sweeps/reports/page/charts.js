// Each metric that the sweep asks about, against a setting.
const WIDTH = 340, HEIGHT = 220, LEFT = 52, RIGHT = 14, TOP = 14, BOTTOM = 36;

function drawCharts() {
  const factor = factorOf(state.setting);
  const asked = quantities.filter((quantity) => quantity.isKnown && (quantity.isGoal || quantity.name === state.colour));
  if (!factor || !asked.length) { $("charts").replaceChildren(el("p", { className: "note" }, "There is no setting that the runs differ in.")); return; }
  $("charts").replaceChildren(...asked.map((quantity) => chartOf(quantity, factor)));
}

function ticksOf(low, high) {
  const raw = (high - low) / 3 || Math.abs(high) || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(Number(tick.toPrecision(6)));
  return found;
}

function chartOf(quantity, factor) {
  const hues = factors.find((one) => one !== factor && !one.isRepeat) || null;
  const there = runs.filter((run) => valueOf(run, quantity) !== null);
  const numbers = factor.levels.map(Number), isNumeric = factor.isNumeric && numbers.every(Number.isFinite) && numbers.length > 1;
  const [first, end] = isNumeric ? [Math.min(...numbers), Math.max(...numbers)] : [0, factor.levels.length - 1];
  const inner = WIDTH - LEFT - RIGHT, pad = 22;
  const xOf = (level) => LEFT + pad + ((isNumeric ? numbers[level] : level) - first) / ((end - first) || 1) * (inner - 2 * pad) + (end === first ? (inner - 2 * pad) / 2 : 0);
  const reach = data.means.filter((one) => one.metric === quantity.name && one.factor === factor.key && one.low !== null);
  const span = quantity.high - quantity.low || Math.abs(quantity.high) || 1;
  // An interval may be many times as wide as the values; it is cut at as much again.
  const low = Math.max(Math.min(quantity.low, ...reach.map((one) => one.low)), quantity.low - span / 2) - span * 0.06;
  const high = Math.min(Math.max(quantity.high, ...reach.map((one) => one.high)), quantity.high + span / 2) + span * 0.06;
  const yOf = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const tick of ticksOf(low, high)) {
    parts.push(el("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: yOf(tick), y2: yOf(tick) }),
      el("text", { class: "tick", x: LEFT - 6, y: yOf(tick) + 4, "text-anchor": "end" }, shown(tick)));
  }
  const room = Math.max(4, Math.floor((inner / factor.levels.length) / 6.2));
  factor.levels.forEach((level, index) => parts.push(
    el("text", { class: "tick", x: xOf(index), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, level.length > room ? `${level.slice(0, room - 1)}…` : level || "none")));
  parts.push(el("text", { class: "axis", x: LEFT + inner / 2, y: HEIGHT - 4, "text-anchor": "middle" }, factor.key));
  for (const [hue, list] of grouped(there, hues)) {
    const points = [...grouped(list, factor)].map(([level, some]) => `${xOf(level).toFixed(1)} ${yOf(mean(some.map((run) => valueOf(run, quantity)))).toFixed(1)}`);
    parts.push(el("path", { class: `line hue-${hue % 8}`, d: `M${points.join("L")}` }));
    for (const run of list) {
      parts.push(el("circle", { class: `dot hue-${hue % 8}`, "data-run": run.number, cx: xOf(levelOf(run, factor)), cy: yOf(valueOf(run, quantity)), r: there.length > 200 ? 2 : 3.5 },
        el("title", {}, `${run.name}: ${shown(valueOf(run, quantity))}`)));
    }
  }
  for (const [level, list] of grouped(there, factor)) {
    const known = data.means.find((one) => one.metric === quantity.name && one.factor === factor.key && one.level === level);
    const middle = known && known.mean !== null ? known.mean : mean(list.map((run) => valueOf(run, quantity)));
    if (known && known.low !== null) parts.push(el("line", { class: "interval", x1: xOf(level), x2: xOf(level), y1: yOf(clamp(known.low, low, high)), y2: yOf(clamp(known.high, low, high)) }));
    parts.push(el("circle", { class: "mean", cx: xOf(level), cy: yOf(middle), r: 5.5 }, el("title", {}, `${factor.key} ${labelOf(factor, level)}: ${shown(middle)} on average, n = ${list.length}`)));
  }
  const words = [...grouped(there, factor)].map(([level, list]) => `${labelOf(factor, level)}: ${shown(mean(list.map((run) => valueOf(run, quantity))))}`).join(", ");
  const better = { higher: "higher is better", lower: "lower is better", neither: "" }[quantity.direction];
  const svg = el("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${quantity.name} by ${factor.key}, means: ${words}` }, ...parts);
  svg.addEventListener("click", (event) => { if (event.target.dataset.run) open([Number(event.target.dataset.run)]); });
  const names = hues ? [...grouped(there, hues).keys()].slice(0, 8).map((hue) => el("li", { className: `hue-${hue % 8}` }, labelOf(hues, hue))) : [];
  return el("figure", { className: "chart" }, el("figcaption", {}, el("b", {}, quantity.name), ` ${[quantity.unit, better].filter(Boolean).join(", ")}`), svg, el("ul", {}, ...names));
}
