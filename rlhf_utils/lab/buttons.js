// Buttons that steer a running 04. Every text of a model goes through textContent.

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  Object.assign(made, attributes);
  return made;
}

// The kernel is busy: whether these messages reach it says whether buttons can work here. The first
// ones may go to its busy thread, before JupyterLab has made another one.
function initialize({ model }) {
  let left = 20;
  const hello = () => {
    if (model.get("heard") || !left--) return;
    model.send({ do: "hello" });
    setTimeout(hello, 250);
  };
  hello();
}

function render({ model, el }) {
  const box = element("div", "", { className: "steer" });
  const ask = (event, action, what = "") => {
    event.preventDefault();
    model.send({ do: action, what });
  };
  const button = (text, act, title = "") => {
    const made = element("button", text, { type: "button", title });
    made.addEventListener("click", act);
    return made;
  };

  const state = element("span", "", { className: "steer-state" });
  const pause = button("", (event) => ask(event, model.get("state") === "paused" ? "resume" : "pause"));
  const stop = button("■ Stop and save", (event) => ask(event, "stop"),
    "Ends the loop after this update, with a checkpoint");

  const setter = (name, label) => {
    const form = element("form", "", { className: "steer-field" });
    const input = element("input", "", { type: "text", inputMode: "decimal", spellcheck: false });
    const caption = element("label", label);
    caption.append(input);
    const show = () => {
      if (document.activeElement !== input) input.value = model.get(name);
    };
    model.on(`change:${name}`, show);
    show();
    form.append(caption, element("button", "Set"));
    form.addEventListener("submit", (event) => {
      ask(event, "set", `${name}=${input.value}`);
      input.blur();
      show();
    });
    return form;
  };

  const sample = element("form", "", { className: "steer-sample" });
  const prompt = element("input", "", { type: "text", placeholder: "A prompt to answer now", maxLength: 2000 });
  prompt.setAttribute("aria-label", "A prompt to answer now");
  sample.append(prompt, element("button", "Sample now"));
  sample.addEventListener("submit", (event) => ask(event, "sample", prompt.value));

  const log = element("ol", "", { className: "steer-log" });
  log.setAttribute("aria-live", "polite");

  const draw = () => {
    const now = model.get("state");
    state.textContent = now === "idle" ? "not running" : now;
    box.dataset.state = now;
    pause.textContent = now === "paused" ? "▶ Resume" : "❚❚ Pause";
    pause.title = now === "paused" ? "Goes on" : "Holds after this update";
    log.replaceChildren(...model.get("told").map((text) => element("li", text)));
  };
  model.on("change:state", draw);
  model.on("change:told", draw);
  draw();

  const line = element("div", "", { className: "steer-line" });
  line.append(state, pause, stop, setter("kl_coef", "β"), setter("learning_rate", "learning rate"));
  box.append(line, sample, log);
  // JupyterLab takes single keys for shortcuts
  box.addEventListener("keydown", (event) => event.stopPropagation());
  el.append(box);
}

export default { initialize, render };
