// What the page was given.
const data = JSON.parse($("data").textContent);
