// The bar below the videos, and its keys.
const changes = new Set();  // what is called when a person has stopped, started or moved the clock

function toggle() {
  if (clock.isPlaying) pause(); else play();
  tell();
}

function move(frames) {
  step(frames);
  tell();
}

function tell() { for (const change of changes) change(); }

function faster(direction) {
  const rates = [...$("speed").options].map((option) => Number(option.value));
  const place = clamp(rates.indexOf(clock.rate) + direction, 0, rates.length - 1);
  $("speed").value = rates[place];
  hurry(rates[place]);
}

const KEYS = { " ": toggle, k: toggle, ",": () => move(-1), ".": () => move(1), "<": () => faster(-1), ">": () => faster(1) };
const isForBar = (key, target) => key in KEYS && !(key === " " && target.matches("button:not(.open), summary"));
const act = (key) => KEYS[key]();

$("play").addEventListener("click", toggle);
$("back").addEventListener("click", () => move(-1));
$("on").addEventListener("click", () => move(1));
$("speed").addEventListener("change", () => hurry(Number($("speed").value)));
$("scrub").addEventListener("input", () => { seek(Number($("scrub").value)); });
$("scrub").addEventListener("change", tell);

hears.add((time) => {
  if (Number($("scrub").max) !== clock.longest) $("scrub").max = clock.longest;
  if (document.activeElement !== $("scrub") || clock.isPlaying) $("scrub").value = time;
  const text = `${time.toFixed(2)} / ${clock.longest.toFixed(2)} s`;
  if ($("time").textContent !== text) $("time").textContent = text;
  const [sign, label] = clock.isPlaying ? ["❚❚", "Pause"] : ["▶", "Play"];
  if ($("play").textContent !== sign) { $("play").textContent = sign; $("play").setAttribute("aria-label", label); $("play").title = `${label} (space)`; }
});
