// Where votes go: into this browser, and from there into a file to send back.
const name = (rater) => `votes ${data.page} ${rater}`;
const logs = new Map();  // what each rater has said here, as the file has it
const saved = new Map();  // how much of that is in a file

/** Return what a rater has said, in another window of the browser too. */
function logOf(rater) {
  let kept = null;
  try { kept = JSON.parse(localStorage.getItem(name(rater))); } catch { /* a browser that keeps nothing for a file */ }
  return Array.isArray(kept) ? kept : logs.get(rater) || [];
}

function note(rater, event) {
  const log = [...logOf(rater), { ...event, at: new Date().toISOString() }];
  logs.set(rater, log);
  try { localStorage.setItem(name(rater), JSON.stringify(log)); } catch { /* the file has it still */ }
}

/** FNV-1a: where a rater begins and which side a video is on are chosen by the rater's name. */
function hash(text) {
  let found = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) found = Math.imul(found ^ byte, 0x01000193) >>> 0;
  return found ^ (found >>> 15);
}

function standing(rater) {
  const log = logOf(rater), undone = new Set(log.filter((one) => one.event === "undone").map((one) => one.id));
  return log.filter((one) => one.event === "voted" && !undone.has(one.id));
}

function pairOf(rater, place) {
  const { pairs, videos, texts } = data, start = (hash(rater) >>> 0) % pairs.length;
  const [one, other, text] = pairs[(start + place) % pairs.length];
  const [left, right] = hash(`${rater} ${one} ${other}`) & 1 ? [one, other] : [other, one];
  const side = (id) => ({ id, ...videos[id] });
  return { id: `${left} ${right}`, prompt: texts[text], left: side(left), right: side(right) };
}

function stateOf(rater) {
  const votes = standing(rater), voted = new Set(votes.map((one) => `${one.left} ${one.right}`));
  const left = data.pairs.map((_, place) => pairOf(rater, place)).filter((pair) => !voted.has(pair.id));
  return { counted: true, done: votes.length, left: left.length, last: votes.length ? last(votes).id : null, pair: left[0] || null, next: left[1] || null };
}

const newId = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const desk = {
  isFile: true,
  then: "Save the votes, and send the file back to whoever sent you this page.",
  async state(rater) { return stateOf(rater); },
  async vote(rater, pair, answer) {
    const [left, right] = pair.split(" ");
    const counted = !standing(rater).some((one) => one.left === left && one.right === right);
    if (counted) note(rater, { event: "voted", id: newId(), left, right, answer });
    return { ...stateOf(rater), counted };
  },
  async undo(rater, vote) {
    note(rater, { event: "undone", id: vote });
    return stateOf(rater);
  },
  async video(side) { return new Blob([bytesOf(`clip-${side.id}`)], { type: "video/mp4" }); },
  save(rater) {
    const content = { format: data.format, page: data.page, rater, events: logOf(rater) };
    const href = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
    el("a", { href, download: `votes-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.json` }).click();
    saved.set(rater, content.events.length);
  },
};

addEventListener("beforeunload", (event) => {
  if ([...logs].some(([rater, log]) => log.length > (saved.get(rater) || 0))) event.preventDefault();
});
