// One pair of videos after another: shown, played in step, and voted on.
// In milliseconds: how long a pair is on the screen before it can be voted on, so that a double-click votes once.
const LOOK = 400;
const SIDES = ["left", "right"];
let rater = "", state = null, isBusy = false, shownPair = null, views = [];
const videos = new Map();  // the addresses of the videos of this pair and the next, by their ids

function say(text) { $("said").textContent = text; }

function addressOf(side) {
  if (!videos.has(side.id)) videos.set(side.id, desk.video(side).then((blob) => URL.createObjectURL(blob)));
  return videos.get(side.id);
}

function forget(kept) {
  for (const [id, address] of videos) {
    if (kept.has(id)) continue;
    videos.delete(id);
    address.then((url) => URL.revokeObjectURL(url), () => {});
  }
}

/** Ask for one thing at a time, and show what is to be voted on then. */
async function follow(asked) {
  if (isBusy) return;
  isBusy = true;
  enable();
  try {
    state = await asked();
    say(state.counted ? "" : "That pair was voted on already, in another window.");
    await show();
  } catch (error) {
    say(error.message);
  }
  isBusy = false;
  enable();
}

function enable() {
  for (const button of document.querySelectorAll("[data-answer]")) button.disabled = isBusy || !shownPair;
  $("replay").disabled = isBusy || !shownPair;
  $("other").disabled = isBusy;
  $("undo").disabled = isBusy || !state || !state.last;
  $("save").disabled = isBusy || !state || !state.last;
}

async function show() {
  const { pair, next, done, left } = state;
  $("who").hidden = true;
  $("far").hidden = $("more").hidden = false;
  $("count").textContent = `${done} of ${done + left}`;
  $("progress").value = done / Math.max(1, done + left);
  $("booth").hidden = $("bar").hidden = !pair;
  $("over").hidden = Boolean(pair);
  if ((pair && pair.id) === shownPair) return;
  shownPair = null;
  clear();
  forget(new Set([pair, next].filter(Boolean).flatMap((one) => SIDES.map((side) => one[side].id))));
  if (!pair) return;
  await stage(pair);
  shownPair = pair.id;
  if (next) for (const side of SIDES) addressOf(next[side]).catch(() => videos.delete(next[side].id));
}

function clear() {
  for (const view of views) {
    view.drop();
    view.source.video.remove();
  }
  views = [];
  sources.length = 0;
  clock.time = 0;
}

async function stage(pair) {
  const addresses = await Promise.all(SIDES.map((side) => addressOf(pair[side])));
  const figures = SIDES.map((side, index) => figureOf(pair[side], index ? ["Right", "Lower"] : ["Left", "Upper"]));
  $("prompt").textContent = pair.prompt;
  $("prompt").hidden = !pair.prompt;
  $("pair").classList.toggle("wide", SIDES.every((side) => pair[side].size[0] > pair[side].size[1]));
  $("pair").replaceChildren(...figures);
  span(SIDES.map((side) => pair[side]));
  views = SIDES.map((side, index) => viewOf(figures[index].querySelector("canvas"), pair[side], addresses[index]));
  for (const view of views) view.see(true);
  await Promise.race([Promise.all(sources.map(playable)), sleep(20)]);
  if (sources.some((source) => source.isBroken)) throw new Error("This browser can't play these videos (H.264): open the page in another one.");
  await (matchMedia("(prefers-reduced-motion: reduce)").matches ? seek(0) : play());
  await sleep(LOOK / 1000);
}

function figureOf(side, [beside, below]) {
  const picture = el("span", { className: "picture", style: `--ratio: ${side.size[0] / side.size[1]}` }, el("canvas"));
  return el("figure", {}, el("figcaption", {}, el("span", { className: "beside" }, beside), el("span", { className: "below" }, below)), picture);
}

function viewOf(canvas, side, address) {
  const source = new Source(() => address, side.seconds, side.seconds / side.frames);
  source.isWhole = true;
  source.video.addEventListener("loadedmetadata", () => { [canvas.width, canvas.height] = [source.video.videoWidth, source.video.videoHeight]; });
  sources.push(source);
  return new View(canvas, side.size, source);
}

const playable = (source) => new Promise((resolve) => {
  if (source.isReady || source.isBroken) { resolve(); return; }
  for (const event of ["canplay", "error"]) source.video.addEventListener(event, resolve, { once: true });
});

function answer(given) {
  if (shownPair && state.pair) follow(() => desk.vote(rater, state.pair.id, given));
}

function undo() {
  if (state && state.last) follow(() => desk.undo(rater, state.last));
}

async function replay() {
  if (!shownPair) return;
  await seek(0);
  play();
}

/** Keep the name for this window alone: another one may be another rater's. */
function begin(given) {
  rater = given.normalize("NFC").trim().replace(/\s+/g, " ");
  if (!rater) return;
  try { sessionStorage.setItem("rater", rater); } catch { /* a browser that keeps nothing for a file */ }
  $("other").textContent = `${rater}, or somebody else?`;
  $("other").hidden = Boolean(data.rater);
  follow(() => desk.state(rater));
}

function askWho() {
  for (const id of ["booth", "over", "far", "more", "bar"]) $(id).hidden = true;
  $("who").hidden = false;
  $("rater").focus();
  clear();
  shownPair = state = null;
}

for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
$("undo").addEventListener("click", undo);
$("replay").addEventListener("click", replay);
$("save").hidden = !desk.isFile;
$("save").addEventListener("click", () => desk.save(rater));
$("other").addEventListener("click", askWho);
$("then").textContent = desk.then;
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  begin($("rater").value);
});

// The arrows are for votes again once the mouse has let go of the bar.
$("scrub").addEventListener("pointerup", () => $("scrub").blur());
$("speed").addEventListener("change", () => $("speed").blur());

const ANSWERS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "tie", ArrowDown: "bad" };
document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select") || !$("who").hidden) return;
  if (target.id === "scrub" && key.startsWith("Arrow")) return;
  if (event.repeat && !"<>,.".includes(key)) { /* a key that is held down says nothing twice */ }
  else if (key in ANSWERS) answer(ANSWERS[key]);
  else if (key === "u" || key === "Backspace") undo();
  else if (key === "r") replay();
  else if (shownPair && isForBar(key, target)) act(key);
  else return;
  event.preventDefault();
});

requestAnimationFrame(tick);
let known = data.rater;
try { known ||= sessionStorage.getItem("rater"); } catch { /* a browser that keeps nothing for a file */ }
if (known) begin(known);
else askWho();
