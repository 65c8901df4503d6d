// What the page was given, and how its numbers are read.
const data = JSON.parse($("data").textContent);
const { runs, quantities, texts } = data;
runs.forEach((run, number) => { run.number = number; });

const inWhole = new Intl.NumberFormat("en"), inFour = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** Write a number in four digits, as a person would. */
function shown(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return inWhole.format(value);
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e6 ? inFour.format(value.toPrecision(size < 0.01 ? 3 : 4)) : value.toExponential(2);
}

// The settings that runs differ in; the repeats are one that is stacked in a cell unless it is an axis.
const samples = [...new Set(runs.map((run) => run.sample))].sort((a, b) => a - b);
const factors = [...data.factors];
if (samples.length > 1) {
  factors.push({ key: "repeat", levels: samples.map((one) => `#${one}`), isNumeric: false, isRepeat: true });
  for (const run of runs) run.levels = [...run.levels, samples.indexOf(run.sample)];
}
factors.forEach((factor, index) => { factor.index = index; });
const factorOf = (key) => factors.find((factor) => factor.key === key) || null;
const levelOf = (run, factor) => (factor ? run.levels[factor.index] : 0);
const labelOf = (factor, level) => factor.levels[level] || "none";

quantities.forEach((quantity, index) => {
  const values = runs.map((run) => run.values[index]).filter((value) => value !== null);
  Object.assign(quantity, { index, low: Math.min(...values), high: Math.max(...values), isKnown: values.length > 0 });
});
const quantityOf = (name) => quantities.find((quantity) => quantity.name === name) || null;
const valueOf = (run, quantity) => (quantity ? run.values[quantity.index] : null);

/** Return where a value lies between the least (0) and the most (1) that any run has. */
const shareOf = (quantity, value) => (quantity.high > quantity.low ? (value - quantity.low) / (quantity.high - quantity.low) : 0.5);

/** Return how good a value is, from 0 to 1; of what has no better, how high it is. */
const meritOf = (quantity, value) => (quantity.direction === "lower" ? 1 - shareOf(quantity, value) : shareOf(quantity, value));

/** Return a run's series of a metric, evenly spaced in time: from 0 to 1 of what all runs reach, null where there is none. */
function seriesOf(run, quantity) {
  const track = quantity ? data.tracks.indexOf(quantity.name) : -1;
  if (track < 0 || !run.points) return null;
  run.series ||= bytesOf(`series-${run.number}`);
  const bytes = run.series.subarray(track * run.points, (track + 1) * run.points);
  const found = Array.from(bytes, (byte) => (byte === 255 ? null : byte / 254));
  return found.some((value) => value !== null) ? found : null;
}

/** Return an SVG path of a series in a box. */
function pathOf(series, width, height) {
  let path = "";
  series.forEach((value, index) => {
    if (value === null) return;
    const x = (index / Math.max(1, series.length - 1)) * width, y = (1 - value) * height;
    path += `${path ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  return path;
}

/** Return the value of a series at an index, or the one nearest to it: a metric may be measured on few frames. */
function nearest(series, index) {
  for (let away = 0; away < series.length; away += 1) {
    const found = series[index - away] ?? series[index + away] ?? null;
    if (found !== null) return found;
  }
  return null;
}
