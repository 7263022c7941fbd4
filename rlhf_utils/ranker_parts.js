// What the ranking widget is made of, without state: widget.py puts this in front of ranker.js, as one module.

const LEVELS = ["much better", "better", "slightly better", "equal", "slightly better", "better", "much better"];
const CONFIDENCE = [[null, "–"], [0.33, "low"], [0.67, "medium"], [1, "high"]];

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== false));
  return node;
}

// tiers: places of cards, best first, ties together: [[2], [0, 3], [1]] → rank of each place; competition ranks, as 1, 2, 2, 4
export function ranksOf(tiers, count) {
  const ranks = Array(count).fill(0);
  let better = 0;
  for (const tier of tiers) {
    for (const place of tier) ranks[place] = better + 1;
    better += tier.length;
  }
  return ranks;
}

export const without = (tiers, place) => tiers.map((tier) => tier.filter((p) => p !== place)).filter((tier) => tier.length);

// Words of `text` that are not in its longest common subsequence with `other`: [word or space, whether it differs]
export function differences(text, other) {
  const a = text.split(/(\s+)/), words = a.filter((w) => w.trim()), others = other.split(/\s+/).filter(Boolean);
  if (words.length * others.length > 4e6) return a.map((word) => [word, false]); // too long to compare while somebody waits
  const table = Array.from({ length: words.length + 1 }, () => new Uint32Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = others.length - 1; j >= 0; j--)
      table[i][j] = words[i] === others[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const differs = [];
  for (let i = 0, j = 0; i < words.length; i++) {
    while (j < others.length && words[i] !== others[j] && table[i][j + 1] >= table[i + 1][j]) j++;
    differs.push(!(j < others.length && words[i] === others[j]));
    if (!differs[i]) j++;
  }
  let next = 0;
  return a.map((word) => [word, word.trim() ? differs[next++] : false]);
}

const minutes = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
const ordinal = (n) => `${n}${["th", "st", "nd", "rd"][n % 100 > 10 && n % 100 < 14 ? 0 : n % 10] ?? "th"}`;
const uid = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
const carry = (event, place) => event.dataTransfer.setData("text/plain", `rank:${place}`);
