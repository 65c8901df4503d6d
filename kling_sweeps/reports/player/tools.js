// What every script of a page needs.
const $ = (id) => document.getElementById(id);

/** Make an element with properties, attributes ("aria-…", "data-…" and SVG's) and children. */
function el(name, given = {}, ...children) {
  const isSvg = ["svg", "path", "line", "circle", "rect", "text", "g", "title"].includes(name);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (isSvg || key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else if (key === "style") made.style.cssText = value;
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const last = (list) => list[list.length - 1];
const mean = (list) => list.reduce((sum, one) => sum + one, 0) / list.length;
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Return a text that was put into the page in Base64 as bytes; none where it is not there. */
function bytesOf(id) {
  const found = $(id);
  if (!found) return null;
  const letters = atob(found.textContent), bytes = new Uint8Array(letters.length);
  for (let index = 0; index < letters.length; index += 1) bytes[index] = letters.charCodeAt(index);
  return bytes;
}
