// One clock for all: every video follows it, and waits where the others can't.
// In seconds: how far a video may be off before it is sought anew, and at what lag of most the clock waits.
const FAR = 0.3, LAG = 0.15, SETTLED = 1.5;
// So many videos are kept open that nobody looks at.
const KEPT = 24;
const clock = { time: 0, rate: 1, isPlaying: false, gathering: 0, longest: 0.04, step: 1 / 12 };
const hears = new Set();  // what is called with the time at every picture of the screen

/** Let the clock run as long as the longest of some videos, in steps of the shortest frame. */
function span(videos) {
  clock.longest = Math.max(0.04, ...videos.map((video) => video.seconds));
  clock.step = Math.min(...videos.filter((video) => video.frames).map((video) => video.seconds / video.frames), 1 / 12);
}

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** A video file: a clip, or several side by side; drawn to every canvas that shows a part of it. */
class Source {
  constructor(address, seconds, frame) {
    Object.assign(this, { address, seconds, frame, views: new Set(), isBroken: false, sought: 0, used: 0 });
    this.video = el("video", { muted: true, playsInline: true, preload: "auto", tabIndex: -1, disablePictureInPicture: true });
    this.video.addEventListener("loadeddata", () => this.catchUp());
    this.video.addEventListener("seeked", () => { this.draw(); this.go(); });
    this.video.addEventListener("error", () => { this.isBroken = this.isOpen; });
    const present = () => { this.draw(); this.video.requestVideoFrameCallback(present); };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(present);
    else hears.add(() => this.draw());
    $("reel").append(this.video);
  }

  get isWanted() { return [...this.views].some((view) => view.isVisible); }
  get isOpen() { return this.video.hasAttribute("src"); }
  get isReady() { return this.video.readyState >= 3; }
  get isOver() { return clock.time >= this.seconds - this.frame / 2; }
  get target() { return clamp(clock.time, 0, this.seconds - this.frame / 2) + 0.001; }
  get lag() { return this.target - this.video.currentTime; }

  /** Open it when somebody looks, pause it when nobody does. */
  update() {
    this.used = performance.now();
    if (!this.isWanted) return this.video.pause();
    if (this.isOpen) return this.catchUp();
    const address = this.address();
    if (address) this.video.src = address;
    return undefined;
  }

  close() {
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.video.load();
  }

  catchUp() {
    if (Math.abs(this.lag) > this.frame / 2) this.seek();
    else this.go();
  }

  seek() {
    this.sought = performance.now();
    this.video.currentTime = this.target;
  }

  go() {
    this.draw();
    if (!clock.isPlaying || clock.gathering || !this.isWanted || this.isOver || this.video.seeking) return;
    this.video.playbackRate = clock.rate;
    this.video.play().catch((error) => { if (error.name === "NotAllowedError") pause(); });
  }

  /** Keep it in step: a little faster or slower, and sought anew where it is far off. */
  follow(now) {
    if (this.isOver) return this.video.pause();
    if (this.video.paused) return this.go();
    if (Math.abs(this.lag) > FAR && now - this.sought > 1000) return this.seek();
    const nudge = Math.abs(this.lag) > this.frame / 4 ? clamp(this.lag * 2, -0.25, 0.25) : 0;
    this.video.playbackRate = clock.rate * (1 + nudge);
    return undefined;
  }

  settled() {
    const { video } = this;
    if (video.readyState >= 2 && !video.seeking) return Promise.resolve();
    return new Promise((resolve) => {
      for (const event of ["seeked", "error"]) video.addEventListener(event, resolve, { once: true });
    });
  }

  draw() { for (const view of this.views) view.draw(); }
}

/** A canvas that shows a video of a `size`, which is all of a source or begins `left` pixels from its edge. */
class View {
  constructor(canvas, size, source, left = 0) {
    Object.assign(this, { canvas, size, source, left, isVisible: false });
    [canvas.width, canvas.height] = size;
    this.source.views.add(this);
  }

  draw() {
    const { video } = this.source, { canvas } = this;
    if (!this.isVisible || video.readyState < 2) return;
    const context = canvas.getContext("2d");
    const [width, height] = this.size;
    if (this.source.isWhole) context.drawImage(video, 0, 0, canvas.width, canvas.height);
    else context.drawImage(video, this.left, 0, width, height, 0, 0, canvas.width, canvas.height);
    canvas.classList.add("drawn");
  }

  see(isVisible) {
    if (this.isVisible === isVisible) return;
    this.isVisible = isVisible;
    this.source.update();
    this.draw();
    closeUnused();
  }

  drop() {
    this.isVisible = false;
    this.source.views.delete(this);
    this.source.update();
  }
}

const sources = [];
const wanted = () => sources.filter((source) => source.isWanted && !source.isBroken);
const active = () => wanted().filter((source) => source.isOpen);

function closeUnused() {
  const unused = sources.filter((source) => !source.isWanted && source.isOpen);
  unused.sort((a, b) => b.used - a.used).slice(KEPT).forEach((source) => source.close());
}

/** Bring all videos to the clock's time, and let them go on together. */
async function gather() {
  const number = ++gather.number;
  clock.gathering = number;
  const moved = active();
  for (const source of moved) {
    source.video.pause();
    if (Math.abs(source.lag) > 0.001) source.seek();
  }
  await Promise.race([Promise.all(moved.map((source) => source.settled())), sleep(SETTLED)]);
  if (number !== gather.number) return;
  clock.gathering = 0;
  for (const source of moved) source.go();
}
gather.number = 0;

function seek(seconds) {
  clock.time = clamp(seconds, 0, clock.longest);
  return gather();
}

function play() {
  clock.isPlaying = true;
  if (clock.time >= clock.longest - clock.step / 2) clock.time = 0;
  return gather();
}

/** Pause, all videos at the same picture. */
function pause() {
  clock.isPlaying = false;
  clock.time = clamp(Math.floor(clock.time / clock.step + 0.01) * clock.step, 0, clock.longest);
  return gather();
}

function step(pictures) {
  clock.isPlaying = false;
  const turns = Math.round(clock.longest / clock.step), place = Math.floor(clock.time / clock.step + 0.01) + pictures;
  return seek((((place % turns) + turns) % turns) * clock.step);
}

function hurry(rate) {
  clock.rate = rate;
  for (const source of active()) source.video.playbackRate = rate;
}

let drawn = performance.now(), followed = 0;
function tick(now) {
  requestAnimationFrame(tick);
  const passed = clamp((now - drawn) / 1000, 0, 1);
  drawn = now;
  if (clock.isPlaying && !clock.gathering) {
    const playing = active().filter((source) => !source.isOver);
    const isWaiting = playing.length > 0 && median(playing.map((source) => source.lag)) > LAG;
    if (!isWaiting) clock.time += passed * clock.rate;
    if (clock.time >= clock.longest) seek(0);
    else if (now - followed > 100) {
      followed = now;
      for (const source of active()) source.follow(now);
    }
  }
  for (const hear of hears) hear(clock.time);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) for (const source of sources) source.video.pause();
  else if (clock.isPlaying) gather();
});
