// What the ranking widget needs that has no state. It follows ranker.js in one module.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    const absent = value === null || value === false;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (!absent) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== false));
  return node;
}

// tiers: cards, best first, ties together. [[2], [0, 3], [1]] gives each card's rank: [2, 4, 1, 2]
function ranksOf(tiers, count) {
  const ranks = Array(count).fill(0);
  let better = 0;
  for (const tier of tiers) {
    for (const card of tier) ranks[card] = better + 1;
    better += tier.length;
  }
  return ranks;
}

function without(tiers, card) {
  return tiers.map((tier) => tier.filter((other) => other !== card)).filter((tier) => tier.length);
}

// [word or space, whether it differs]: words of `text` that are not in its longest common
// subsequence with `other`.
export function differences(text, other) {
  const parts = text.split(/(\s+)/);
  const words = parts.filter((part) => part.trim());
  const others = other.split(/\s+/).filter(Boolean);
  if (words.length * others.length > 4e6) { // too long to compare while somebody waits
    return parts.map((part) => [part, false]);
  }
  const common = Array.from({ length: words.length + 1 }, () => new Uint32Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = others.length - 1; j >= 0; j--) {
      common[i][j] = words[i] === others[j]
        ? common[i + 1][j + 1] + 1
        : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const differs = [];
  for (let i = 0, j = 0; i < words.length; i++) {
    while (j < others.length && words[i] !== others[j] && common[i][j + 1] >= common[i + 1][j]) j++;
    differs.push(!(j < others.length && words[i] === others[j]));
    if (!differs[i]) j++;
  }
  let next = 0;
  return parts.map((part) => [part, part.trim() ? differs[next++] : false]);
}

function withStorage(use) { // some front ends have none
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function ordinal(n) {
  const teen = n % 100 > 10 && n % 100 < 14;
  return `${n}${["th", "st", "nd", "rd"][teen ? 0 : n % 10] ?? "th"}`;
}

function uid() {
  const bytes = Array.from(crypto.getRandomValues(new Uint8Array(16)));
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function carry(event, card) {
  event.dataTransfer.setData("text/plain", `rank:${card}`);
}

// Brings `root` into view and keeps the focus there for a while. A notebook takes it back as soon
// as the cell has run, and with Run All it scrolls on. Whatever a person does elsewhere ends it, as
// does a key for which `isOurs` is false. Returns what ends it, too.
function holdFocus(root, isOurs) {
  const inFrame = window.parent !== window; // there the notebook's own clicks and keys are not seen
  const until = performance.now() + (inFrame ? 600 : 30_000);
  const away = (event) => {
    const shift = ["Shift", "Control", "Alt", "Meta"].includes(event.key);
    if (event.type !== "keydown" || !(shift || (root.contains(event.target) && isOurs(event)))) {
      release();
    }
  };
  const events = ["pointerdown", "wheel", "keydown"];
  for (const name of events) document.addEventListener(name, away, { capture: true, passive: true });
  const release = () => {
    clearInterval(clock);
    for (const name of events) document.removeEventListener(name, away, { capture: true });
  };
  const clock = setInterval(() => {
    if (performance.now() > until || document.querySelector(".jp-Dialog, dialog[open]")) release();
    else hold();
  }, 100);
  const hold = () => {
    if (!root.offsetParent) return; // in a tab behind another
    const { top } = root.getBoundingClientRect();
    const [upper, height] = windowOf(root);
    if (top < upper - 1 || top > upper + height / 2) root.scrollIntoView({ block: "start" });
    if (!root.contains(root.getRootNode().activeElement)) root.focus({ preventScroll: true });
  };
  hold();
  return release;
}

function windowOf(node) { // [top, height] of the part of the page that scrolls it
  for (let box = node.parentElement; box; box = box.parentElement) {
    const scrolls = /auto|scroll/.test(getComputedStyle(box).overflowY);
    if (scrolls && box.scrollHeight > box.clientHeight + 1) {
      return [box.getBoundingClientRect().top, box.clientHeight];
    }
  }
  return [0, window.innerHeight];
}
