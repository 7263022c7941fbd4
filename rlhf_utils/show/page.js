// What is packed at the page's end: plotly's script; figures and fragments as JSON.

function bytes(text) {  // from base 85, whose 85 characters follow on "="
  const count = text.length / 5, found = new DataView(new ArrayBuffer(4 * count));
  for (let i = 0; i < count; i++) {
    let word = 0;
    for (let j = 5 * i; j < 5 * i + 5; j++) word = 85 * word + DIGITS[text.charCodeAt(j)];
    found.setUint32(4 * i, word);
  }
  return new Uint8Array(found.buffer);
}

// LZMA (Igor Pavlov's LZMA specification, 2015) with lc = 3, lp = 0, pb = 2: a quarter smaller than
// deflate, which no browser's own DecompressionStream can give.
function unpack(input, size) {
  const out = new Uint8Array(size), fresh = (count) => new Uint16Array(count).fill(1024);
  const isMatch = fresh(192), isRep = fresh(12), isRep0 = fresh(12), isRep0Long = fresh(192);
  const isRep1 = fresh(12), isRep2 = fresh(12), literals = fresh(8 * 768), slots = fresh(256);
  const special = fresh(115), align = fresh(16), lengths = fresh(514), repLengths = fresh(514);
  let from = 5, range = 0xffffffff, code = 0, state = 0, at = 0, reps = [0, 0, 0, 0];
  for (let i = 1; i < 5; i++) code = code * 256 + input[i];

  function shift() {
    if (range >= 0x1000000) return;
    range = (range << 8) >>> 0;
    code = ((code << 8) | input[from++]) >>> 0;
  }
  function bit(probs, i) {
    const p = probs[i], bound = (range >>> 11) * p, one = code >= bound;
    if (one) {
      range -= bound;
      code -= bound;
      probs[i] = p - (p >> 5);
    } else {
      range = bound;
      probs[i] = p + ((2048 - p) >> 5);
    }
    shift();
    return one ? 1 : 0;
  }
  function tree(probs, start, bits) {
    let node = 1;
    for (let i = 0; i < bits; i++) node = 2 * node + bit(probs, start + node);
    return node - (1 << bits);
  }
  function reverse(probs, start, bits) {
    let node = 1, value = 0;
    for (let i = 0; i < bits; i++) {
      const next = bit(probs, start + node);
      node = 2 * node + next;
      value |= next << i;
    }
    return value;
  }
  function length(probs, place) {
    if (!bit(probs, 0)) return 2 + tree(probs, 2 + 8 * place, 3);
    if (!bit(probs, 1)) return 10 + tree(probs, 130 + 8 * place, 3);
    return 18 + tree(probs, 258, 8);
  }
  function distance(long) {
    const slot = tree(slots, 64 * Math.min(long - 2, 3), 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1, high = (2 | (slot & 1)) << bits;
    if (slot < 14) return high + reverse(special, high - slot, bits);
    let middle = 0;
    for (let i = 4; i < bits; i++) {
      range >>>= 1;
      const one = code >= range ? 1 : 0;
      if (one) code -= range;
      middle = 2 * middle + one;
      shift();
    }
    return high + 16 * middle + reverse(align, 0, 4);
  }
  function literal() {
    const start = 768 * (at ? out[at - 1] >> 5 : 0);
    let node = 1, matched = state > 6 ? out[at - reps[0] - 1] : 0;
    if (state > 6) {
      while (node < 256) {
        const seen = (matched >> 7) & 1, next = bit(literals, start + 256 * (1 + seen) + node);
        matched <<= 1;
        node = 2 * node + next;
        if (seen !== next) break;
      }
    }
    while (node < 256) node = 2 * node + bit(literals, start + node);
    out[at++] = node;
    state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }
  function repeated(place) {  // the length of a match at one of the last four distances
    if (!bit(isRep0, state)) {
      if (!bit(isRep0Long, 16 * state + place)) {
        state = state < 7 ? 9 : 11;
        return 1;
      }
    } else {
      const which = !bit(isRep1, state) ? 1 : 2 + bit(isRep2, state);
      reps.unshift(...reps.splice(which, 1));
    }
    state = state < 7 ? 8 : 11;
    return length(repLengths, place);
  }
  while (at < size) {
    const place = at & 3;
    if (!bit(isMatch, 16 * state + place)) {
      literal();
      continue;
    }
    let long;
    if (bit(isRep, state)) long = repeated(place);
    else {
      long = length(lengths, place);
      reps = [distance(long), reps[0], reps[1], reps[2]];
      state = state < 7 ? 7 : 10;
    }
    for (const end = Math.min(at + long, size); at < end; at++) out[at] = out[at - reps[0] - 1];
  }
  return out;
}

const DIGITS = new Uint8Array(128);
[..."{{ digits|safe }}"].forEach((digit, value) => { DIGITS[digit.charCodeAt(0)] = value; });

// On a phone the panels of a figure stand one below the other, each 300 pixels high.
function stack(plot) {
  const layout = plot.layout, ids = [];
  for (const key in layout) if (/^xaxis/.test(key)) ids.push(key.slice(5));
  if (ids.length < 2) return;
  const change = {}, { t } = layout.margin;  // which may hold a slider
  let { b } = layout.margin;
  layout.annotations.forEach((note, place) => {  // a line below all panels gets several
    if (note.xref !== "paper" || note.yref !== "paper" || !note.text.includes("; ")) return;
    const text = note.text.replaceAll("; ", "<br>");
    const look = { text, align: "left", xshift: -40, "font.size": 10 };
    for (const key in look) change[`annotations[${place}].${key}`] = look[key];
    change["margin.b"] = b += 30;
  });
  const height = 300 * ids.length + Math.max(t - 34, 0) + Math.max(b - 60, 0);
  const inside = height - t - b;
  ids.forEach((id, place) => {
    const top = 1 - place * 300 / inside, low = Math.max(top - 190 / inside, 0);
    change[`xaxis${id}.domain`] = [0, 1];
    change[`yaxis${id}.domain`] = [low, top];
    change[`annotations[${place}].x`] = 0;
    change[`annotations[${place}].y`] = top;
    if (layout[`legend${id}`]) {
      change[`legend${id}.x`] = 0;
      change[`legend${id}.y`] = low - 44 / inside;
    }
  });
  Plotly.relayout(plot, { ...change, height });
}

const plots = [], note = document.querySelector(".no-script");

function read(id) {
  const packed = document.getElementById(id);
  return new TextDecoder().decode(unpack(bytes(packed.textContent), Number(packed.dataset.size)));
}

async function fill() {
  const script = document.createElement("script");
  script.textContent = read("packed-plotly");
  document.head.append(script);
  const [figures, fragments] = JSON.parse(read("packed"));
  for (const place of document.querySelectorAll("[data-figure]")) {
    const { data, layout } = figures[place.dataset.figure];
    const config = { displaylogo: false, responsive: true };
    plots.push(await Plotly.newPlot(place, { data, layout, config }));
    if (innerWidth < 640) stack(place);
  }
  for (const place of document.querySelectorAll("[data-fragment]")) {
    const made = document.createRange().createContextualFragment(fragments[place.dataset.fragment]);
    place.replaceChildren(made);  // its scripts run, too
  }
}

note.hidden = true;
document.documentElement.classList.add("scripted");
requestAnimationFrame(() => setTimeout(() => fill().catch((error) => {
  console.error(error);
  note.hidden = false;
}).finally(() => { document.documentElement.dataset.ready = ""; })));  // the texts come first

// On paper all is open, and figures are as wide as the page: page.css shrinks them.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  for (const plot of plots) Plotly.relayout(plot, { autosize: false, width: 846 });
});
addEventListener("afterprint", () => {
  for (const plot of plots) Plotly.relayout(plot, { autosize: true, width: null });
});
