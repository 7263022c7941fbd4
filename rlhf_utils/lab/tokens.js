// Draws the inspector from the JSON beside this script; texts become text nodes only.
(() => {
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  root.querySelector(".plain").remove();
  root.addEventListener("keydown", (event) => event.stopPropagation()); // they are a notebook's shortcuts

  const SHADES = {
    logratio: ["log-ratio", "log π − log π_SFT of the token: above 0, PPO made it likelier."],
    value: ["value", "What the critic expects the answer to earn from this token on."],
    advantage: ["advantage", "How much better it went than the critic expected, before whitening."],
    sofar: ["reward so far", "The sum of −β · log-ratio up to this token; the score comes with the last."],
  };
  const SHOWN = 50; // results of a search

  const maker = (namespace) => (tag, options = {}, ...children) => {
    const made = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(options)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const el = maker("http://www.w3.org/1999/xhtml");
  const svg = maker("http://www.w3.org/2000/svg");
  const known = (x) => typeof x === "number";
  const signed = (x, places = 2) =>
    known(x) ? (x < 0 ? "−" : x > 0 ? "+" : "") + Math.abs(x).toFixed(places) : "–";
  const two = (x) => (known(x) ? x.toFixed(2) : "–");
  const share = (x) => (known(x) ? (100 * x).toFixed(x > 0 && x < 0.01 ? 1 : 0) + "%" : "–");

  // --- the numbers of a token

  function numbersOf(sample, shade) {
    if (shade !== "sofar") return sample[shade] || [];
    let sum = 0;
    return (sample.reward || []).map((paid) => (sum += paid));
  }

  // the colour is full for 5% of all tokens
  function reach(shade) {
    const all = data.watched.flatMap((one) => one.history.flatMap((s) => numbersOf(s, shade)));
    const sizes = all.filter(known).map(Math.abs).sort((a, b) => a - b);
    return Math.max(sizes[Math.floor(0.95 * (sizes.length - 1))] || 0, 0.05);
  }

  function paint(span, x, most) {
    if (!known(x)) return;
    const rgb = x < 0 ? "213,94,0" : "0,114,178";
    const strength = Math.min(Math.abs(x) / most, 1);
    span.style.background = `rgba(${rgb},${(0.6 * strength).toFixed(3)})`;
    span.style.borderBottomColor = `rgba(${rgb},${strength > 0.12 ? 1 : 0})`;
    span.classList.toggle("minus", x < 0);
  }

  // --- one answer

  function answerBox(title, sample, shade, most) {
    const read = el("div", { class: "read soft", "aria-live": "polite" }, "Point at a token, or use ← and →.");
    const numbers = Object.fromEntries(Object.keys(SHADES).map((s) => [s, numbersOf(sample, s)]));
    const spans = sample.tokens.map((text, i) => {
      const whole = text.replace(/\n/g, "⏎\n");
      const span = el("span", { class: "tok", onpointerenter: () => choose(i), onclick: () => choose(i) }, whole);
      if (i === sample.tokens.length - 1 && /^<.*>$/.test(text)) span.classList.add("end");
      paint(span, numbers[shade][i], most);
      return span;
    });
    let chosen = -1;
    function choose(i) {
      spans[chosen]?.classList.remove("on");
      chosen = Math.max(0, Math.min(i, spans.length - 1));
      spans[chosen].classList.add("on");
      const told = Object.entries(SHADES).map(([s, [name]]) => `${name} ${signed(numbers[s][chosen], 3)}`);
      read.textContent = `“${sample.tokens[chosen]}”, token ${chosen + 1}: ${told.join(" · ")}`;
    }
    function onkeydown(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        choose(chosen + step);
        event.preventDefault();
      }
    }
    const first = el("b", { class: "tok" }, sample.tokens[0].trim() || "␣");
    paint(first, numbers[shade][0], most);
    const sums = `reward ${signed(sample.score)} · KL ${two(sample.kl)} nats`;
    return el(
      "div", { class: "box" },
      el("div", {}, el("strong", {}, title), " ", el("span", { class: "soft" }, sums)),
      el("div", { class: "first" }, first,
        el("span", { class: "soft" }, `first token · ${SHADES[shade][0]} ${signed(numbers[shade][0])}`)),
      el("div", { class: "text", tabindex: 0, role: "group", "aria-label": `${title}: tokens`, onkeydown,
        onfocus: () => chosen < 0 && choose(0) }, ...spans),
      read,
    );
  }

  // --- how likely it begins to decline, over the updates

  function chart(history, at) {
    const last = history[history.length - 1].update;
    const x = (update) => 44 + (400 * update) / (last || 1);
    const y = (p) => 18 + 94 * (1 - p);
    const drawn = svg("svg", { viewBox: "0 0 520 140", role: "img",
      "aria-label": "how likely it begins to decline, by update" });
    for (const p of [0, 0.5, 1]) {
      drawn.append(svg("line", { x1: 44, x2: 444, y1: y(p), y2: y(p), stroke: "rgba(128,128,128,.3)" }));
      drawn.append(svg("text", { x: 38, y: y(p) + 4, "text-anchor": "end" }, share(p)));
    }
    for (const update of new Set([history[0].update, last]))
      drawn.append(svg("text", { x: x(update), y: 132, "text-anchor": "middle" }, `update ${update}`));
    if (!known(at.decline)) return drawn;
    const lines = [["decline_sft", "#848b96", "6 4", "π_SFT"], ["decline", "#0072B2", "", "π_RLHF"]];
    const rows = history.filter((s) => known(s.decline));
    const ends = [];
    for (const [key, stroke, dash, name] of lines) {
      const points = rows.map((s) => `${x(s.update)},${y(s[key])}`).join(" ");
      drawn.append(svg("polyline", { points, fill: "none", stroke, "stroke-width": 2.5, "stroke-dasharray": dash }));
      ends.push([name, y(rows[rows.length - 1][key])]);
    }
    const [upper, lower] = ends.sort((a, b) => a[1] - b[1]);
    const apart = Math.max(15 - (lower[1] - upper[1]), 0) / 2; // names must not overlap
    drawn.append(svg("text", { x: 452, y: upper[1] + 4 - apart }, upper[0]));
    drawn.append(svg("text", { x: 452, y: lower[1] + 4 + apart }, lower[0]));
    drawn.append(svg("circle", { cx: x(at.update), cy: y(at.decline), r: 5, fill: "#0072B2" }));
    return drawn;
  }

  function chance(history, at) {
    const told = known(at.decline)
      ? [el("span", { class: "share" }, `${share(at.decline_sft)} → ${share(at.decline)}`),
         el("span", { class: "soft" }, ` π_SFT → after update ${at.update}`)]
      : [el("span", { class: "soft" }, "not recorded")];
    const what = "How likely an answer opens with words such as “I can't” or “Sorry”, after which " +
      "demonstrations nearly always decline. Declining later is not counted.";
    return el("div", { class: "chance" },
      el("div", {}, el("strong", {}, "Begins to decline"), el("div", {}, ...told),
        el("div", { class: "soft" }, what)),
      chart(history, at));
  }

  // --- the watched prompts

  function watchedPart() {
    const [head, scale, body] = [el("div"), el("span"), el("div")];
    const state = { prompt: 0, shade: "logratio", at: Infinity };
    const prompts = el("select", { "aria-label": "prompt", onchange: () => set({ prompt: +prompts.value }) });
    data.watched.forEach((one, i) =>
      prompts.append(el("option", { value: i }, (one.kind ? `${one.kind}: ` : "") + one.prompt.slice(0, 120))));
    const slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "update",
      oninput: () => set({ at: +slider.value }) });
    const when = el("output");
    const group = `shade-${Math.random().toString(36).slice(2)}`; // two may stand on one page
    const shades = Object.entries(SHADES).map(([shade, [name]]) => {
      const radio = el("input", { type: "radio", name: group, value: shade, onchange: () => set({ shade }) });
      radio.checked = shade === state.shade;
      return el("label", {}, radio, name);
    });

    const switches = el("div", { class: "bar", role: "radiogroup", "aria-label": "colour of the tokens" }, ...shades);

    function set(changed) {
      Object.assign(state, changed);
      const one = data.watched[state.prompt];
      slider.max = one.history.length - 1;
      const place = Math.min(state.at, one.history.length - 1);
      slider.value = place;
      const before = one.history[0];
      const now = one.history[place];
      when.textContent = `update ${now.update}`;
      const most = reach(state.shade);
      const name = (s) => (s.update ? `After update ${s.update}` : "π_SFT, before PPO");
      head.replaceChildren(el("p", {}, el("strong", {}, one.prompt)), chance(one.history, now));
      scale.replaceChildren(`−${most.toFixed(2)}`, el("span", { class: "scale" }), `+${most.toFixed(2)}`);
      body.replaceChildren(
        el("p", { class: "soft" }, SHADES[state.shade][1], " Dashed below: negative."),
        el("div", { class: "two" },
          answerBox(name(before), before, state.shade, most),
          answerBox(name(now), now, state.shade, most)),
      );
    }
    set({});
    return el("div", {},
      el("div", { class: "bar" }, el("label", { class: "wide" }, prompts),
        el("label", {}, slider, " ", when)),
      head, el("div", { class: "bar" }, switches, scale), body);
  }

  // --- search over all answers

  function searchPart() {
    const { prompts, kinds, rows } = data.answers;
    const all = rows.map(([update, prompt, kind, answer, words, declined, score, kl, gold]) => ({
      update, kind: kinds[kind], prompt: prompts[prompt], answer, score, kl, gold, words, declined,
    }));
    const COLUMNS = [
      ["update", "update", String], ["kind", "kind", String], ["prompt", "prompt", String],
      ["answer", "answer", String], ["score", "reward", signed], ["gold", "gold", two],
      ["kl", "KL", two], ["words", "words", String], ["declined", "declined", (x) => (x ? "yes" : "no")],
    ].filter(([key]) => key !== "gold" || all.some((row) => known(row.gold)));
    const TEXTS = { kind: "", prompt: "long", answer: "long" }; // column → class; others hold numbers
    const styled = (key) => TEXTS[key] ?? "num";
    const order = { key: "score", down: true };
    const words = el("input", { type: "search", placeholder: "words", "aria-label": "text" });
    const pick = (label, options) => el("select", { "aria-label": label },
      ...options.map(([value, text]) => el("option", { value }, text)));
    const kind = pick("kind", [["", "every kind"], ...kinds.map((k) => [k, k || "no kind"])]);
    const declined = pick("declined", [["", "declined or not"], ["1", "declined"], ["0", "not declined"]]);
    const ranges = [["score", "reward"], ["kl", "KL"], ["words", "words"], ["update", "update"]].map(([key, name]) => {
      const ends = ["from", "to"].map((end) => el("input", { type: "number", step: "any", placeholder: end, "aria-label": `${name} ${end}` }));
      return { key, ends, label: el("span", {}, `${name} `, ends[0], " – ", ends[1]) };
    });
    const told = el("p", { class: "soft", "aria-live": "polite" });
    const body = el("tbody");
    const heads = COLUMNS.map(([key, name]) => {
      const button = el("button", { type: "button", onclick: () => {
        order.down = order.key === key ? !order.down : !(key in TEXTS);
        order.key = key;
        show();
      } }, name);
      return el("th", { class: styled(key) }, button);
    });

    function fits(row) {
      const text = `${row.prompt}\n${row.answer}`.toLowerCase();
      if (!text.includes(words.value.toLowerCase())) return false;
      if (kind.selectedIndex && row.kind !== kind.value) return false;
      if (declined.value && row.declined !== +declined.value) return false;
      return ranges.every(({ key, ends: [low, high] }) =>
        row[key] >= (low.value || -Infinity) && row[key] <= (high.value || Infinity));
    }

    function show() {
      const sign = order.down ? -1 : 1;
      const rank = (row) => row[order.key] ?? sign * Infinity; // what is unknown comes last
      const found = all.filter(fits).sort((a, b) => {
        const [x, y] = [rank(a), rank(b)];
        return x === y ? 0 : sign * (x < y ? -1 : 1);
      });
      const some = found.length > SHOWN ? `; the first ${SHOWN} are shown` : "";
      const counts = [found, all].map((rows) => rows.length.toLocaleString("en"));
      told.textContent = `${counts.join(" of ")} answers${some}.`;
      heads.forEach((head, i) => {
        const mine = COLUMNS[i][0] === order.key;
        const [said, arrow] = !mine ? ["none", ""] : order.down ? ["descending", " ↓"] : ["ascending", " ↑"];
        head.setAttribute("aria-sort", said);
        head.firstChild.textContent = COLUMNS[i][1] + arrow;
      });
      body.replaceChildren(...found.slice(0, SHOWN).map((row) =>
        el("tr", {}, ...COLUMNS.map(([key, name, form]) =>
          el("td", { "data-name": name, class: styled(key) }, form(row[key]))))));
    }

    show();
    return el("div", { class: "search", oninput: show },
      el("h4", {}, "Search all answers"),
      el("div", { class: "bar" }, el("label", { class: "wide" }, words), kind, declined),
      el("div", { class: "bar" }, ...ranges.map((range) => range.label)),
      told,
      el("table", { class: "found" }, el("thead", {}, el("tr", {}, ...heads)), body));
  }

  if (data.watched.length) root.append(watchedPart());
  if (data.answers.rows.length) root.append(searchPart());
  if (data.note) root.append(el("p", { class: "soft" }, data.note));
})();
