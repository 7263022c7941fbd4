// The ranking widget's front end, an anywidget module: cards to rank by keyboard, click or drag.
//
// The kernel's trait `state` says what is asked. A judgement goes back as ONE message with a uid,
// and the next question is shown only when a new `state` names that uid as saved. Texts are set as
// textContent: what a model wrote is shown, and never runs.

const WAITING_MS = 1500; // then a warning says that no answer came, and keys count for nothing
const NARROW = 900; // a window of so many pixels shows the guidelines only when asked
const CONFIDENCE = [[null, "–"], [0.33, "low"], [0.67, "medium"], [1, "high"]];
const LEVELS = [ // how much better: the strengths −3 … 3
  "much better", "better", "slightly better", "equal", "slightly better", "better", "much better",
];

export default { render };

function render({ model, el }) {
  const body = make("div");
  const live = make("div", { class: "rk-status", role: "status", "aria-live": "polite" });
  const alarm = make("div", { class: "rk-alarm", role: "alert" });
  const root = make("div", {
    class: "rk", tabindex: "0", role: "region", "aria-label": "Rank answers",
    "data-lm-suppress-shortcuts": "true",
  }, body, live, alarm);
  el.append(root);

  let draft; // what the annotator has said about this question so far
  let draftKey; // the name under which it survives a reload of the page
  const drafts = new Map(); // the same, where the front end has no storage
  let compared; // cards whose differences are marked, at most two
  let release = () => {}; // ends the watch over the focus
  let turn, shownAt; // the question's number, and when it was shown
  let pending = null; // the message that waits for an answer
  let timer; // which tells that it waits
  let typed = []; // keys pressed meanwhile

  const state = () => model.get("state");
  const item = () => state().item;
  const count = () => item().answers.length;
  const pairwise = () => count() === 2;
  const say = (text) => { live.textContent = text; };
  const focus = () => root.focus({ preventScroll: true });

  // --- a question comes

  function start() {
    draft = { tiers: [], flagged: false, confidence: null, note: "", strength: 0, allBad: false };
    compared = [];
    turn = state().turn;
    shownAt = performance.now();
    if (!item()) return;
    draftKey = `rlhf-draft/${state().annotator}/${item().id}/${item().kind}`;
    if (item().ranks) takeBack(item());
    const kept = withStorage((storage) => storage.getItem(draftKey)) ?? drafts.get(draftKey);
    if (kept) Object.assign(draft, JSON.parse(kept));
  }

  function takeBack({ ranks, strength, flags }) { // the judgement that was undone, as it was
    const levels = [...new Set(ranks)].sort((a, b) => a - b);
    draft.tiers = levels.map((rank) => [...ranks.keys()].filter((card) => ranks[card] === rank));
    draft.flagged = flags.includes("flagged");
    draft.allBad = flags.includes("all_bad") || flags.includes("both_bad"); // of older versions
    draft.strength = (strength ?? 0) * Math.sign(ranks[0] - ranks[1]);
  }

  function keep() {
    drafts.set(draftKey, JSON.stringify(draft));
    withStorage((storage) => storage.setItem(draftKey, drafts.get(draftKey)));
  }

  function forget() {
    drafts.delete(draftKey);
    withStorage((storage) => storage.removeItem(draftKey));
  }

  function changed(words) {
    if (words) say(words);
    keep();
    draw();
  }

  // --- ranking

  const tierOf = (card) => draft.tiers.findIndex((tier) => tier.includes(card));
  const isTied = (card) => draft.tiers[tierOf(card)]?.length > 1;
  const rankOf = (card) => ranksOf(draft.tiers, count())[card];
  const ranked = () => draft.tiers.flat().length;
  const rankAs = (tiers, strength = 0, allBad = false) => // what was said of another ranking goes
    Object.assign(draft, { tiers, strength, allBad });

  // The next best. The same card again ties it with the one above, and once more unties it.
  function pick(card) {
    if (card >= count()) return;
    const at = tierOf(card);
    if (at < 0) put(card, draft.tiers.length);
    else if (isTied(card)) put(card, at + 1);
    else if (at > 0) put(card, at - 1, true);
    else say(`Answer ${card + 1} is the best already.`);
  }

  // On the tier of that index, to tie, or before it.
  function put(card, index, tie) {
    const others = (tier) => (tier ?? []).filter((other) => other !== card);
    const partner = tie ? others(draft.tiers[index])[0] : undefined;
    const below = draft.tiers.slice(index).flatMap(others);
    let tiers = without(draft.tiers, card);
    if (partner !== undefined) {
      tiers = tiers.map((tier) => (tier.includes(partner) ? [...tier, card] : tier));
    } else {
      const at = below.length ? tiers.findIndex((tier) => tier.includes(below[0])) : tiers.length;
      tiers = [...tiers.slice(0, at), [card], ...tiers.slice(at)];
    }
    rankAs(tiers);
    changed(`Answer ${card + 1} is ${ordinal(rankOf(card))}${isTied(card) ? ", tied" : ""}.`);
  }

  // Of two answers: below 0 the first is better, above 0 the second; with strength −3 … 3.
  function lean(value) {
    rankAs(value < 0 ? [[0], [1]] : value > 0 ? [[1], [0]] : [[0, 1]], value);
    const level = state().asks_strength ? LEVELS[value + 3] : "better";
    changed(value ? `Answer ${value < 0 ? 1 : 2} is ${level}.` : "Both are equal.");
  }

  function leanBy(step) {
    const next = Math.max(-3, Math.min(3, draft.strength + step));
    lean(state().asks_strength ? next : step);
  }

  function compare(card) {
    compared = compared.includes(card)
      ? compared.filter((other) => other !== card)
      : [...compared, card].slice(-2);
    const [a, b] = compared;
    changed(compared.length === 2
      ? `Differences between answers ${a + 1} and ${b + 1} are marked.`
      : "Choose a second answer to compare.");
  }

  // --- messages to the kernel, and its answers

  function submit() {
    const missing = count() - ranked();
    if (missing) {
      say(`${missing === 1 ? "One answer has" : `${missing} answers have`} no rank yet.`);
      return;
    }
    const strength = state().asks_strength && draft.strength ? Math.abs(draft.strength) : null;
    send({ type: "rank", ranks: ranksOf(draft.tiers, count()), strength, ...about() });
  }

  const about = () => ({
    uid: uid(),
    turn,
    seconds: (performance.now() - shownAt) / 1000,
    note: draft.note,
    confidence: draft.confidence,
    flags: [draft.flagged && "flagged", draft.allBad && "all_bad"].filter(Boolean),
  });

  function send(message) {
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
    warn("Waiting for the kernel: it is busy with another cell, or gone. Your answer is kept and " +
      "is saved as soon as the kernel is free. ", "Send again");
  }

  function warn(text, label) {
    typed = [];
    alarm.replaceChildren(text, make("button", { type: "button", onclick: again }, label));
  }

  function again() { // the same uid: what was saved already is not saved twice
    alarm.replaceChildren();
    dispatch();
  }

  function received() { // a new state: what was sent is saved, or failed, or another view's was
    const { saved, error, told } = state();
    if (error) {
      if (error.uid !== pending?.uid) return;
      clearTimeout(timer);
      warn(`Not saved: ${error.text} Your answer is kept. `, "Try again");
      return;
    }
    if (pending && saved !== pending.uid) return;
    clearTimeout(timer);
    if (pending) {
      if (pending.type !== "undo") forget(); // a half-made ranking is there when its turn comes
      const words = { undo: "Taken back: rank it again.", skip: "Skipped.", rank: "Saved." };
      say(told || words[pending.type]);
    }
    pending = null;
    root.removeAttribute("aria-busy");
    alarm.replaceChildren();
    if (state().turn !== turn) start();
    draw();
    for (const key of typed.splice(0)) press(key);
  }

  // --- keys

  const KEYS = {
    Enter: submit,
    Backspace: back,
    t: tie,
    b: allBad,
    f: flag,
    s: () => send({ type: "skip", ranks: [], ...about() }),
    u: () => send({ type: "undo", uid: uid() }),
    n: () => root.querySelector(".rk-note")?.focus(),
    g: () => root.querySelector("details summary")?.click(),
    c: nextConfidence,
    Escape: () => { release(); root.blur(); },
  };

  const commandOf = (key) => KEYS[key.length === 1 ? key.toLowerCase() : key];

  const digitOf = ({ key, code }) => // by the code, because Shift makes "!" of 1
    Number(/^Digit([1-6])$/.exec(code)?.[1] ?? /^[1-6]$/.exec(key)?.[0]);

  const last = () => draft.tiers.at(-1)?.at(-1);

  function back() {
    if (last() === undefined) return say("Nothing is ranked yet.");
    rankAs(without(draft.tiers, last()));
    changed("One step back.");
  }

  function tie() {
    if (last() === undefined) return say("Rank an answer first; t ties it with the one above.");
    pick(last());
  }

  function allBad() { // all tie, so the ranking makes no pair; the same key takes it back
    const words = pairwise() ? "Both are bad" : "All are bad";
    if (draft.allBad) rankAs([]);
    else rankAs([[...item().answers.keys()]], 0, true);
    changed(draft.allBad ? `${words}: Enter saves that.` : "One step back.");
  }

  function flag() {
    draft.flagged = !draft.flagged;
    changed(draft.flagged ? "Flagged: saved with your ranking, or with a skip." : "Flag removed.");
  }

  function nextConfidence() {
    const at = CONFIDENCE.findIndex(([value]) => value === draft.confidence);
    [draft.confidence] = CONFIDENCE[(at + 1) % CONFIDENCE.length];
    changed();
  }

  function press({ key, code, shiftKey }) {
    if (pending) { // counts for the next question, unless somebody was told to wait
      if (!alarm.hasChildNodes()) typed.push({ key, code, shiftKey });
      return;
    }
    const digit = digitOf({ key, code });
    if (!item()) {
      if (key === "u") KEYS.u();
    } else if (digit && shiftKey && digit <= count()) compare(digit - 1);
    else if (digit) pick(digit - 1);
    else if (pairwise() && key === "ArrowLeft") leanBy(-1);
    else if (pairwise() && key === "ArrowRight") leanBy(1);
    else commandOf(key)?.();
  }

  function isOurs(event) {
    if (item() && pairwise() && /^Arrow(Left|Right)$/.test(event.key)) return true;
    return Boolean(digitOf(event) || commandOf(event.key));
  }

  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the notebook must not see it: there "b" inserts a cell
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || key === "Tab") return;
    if (target.matches("input, textarea, select, summary")) {
      if (key === "Escape" || (key === "Enter" && target.matches("input"))) root.focus();
      return;
    }
    if (key === "Enter" && target.closest("button")) return; // presses that button
    if (!isOurs(event)) return;
    event.preventDefault();
    if (!event.repeat) press(event);
  });

  // --- drawing

  function draw() {
    const hasFocus = () => root.contains(root.getRootNode().activeElement);
    const had = hasFocus();
    body.replaceChildren(progress(), ...(item() ? question() : ending()));
    if (had && !hasFocus()) focus(); // else keys reach the notebook
  }

  function progress() {
    const { done, target, of, seconds } = state().progress;
    const left = Math.max(target - done, 0);
    let text = `${done} of ${target}${item() ? ` · ${of}` : ""}`;
    if (seconds && left) {
      const each = seconds < 10 ? seconds.toFixed(1) : Math.round(seconds);
      text += ` · ${each} s each · about ${duration(seconds * left)} left`;
    }
    return make("div", { class: "rk-progress" },
      make("progress", { max: target || 1, value: done, "aria-label": "Progress" }),
      make("span", {}, text));
  }

  function ending() {
    const lab = document.querySelector(".jp-Notebook");
    return [
      make("div", { class: "rk-done" }, `All ${state().progress.done} are ranked. Thank you!`),
      make("div", { class: "rk-next" }, "To see what they say, ", ...(lab
        ? ["choose ", make("b", {}, "Run › Run Selected Cell and All Below"), "."]
        : ["run the cells below this one."])),
      make("div", { class: "rk-bar" }, undoButton()),
    ];
  }

  function question() {
    const { answers } = item();
    return [
      guidelines(),
      prompt(),
      make("ol", { class: "rk-cards", style: `--columns: ${count() % 2 ? 3 : 2}` },
        ...answers.map((_, place) => card(place))),
      pairwise() && state().asks_strength ? scale() : lane(),
      buttons(),
      extras(),
    ];
  }

  const scrolls = (text) => (text.length > 600 ? "0" : null); // by keyboard, if it is focusable

  function prompt() { // a question, or the turns of a conversation with who said them
    const { turns } = item();
    const length = turns.reduce((sum, { content }) => sum + content.length, 0);
    const alone = turns.length === 1 && turns[0].role === "user";
    const words = alone ? [turns[0].content] : turns.map(({ role, content }) =>
      make("div", { class: "rk-turn" },
        make("span", { class: "rk-role" }, role), make("div", { dir: "auto" }, content)));
    return make("div", { class: "rk-prompt", dir: "auto", tabindex: scrolls({ length }) },
      ...words);
  }

  function guidelines() {
    const open = root.querySelector("details")?.open ??
      (state().progress.done === 0 && window.innerWidth > NARROW);
    const rules = Object.entries(model.get("guidelines"));
    return make("details", { open },
      make("summary", {}, "Guidelines"),
      make("dl", {}, ...rules.flatMap(([name, text]) =>
        [make("dt", {}, name), make("dd", {}, text)])));
  }

  function card(place) {
    const { answers } = item();
    const rank = rankOf(place);
    let label = rank ? `${ordinal(rank)}${isTied(place) ? " =" : ""}` : "";
    let spoken = rank ? `ranked ${label.replace("=", "tied")}` : "not ranked";
    if (draft.allBad) label = spoken = "bad";
    const choose = () => { focus(); press({ key: String(place + 1), code: "" }); };
    let words = [answers[place]];
    if (compared.length === 2 && compared.includes(place)) {
      const other = compared.find((card) => card !== place);
      words = differences(answers[place], answers[other])
        .map(([word, differs]) => (differs ? make("mark", {}, word) : word));
    }
    const head = make("div", {
      class: "rk-head", draggable: "true", title: "Drag to your ranking",
      ondragstart: (event) => carry(event, place),
    },
    make("button", {
      type: "button", class: "rk-rank", onclick: choose,
      "aria-label": `Answer ${place + 1}, ${spoken}`,
    },
    make("kbd", {}, String(place + 1)),
    make("span", { class: "rk-place" }, label)),
    make("button", {
      type: "button", class: "rk-diff", onclick: () => compare(place),
      "aria-pressed": String(compared.includes(place)),
      "aria-label": `Compare answer ${place + 1}`,
      title: "Compare with another answer (Shift and its number)",
    }, "≠"));
    return make("li", {
      class: `rk-card${rank ? " rk-ranked" : ""}${rank === 1 && !draft.allBad ? " rk-best" : ""}`,
      onclick: (event) => {
        if (!event.target.closest("button") && !String(getSelection())) choose();
      },
    },
    head,
    make("div", { class: "rk-text", dir: "auto", tabindex: scrolls(answers[place]) }, ...words));
  }

  // The ranking so far, best first. Cards are dropped here: on a tier to tie, beside it to insert.
  function lane() {
    const where = ({ clientX }, node) => {
      const box = node.getBoundingClientRect();
      const x = (clientX - box.left) / box.width;
      return x < 0.3 ? "before" : x > 0.7 ? "after" : "tie";
    };
    const taking = (event) => {
      event.preventDefault();
      event.stopPropagation();
    };
    const target = (index) => ({ // index: of a tier, or -1 for the lane itself
      ondragover: (event) => {
        taking(event);
        const { currentTarget } = event;
        currentTarget.dataset.drop = index < 0 ? "end" : where(event, currentTarget);
      },
      ondragleave: (event) => delete event.currentTarget.dataset.drop,
      ondrop: (event) => {
        taking(event);
        const carried = /^rank:(\d)$/.exec(event.dataTransfer.getData("text/plain"));
        const at = index < 0 ? "end" : where(event, event.currentTarget);
        focus();
        const before = index < 0 ? draft.tiers.length : index + (at === "after");
        if (carried) put(Number(carried[1]), before, at === "tie");
      },
    });
    const chip = (card) => make("span", {
      class: "rk-chip", draggable: "true", ondragstart: (event) => carry(event, card),
    }, String(card + 1));
    const hint = ranked() < count()
      ? `press, click or drag the ${ranked() ? "next best" : "best"} here` : "worst";
    const [left, right] = draft.allBad ? ["all bad", "makes no pair"] : ["best", hint];
    return make("ol", { class: "rk-lane", "aria-label": "Your ranking, best first", ...target(-1) },
      make("li", { class: "rk-end", "aria-hidden": "true" }, left),
      ...draft.tiers.map((tier, index) =>
        make("li", { class: "rk-tier", ...target(index) }, ...tier.map(chip))),
      make("li", { class: "rk-hint", "aria-hidden": "true" }, right));
  }

  function scale() { // seven points, from "1 is much better" to "2 is much better"
    const said = draft.strength !== 0 || (isTied(0) && !draft.allBad);
    const point = (level, i) => make("button", {
      type: "button", role: "radio", "aria-checked": String(said && draft.strength === i - 3),
      "aria-label": i === 3 ? "equal" : `Answer ${i < 3 ? 1 : 2} ${level}`,
      onclick: () => { focus(); lean(i - 3); },
    }, `${i < 3 ? "← " : ""}${level}${i > 3 ? " →" : ""}`);
    return make("div", { class: "rk-scale", role: "radiogroup", "aria-label": "How much better" },
      ...LEVELS.map(point));
  }

  function buttons() {
    const complete = ranked() === count();
    return make("div", { class: "rk-bar" },
      button("Enter", "submit", submit, { class: `rk-do${complete ? " rk-primary" : ""}` }),
      button("⌫", "back", back),
      button("t", "tie", tie),
      button("s", "skip", KEYS.s),
      button("f", "flag", flag, { "aria-pressed": String(draft.flagged) }),
      button("b", pairwise() ? "both bad" : "all bad", allBad,
        { "aria-pressed": String(draft.allBad) }),
      undoButton());
  }

  const undoButton = () => button("u", "undo the last", KEYS.u);

  const button = (key, label, action, attributes = {}) => make("button", {
    type: "button", class: "rk-do", "aria-keyshortcuts": key, disabled: Boolean(pending),
    onclick: () => { focus(); action(); }, ...attributes,
  }, make("kbd", {}, key), ` ${label}`);

  function extras() {
    const select = make("select", {
      "aria-label": "Confidence",
      onchange: (event) => {
        [draft.confidence] = CONFIDENCE[event.target.selectedIndex];
        keep();
      },
    }, ...CONFIDENCE.map(([value, label]) =>
      make("option", { selected: value === draft.confidence }, label)));
    const field = make("input", {
      class: "rk-note", type: "text", placeholder: "note (optional)", "aria-label": "Note",
      maxlength: "2000",
      oninput: (event) => {
        draft.note = event.target.value;
        keep();
      },
    });
    field.value = draft.note;
    return make("div", { class: "rk-extras" },
      make("label", {}, make("kbd", {}, "c"), " confidence ", select),
      make("label", {}, make("kbd", {}, "n"), " ", field));
  }

  // --- begin

  model.on("change:state", received);
  model.on("change:guidelines", draw);
  start();
  draw();
  // Only where it is new: a notebook that is opened again stays where it is.
  if (item() && !model.get("seen")) release = holdFocus(root, isOurs);
  model.send({ type: "hello" });
  return () => {
    clearTimeout(timer);
    release();
    model.off("change:state", received);
    model.off("change:guidelines", draw);
  };
}
