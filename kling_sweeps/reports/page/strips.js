// The clips of the page: several side by side in a video, which are read while the page is drawn already.
const strips = new Map();
const arrived = new Set();  // the strips that are read: the page is drawn before it is read to its end
function arrive(strip) {
  arrived.add(strip);
  strips.get(strip)?.update();
  for (const [number, { rep }] of cells) fill(runs[number], rep.querySelector(".picture"));
}

function sourceOf(run) {
  const [strip] = run.clip;
  if (!strips.has(strip)) {
    const address = () => (arrived.has(strip) ? URL.createObjectURL(new Blob([bytesOf(`strip-${strip}`)], { type: "video/mp4" })) : "");
    strips.set(strip, new Source(address, run.seconds, run.seconds / run.frames));
    sources.push(strips.get(strip));
  }
  return strips.get(strip);
}

const viewOf = (canvas, run) => new View(canvas, run.size, sourceOf(run), run.clip[1]);
