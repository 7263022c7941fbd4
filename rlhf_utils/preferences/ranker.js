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

// The ranking widget's front end (an anywidget module). The kernel's trait `state` says what is asked; each judgement goes back as ONE
// message with a uid, and the next card is shown only when a new `state` names that uid as saved. All texts are set as textContent.

const WAITING_MS = 1500; // after which an unanswered message is told to the annotator, and keys no longer count for the next card

function render({ model, el }) {
  const root = make("div", { class: "rk", tabindex: "0", role: "region", "aria-label": "Rank answers", "data-lm-suppress-shortcuts": "true" });
  const live = make("div", { class: "rk-status", role: "status", "aria-live": "polite" }), alarm = make("div", { class: "rk-alarm", role: "alert" });
  const body = make("div");
  root.append(body, live, alarm);
  el.append(root);
  let tiers, compared, flagged, confidence, note, strength, bothBad, pending = null, typed = [], shownAt, turn, timer, stored; // stored: the key of the draft on the table

  const state = () => model.get("state"), item = () => state().item;
  const count = () => item().responses.length, pairwise = () => count() === 2;
  const draftKey = () => `rlhf-draft/${state().annotator}/${item().id}/${item().kind}`;
  const say = (text) => { live.textContent = text; };

  function start() {
    [tiers, compared, flagged, confidence, note, strength, bothBad] = [[], [], false, null, "", 0, false];
    shownAt = performance.now();
    if (!item()) return;
    if (item().ranks) { // taken back: as it was
      const { ranks, margin, flags } = item();
      tiers = [...new Set(ranks)].sort((a, b) => a - b).map((rank) => [...ranks.keys()].filter((p) => ranks[p] === rank));
      [flagged, bothBad, strength] = [flags.includes("flagged"), flags.includes("both_bad"), (margin ?? 0) * Math.sign(ranks[0] - ranks[1])];
    }
    try { // what was chosen before the page was reloaded
      const draft = JSON.parse(sessionStorage.getItem(draftKey()));
      if (draft) ({ tiers, flagged, confidence, note, strength, bothBad } = draft);
    } catch { /* no storage in this front end */ }
  }

  function keep() {
    try { sessionStorage.setItem(draftKey(), JSON.stringify({ tiers, flagged, confidence, note, strength, bothBad })); } catch { /* no storage */ }
  }

  function changed(words) {
    if (words) say(words);
    keep();
    draw();
  }

  const tierOf = (place) => tiers.findIndex((tier) => tier.includes(place));

  function pick(place) { // the next best; the same answer again ties it with the one above it, and once more unties it
    if (place >= count()) return;
    bothBad = false;
    const at = tierOf(place);
    if (at < 0) tiers = [...tiers, [place]];
    else if (tiers[at].length > 1) tiers = tiers.flatMap((tier, i) => (i === at ? [tier.filter((p) => p !== place), [place]] : [tier]));
    else if (at > 0) tiers = tiers.flatMap((tier, i) => (i === at ? [] : i === at - 1 ? [[...tier, place]] : [tier]));
    else return say(`Answer ${place + 1} is the best already.`);
    const tied = tiers[tierOf(place)].length > 1;
    changed(`Answer ${place + 1} is ${ordinal(ranksOf(tiers, count())[place])}${tied ? ", tied" : ""}.`);
  }

  const last = () => tiers.at(-1)?.at(-1);
  const back = () => last() === undefined ? say("Nothing is ranked yet.") : ((tiers = without(tiers, last())), changed("One step back."));
  const tie = () => last() === undefined ? say("Rank an answer first; t ties it with the one above.") : pick(last());

  function place(card, index, together) { // dropped on the tier of that index, or before it
    const target = together ? tiers[index]?.find((p) => p !== card) : undefined;
    const before = tiers.slice(index).flat().filter((p) => p !== card);
    let rest = without(tiers, card);
    if (together && target !== undefined) rest = rest.map((tier) => (tier.includes(target) ? [...tier, card] : tier));
    else {
      const at = before.length ? rest.findIndex((tier) => tier.includes(before[0])) : rest.length;
      rest = [...rest.slice(0, at), [card], ...rest.slice(at)];
    }
    tiers = rest;
    changed(`Answer ${card + 1} is ${ordinal(ranksOf(tiers, count())[card])}.`);
  }

  function lean(step) { // pairwise: ← and → choose, or with strength move along the seven points
    bothBad = false;
    strength = state().strength ? Math.max(-3, Math.min(3, strength + step)) : step;
    tiers = strength < 0 ? [[0], [1]] : strength > 0 ? [[1], [0]] : [[0, 1]];
    changed(strength ? `Answer ${strength < 0 ? 1 : 2} is ${state().strength ? LEVELS[strength + 3] : "better"}.` : "Both are equal.");
  }

  function compare(card) {
    compared = compared.includes(card) ? compared.filter((c) => c !== card) : [...compared, card].slice(-2);
    changed(compared.length === 2 ? `Differences between answers ${compared[0] + 1} and ${compared[1] + 1} are marked.` : "Choose a second answer to compare.");
  }

  function send(message) {
    if (pending) return;
    pending = message;
    alarm.replaceChildren();
    say("Saving …");
    root.setAttribute("aria-busy", "true");
    dispatch();
    draw();
  }

  function dispatch() {
    clearTimeout(timer);
    timer = setTimeout(waiting, WAITING_MS);
    model.send(pending);
  }

  function waiting() {
    typed = [];
    alarm.replaceChildren("Waiting for the kernel: it is busy with another cell, or gone. Your answer is kept and is saved as soon as the kernel is free. ",
      make("button", { type: "button", onclick: again }, "Send again"));
    timer = setTimeout(waiting, 5000);
  }

  function again() { // the same uid: what was saved already is not saved twice
    if (!pending) return;
    alarm.replaceChildren();
    dispatch();
  }

  const common = () => ({
    uid: uid(), turn, seconds: (performance.now() - shownAt) / 1000, note, confidence,
    flags: [flagged && "flagged", bothBad && "both_bad"].filter(Boolean),
  });

  function submit() {
    const missing = count() - tiers.flat().length;
    if (missing) return say(`${missing === 1 ? "One answer has" : `${missing} answers have`} no rank yet.`);
    send({ type: "rank", ranks: ranksOf(tiers, count()), margin: state().strength && strength ? Math.abs(strength) : null, ...common() });
  }

  function received() { // a new state from the kernel: an acknowledgement, a failure, or a first sight
    const { saved, error } = state();
    if (error) {
      if (!pending || error.uid !== pending.uid) return;
      clearTimeout(timer);
      typed = [];
      alarm.replaceChildren(`Not saved: ${error.text} Your answer is kept. `, make("button", { type: "button", onclick: again }, "Try again"));
      return;
    }
    if (pending && saved !== pending.uid) return;
    clearTimeout(timer);
    if (pending) {
      try { sessionStorage.removeItem(stored); } catch { /* no storage */ }
      say(pending.type === "undo" ? "Taken back: rank it again." : pending.type === "skip" ? "Skipped." : "Saved.");
    }
    pending = null;
    root.removeAttribute("aria-busy");
    alarm.replaceChildren();
    if (state().turn !== turn) {
      turn = state().turn;
      start();
    }
    draw();
    for (const key of typed.splice(0)) press(key);
  }

  const KEYS = {
    Enter: submit, Backspace: back, t: tie,
    b: () => { if (pairwise()) { [bothBad, strength, tiers] = [true, 0, [[0, 1]]]; changed("Both are bad."); } },
    f: () => { flagged = !flagged; changed(flagged ? "Flagged: saved with your ranking, or with a skip." : "Flag removed."); },
    s: () => send({ type: "skip", ranks: [], ...common() }),
    u: () => send({ type: "undo", uid: uid() }),
    n: () => root.querySelector(".rk-note")?.focus(),
    g: () => root.querySelector("details summary")?.click(),
    c: () => { confidence = CONFIDENCE[(CONFIDENCE.findIndex(([value]) => value === confidence) + 1) % 4][0]; changed(); },
    Escape: () => root.blur(),
  };

  function press({ key, code, shiftKey }) {
    if (pending) return alarm.hasChildNodes() ? undefined : typed.push({ key, code, shiftKey });
    const digit = /^(?:Digit|Numpad)([1-6])$/.exec(code)?.[1] ?? (/^[1-6]$/.test(key) ? key : null);
    if (!item()) return key === "u" ? KEYS.u() : undefined;
    if (digit && shiftKey && Number(digit) <= count()) return compare(Number(digit) - 1);
    if (digit) return pick(Number(digit) - 1);
    if (pairwise() && key === "ArrowLeft") return lean(-1);
    if (pairwise() && key === "ArrowRight") return lean(1);
    KEYS[key.length === 1 ? key.toLowerCase() : key]?.();
  }

  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the notebook must not see it: there "b" inserts a cell
    const inField = event.target.matches("input, textarea, select, summary");
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    if (inField) return event.key === "Escape" || (event.key === "Enter" && event.target.matches("input")) ? root.focus() : undefined;
    if (event.key === "Enter" && event.target.closest("button")) return; // presses that button
    const ours = /^[1-6]$/.test(event.key) || /^Digit[1-6]$/.test(event.code) || event.key in KEYS || event.key.toLowerCase() in KEYS ||
      (item() && pairwise() && /^Arrow(Left|Right)$/.test(event.key));
    if (!ours) return;
    event.preventDefault();
    if (!event.repeat) press(event);
  });

  const focus = () => root.focus({ preventScroll: true });
  const button = (key, label, action, pressed, primary) => make("button", {
    type: "button", class: `rk-do${primary ? " rk-primary" : ""}`, "aria-pressed": pressed === undefined ? null : String(pressed), "aria-keyshortcuts": key,
    disabled: Boolean(pending), onclick: () => { focus(); action(); },
  }, make("kbd", {}, key), ` ${label}`);

  function card(place) {
    const ranks = ranksOf(tiers, count()), rank = ranks[place], text = item().responses[place];
    const other = compared.length === 2 && compared.includes(place) ? item().responses[compared.find((c) => c !== place)] : null;
    const words = other === null ? [text] : differences(text, other).map(([word, differs]) => (differs ? make("mark", {}, word) : word));
    const tied = rank && tiers[tierOf(place)].length > 1;
    const label = rank ? `${ordinal(rank)}${tied ? " =" : ""}` : "";
    const choose = () => { focus(); press({ key: String(place + 1), code: "" }); };
    return make("li", {
      class: `rk-card${rank ? " rk-ranked" : ""}${rank === 1 ? " rk-best" : ""}`, "data-place": place,
      onclick: (event) => { if (!event.target.closest("button") && !String(getSelection())) choose(); },
    },
    make("div", { class: "rk-head", draggable: "true", title: "Drag to your ranking", ondragstart: (event) => carry(event, place) },
      make("button", { type: "button", class: "rk-rank", onclick: choose,
        "aria-label": `Answer ${place + 1}, ${rank ? `ranked ${label.replace("=", "tied")}` : "not ranked"}` },
      make("kbd", {}, String(place + 1)), make("span", { class: "rk-place" }, label)),
      make("button", { type: "button", class: "rk-diff", "aria-pressed": String(compared.includes(place)), onclick: () => compare(place),
        title: "Compare with another answer (Shift and its number)", "aria-label": `Compare answer ${place + 1}` }, "≠")),
    make("div", { class: "rk-text", dir: "auto", tabindex: text.length > 600 ? "0" : null }, ...words));
  }

  function lane() { // the ranking so far, best first; cards are dropped here: on a tier to tie, beside it to insert
    const where = ({ clientX }, node) => {
      const box = node.getBoundingClientRect(), x = (clientX - box.left) / box.width;
      return x < 0.3 ? "before" : x > 0.7 ? "after" : "tie";
    };
    const target = (index) => ({ // index: of a tier, or -1 for the lane itself
      ondragover: (event) => {
        event.preventDefault();
        event.stopPropagation();
        event.currentTarget.dataset.drop = index < 0 ? "end" : where(event, event.currentTarget);
      },
      ondragleave: (event) => delete event.currentTarget.dataset.drop,
      ondrop: (event) => {
        event.preventDefault();
        event.stopPropagation();
        const card = /^rank:(\d)$/.exec(event.dataTransfer.getData("text/plain")), at = index < 0 ? "end" : where(event, event.currentTarget);
        focus();
        if (card) place(Number(card[1]), index < 0 ? tiers.length : index + (at === "after"), at === "tie");
      },
    });
    const chip = (p) => make("span", { class: "rk-chip", draggable: "true", ondragstart: (event) => carry(event, p) }, String(p + 1));
    return make("ol", { class: "rk-lane", "aria-label": "Your ranking, best first", ...target(-1) },
      make("li", { class: "rk-end", "aria-hidden": "true" }, "best"),
      ...tiers.map((tier, index) => make("li", { class: "rk-tier", ...target(index) }, ...tier.map(chip))),
      make("li", { class: "rk-hint", "aria-hidden": "true" }, tiers.flat().length < count() ? "press, click or drag the next best here" : "worst"));
  }

  function scale() { // seven points from "1 is much better" to "2 is much better"
    const choose = (value) => { focus(); strength = 0; lean(0); for (let n = 0; n < Math.abs(value); n++) lean(Math.sign(value)); };
    return make("div", { class: "rk-scale", role: "radiogroup", "aria-label": "How much better" }, ...LEVELS.map((level, i) => make("button", {
      type: "button", role: "radio", "aria-checked": String(tiers.length > 0 && !bothBad && strength === i - 3), onclick: () => choose(i - 3),
      "aria-label": i === 3 ? "equal" : `Answer ${i < 3 ? 1 : 2} ${level}`,
    }, `${i < 3 ? "← " : ""}${level}${i > 3 ? " →" : ""}`)));
  }

  function extras() {
    const select = make("select", { "aria-label": "Confidence", onchange: (event) => { [confidence] = CONFIDENCE[event.target.selectedIndex]; keep(); } },
      ...CONFIDENCE.map(([value, label]) => make("option", { selected: value === confidence }, label)));
    const field = make("input", { class: "rk-note", type: "text", placeholder: "note (optional)", "aria-label": "Note", maxlength: "2000",
      oninput: (event) => { note = event.target.value; keep(); } });
    field.value = note;
    return make("div", { class: "rk-extras" }, make("label", {}, make("kbd", {}, "c"), " confidence ", select), make("label", {}, make("kbd", {}, "n"), " ", field));
  }

  function draw() {
    const focused = root.contains(root.getRootNode().activeElement);
    redraw();
    if (focused && !root.contains(root.getRootNode().activeElement)) root.focus({ preventScroll: true }); // else keys reach the notebook
  }

  function redraw() {
    const { done, target, seconds } = state().progress, left = Math.max(target - done, 0);
    const opened = root.querySelector("details")?.open ?? done === 0;
    const pace = seconds && left ? ` · ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s each · about ${minutes(seconds * left)} left` : "";
    const head = make("div", { class: "rk-progress" }, make("progress", { max: target || 1, value: done, "aria-label": "Progress" }), make("span", {}, `${done} of ${target}${pace}`));
    const guide = make("details", { open: opened }, make("summary", {}, "Guidelines"), make("dl", {},
      ...Object.entries(model.get("guidelines")).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
    const undo = button("u", "undo the last", KEYS.u);
    if (!item()) {
      body.replaceChildren(head, make("div", { class: "rk-done" }, `All ${done} are judged. Thank you! Run the next cell.`), make("div", { class: "rk-bar" }, undo));
      return;
    }
    stored = draftKey();
    const ranked = tiers.flat().length === count();
    body.replaceChildren(head, guide,
      make("div", { class: "rk-prompt", dir: "auto", tabindex: item().prompt.length > 600 ? "0" : null }, item().prompt),
      make("ol", { class: "rk-cards", style: `--columns: ${count() % 2 ? 3 : 2}` }, ...item().responses.map((_, place) => card(place))),
      pairwise() && state().strength ? scale() : lane(),
      make("div", { class: "rk-bar" }, button("Enter", "submit", submit, undefined, ranked), button("⌫", "back", back), button("t", "tie", tie),
        button("s", "skip", KEYS.s), button("f", "flag", KEYS.f, flagged), pairwise() && button("b", "both bad", KEYS.b, bothBad), undo),
      extras());
  }

  model.on("change:state", received);
  model.on("change:guidelines", draw);
  turn = state().turn;
  start();
  draw();
  model.send({ type: "hello" });
  if (state().progress.done === state().progress.begun) root.focus({ preventScroll: true });
  return () => { clearTimeout(timer); model.off("change:state", received); model.off("change:guidelines", draw); };
}

export default { render };
