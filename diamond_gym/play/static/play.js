// The page: what the server says is shown, and what the player does is sent.

import { Connection, token, withToken } from "./connection.js";
import { Input, keyLabel } from "./input.js";
import { Branches, buildBars, buildKeys, keyMeanings, keysOf, lightKeys, make, showBars, showDenoising, showState, write } from "./panels.js";
import { Picker } from "./picker.js";
import { Curve, Screens } from "./screens.js";

const $ = (id) => document.getElementById(id);
const screens = new Screens();
const returns = new Curve("return-curve", "#6fd3e8", "Return", 0);
const drift = new Curve("divergence-curve", "#f4b860", "Difference in levels", 1);

let worlds = [];
let wanted = null; // the `start` that is under way or was the last
let started = null; // the server's answer
let state = null;
let down = []; // keys that the player holds

const connection = new Connection({
  message: (message) => answers[message.type]?.(message),
  frame: (frame) => {
    if (frame.kind === 7) screens.keep(frame, true);
    else if (frame.kind === 3) branches.take(frame);
    else if (frame.kind === 4 || frame.kind === 5) showDenoising(frame);
    else screens.show(frame);
    if (frame.kind !== 0) return;
    if (!state || state.seek === null) screens.keep(frame);
    if ($("veil").dataset.about === "loading") veil();
  },
  lost: (left) => {
    mark("lost", "Reconnecting");
    veil("lost", "The connection is lost", `Trying again. The dream is kept for another ${Math.ceil(left / 1000)} s.`);
  },
  ended: (why) => {
    const texts = {
      ended: ["The server has ended", "Start it again with “diamond-gym play”."],
      gone: ["The server cannot be reached", "Is “diamond-gym play” still running?"],
      refused: ["The server has closed the connection", "It did not accept what this page sent."],
      busy: ["All places are taken", "Too many people are connected. Try again in a moment."],
      elsewhere: ["This dream goes on in another tab", ""],
    };
    mark(why === "busy" ? "busy" : "closed", why === "busy" ? "Busy" : "Closed");
    const again = why === "elsewhere" ? ["Go on here", () => connection.reopen()] : ["Try again", () => connection.reopen(null)];
    veil("ended", ...texts[why], ...again);
  },
});
const send = (type, fields) => connection.send(type, fields);

const answers = {
  hello({ resumed }) {
    forget();
    send("visible", { on: isVisible() });
    if (resumed) return send("thumbnails", { count: 24 }); // for the strip, if this page is a new one
    started = state = null;
    document.body.dataset.world = "none";
    if (wanted) return start(wanted);
    mark("ready", "Ready");
    veil();
    const asked = new URLSearchParams(location.search).get("world");
    const world = worlds.find((each) => each.name.toLowerCase() === asked?.toLowerCase());
    if (world) start({ world: world.name });
    else picker.open();
  },

  started(message) {
    const anew = !started || started.name !== message.name || started.model !== message.model;
    started = message;
    state = null;
    if ($("picker").open) $("picker").close();
    branches.close();
    document.body.dataset.world = message.name;
    document.title = `${message.name} · diamond-gym`;
    write("world-name", message.name);
    write("model-name", message.model);
    $("world-image").hidden = !message.preview;
    if (message.preview) $("world-image").src = withToken(message.preview);
    returns.clear();
    drift.clear();
    if (anew) input.use(message.key_names);
    input.wantsMouse = message.mouse;
    input.buildPad($("pad"), keyMeanings(message));
    buildKeys(message);
    buildBars(message.kind, message.kind === "buttons" ? [] : message.actions, Boolean(message.agent));
    $("inset").hidden = true;
    $("control").querySelector("[data-value=agent]").disabled = !message.agent;
    write("control-hint", message.agent ? "Hold a key at any moment to take over from the agent." : "This model comes without an agent.");
    $("quality").replaceChildren(...message.qualities.map((name) => segment(name)));
    $("real-switch").disabled = !message.real;
    write("real-text", message.real ? "A new dream from the real game’s frames; both get the same actions." : "Not here: it needs a game of ale-py (pip install \"diamond-gym[atari]\").");
    $("branch-actions").disabled = message.kind !== "discrete";
    document.body.classList.toggle("looks", message.mouse);
    $("mouse-hint").hidden = !message.mouse;
    const touched = document.body.classList.contains("touch");
    write("mouse-hint", touched ? "Drag over the picture to look around." : "Click the picture to look around with the mouse; Esc lets go of it. C crouches: browsers keep Ctrl for themselves.");
    $("slow").hidden = !message.slow;
    write("slow", message.stages > 1 ? "This model has two stages: on a CPU it takes seconds for a frame." : "This model is slow on this machine.");
    $("help-move").replaceChildren(...message.key_names.map((key) => make("kbd", "", keyLabel(key))));
    $("denoising-steps").replaceChildren();
    screens.begin(message.size); // once all else has its height
    veil("loading", "Falling asleep …", message.slow ? "The first frame may take a while." : "");
  },

  state(message) {
    const before = state;
    state = message;
    document.body.dataset.by = message.acting ?? message.control;
    mark(message.paused || message.hidden ? "paused" : "live", message.paused ? "Paused" : message.acting === "agent" ? "Agent plays" : "Live");
    showState(message, started);
    showBars(message.probabilities, message.action);
    lightAction();
    if (message.seek === null && (!before || message.step !== before.step)) returns.add(message.step, message.return);
    if (before && before.quality !== message.quality) $("denoising-steps").replaceChildren();
    showTransport(message);
    found(message.seek ?? message.step);
    showTimeline(message);
    const real = message.real !== null;
    if (real !== $("screens").classList.contains("compared")) screens.compare(real);
    $("real-switch").setAttribute("aria-checked", String(real));
    if (real) {
      write("divergence", message.real.ended ? "the game is over" : `${message.real.divergence.toFixed(1)} levels`);
      if (message.seek === null) drift.add(message.step, message.real.divergence);
    }
    $("denoise-switch").setAttribute("aria-checked", String(message.denoise));
    if ($("denoising").hidden === message.denoise) {
      $("denoising").hidden = !message.denoise;
      screens.layout();
    }
    $("record").setAttribute("aria-pressed", String(message.recording !== null));
    write("record-text", message.recording === null ? "Record" : `${message.recording} steps`);
    if (!message.branching) branches.close();
    if (before && message.step > before.step && (message.terminated || message.truncated))
      flash(message.terminated ? "The model says: game over. A new dream begins." : "The horizon is reached. A new dream begins.");
    else if (!$("branches").open && (message.seek !== null || !["loading", "flash"].includes($("veil").dataset.about)))
      message.hidden && !message.paused ? pill("Paused while you look elsewhere") : message.paused ? pill(message.seek === null ? "Paused" : `Step ${message.seek}`) : veil();
  },

  branches: (message) => branches.show(message),

  recorded(message) {
    $("downloads").hidden = false;
    write("recording-text", `${message.steps} steps${message.store ? `, also in ${message.store}` : ""}`);
    $("download-links").replaceChildren(...message.formats.map((format) => {
      const button = make("button", "", { mp4: "MP4", gif: "GIF", log: "Action log" }[format] ?? format);
      button.type = "button";
      button.dataset.format = format;
      button.onclick = () => {
        button.disabled = true;
        send("export", { format });
      };
      return button;
    }));
  },

  exported({ format, url }) {
    const button = $("download-links").querySelector(`[data-format=${format}]`);
    if (button) button.disabled = false;
    const link = make("a", "");
    Object.assign(link, { href: withToken(url), download: `${started?.name ?? "dream"}-${url.split("/").pop()}` });
    link.click();
  },

  notice: ({ text }) => notify(text),

  error({ code, text }) {
    notify(text);
    forget();
    for (const button of $("download-links").children) button.disabled = false;
    if (!started && wanted) {
      wanted = null;
      veil();
      mark("ready", "Ready");
      picker.open();
    }
    if (code === "bad_message") console.error(text);
  },

  busy({ limit }) {
    mark("busy", "Busy");
    veil("busy", "All places are taken", `This server dreams for ${limit} ${limit === 1 ? "player" : "players"} at a time. Try again once one has left.`, "Try again", () => start(wanted));
  },

  closed({ reason }) {
    write("veil-text", reason);
  },
};

// What the page shows

function mark(name, text) {
  document.body.dataset.state = name;
  write("status", text);
}

/** Words over the picture; without any, they go. */
function veil(about = "", title = "", text = "", button = "", action = null) {
  $("veil").hidden = !about;
  $("veil").dataset.about = about;
  $("veil").classList.toggle("light", ["pause", "flash"].includes(about));
  write("veil-title", title);
  write("veil-text", text);
  $("veil-button").hidden = !button;
  $("veil-button").textContent = button;
  $("veil-button").onclick = action;
}

const pill = (text) => veil("pause", text);

function flash(text) {
  veil("flash", text);
  setTimeout(() => $("veil").dataset.about === "flash" && (state?.paused ? pill("Paused") : veil()), 1800);
}

let fading;
function notify(text) {
  write("notices", text);
  clearTimeout(fading);
  fading = setTimeout(() => write("notices", ""), 6000);
}

function segment(name) {
  const button = make("button", "", name);
  button.type = "button";
  button.dataset.value = name;
  return button;
}

function showTransport(message) {
  const paused = message.paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause-icon").setAttribute("href", paused ? "#i-play" : "#i-pause");
  write("pause-text", message.seek !== null ? "Play on from here" : paused ? "Go on" : "Pause");
  if (document.activeElement !== $("speed")) setRange($("speed"), message.target_fps);
  write("speed-text", `${message.target_fps}/s`);
  for (const button of $("quality").children) button.setAttribute("aria-pressed", String(button.dataset.value === (message.quality ?? started.own_quality)));
  for (const button of $("control").children) button.setAttribute("aria-pressed", String(button.dataset.value === message.control));
}

function setRange(range, value) {
  range.value = value;
  range.style.setProperty("--fill", `${(100 * (value - range.min)) / (range.max - range.min || 1)}%`);
}

function showTimeline({ timeline: { first, last }, seek, step, target_fps }) {
  const range = $("timeline");
  screens.setRange(first, last);
  range.min = first;
  range.max = last;
  range.disabled = last <= first;
  if (sought.last === null) range.value = seek ?? step; // else it is ahead of what the server shows
  const ago = (last - (seek ?? step)) / target_fps;
  const text = seek !== null ? `Step ${seek}, ${ago < 10 ? ago.toFixed(1) : Math.round(ago)} s ago` : last > first ? "Drag to rewind" : "Nothing to rewind yet";
  write("timeline-text", text);
  range.setAttribute("aria-valuetext", text);
  document.body.toggleAttribute("data-seek", seek !== null);
  $("resume-last").hidden = seek === null;
  $("pause").classList.toggle("primary", seek !== null);
}

/** Lights the caps of the keys held, or of what the agent does. */
function lightAction() {
  const agent = !down.length && state?.acting === "agent";
  lightKeys(agent && started ? keysOf(started, state.action) : down, agent);
}

// What the player does

function start(fields) {
  wanted = fields;
  mark("connecting", "Loading");
  veil("loading", "Opening the model …");
  send("start", fields);
}

const picker = new Picker(start);
const branches = new Branches((index) => {
  send("choose", { index });
  goOn();
});
const goOn = () => wasPlaying && send("pause", { on: false });
let wasPlaying = false;

function branch(kind) {
  if (!state || state.branching) return;
  wasPlaying = !state.paused;
  branches.ask();
  send("branch", { kind });
}

$("branches").addEventListener("close", () => {
  if (!branches.wanted) return; // one was chosen, or the server went on
  branches.wanted = false;
  send("cancel_branch");
  goOn();
});

const input = new Input({
  changed: (keys) => {
    down = keys;
    send("keys", { down });
    lightAction();
  },
  mouse: (fields) => send("mouse", fields),
  start: togglePause,
});
input.watchMouse($("dream"));

function togglePause() {
  if (!state) return;
  if (state.seek !== null) resumeFrom();
  else send("pause", { on: !state.paused });
}

const sought = { last: null, asked: null }; // the step to look back at, and the one that the server was asked for

/** Looks back: one step is asked for at a time, and the newest wins. */
function seek(step) {
  if (!state) return;
  sought.last = Math.max(state.timeline.first, Math.min(state.timeline.last, step));
  if (sought.asked === null) askForSought();
}

function askForSought() {
  sought.asked = sought.last;
  send("seek", { step: sought.asked });
}

/** Takes note that the server shows a step. */
function found(step) {
  if (step !== sought.asked) return;
  sought.asked = null;
  if (sought.last !== step) askForSought();
  else sought.last = null;
}

const forget = () => Object.assign(sought, { last: null, asked: null });

function resumeFrom() {
  const step = state.seek;
  forget();
  returns.add(step, state.return);
  screens.clearFilm(step);
  send("resume_from", { step });
  send("pause", { on: false });
}

function toggleControl() {
  if (started?.agent) send("control", { by: state.control === "agent" ? "human" : "agent" });
}

const actions = {
  reset: () => send("reset"),
  pause: togglePause,
  "step-once": () => send("step"),
  "new-start": () => send("new_start"),
  "resume-last": () => send("pause", { on: false }),
  "branch-dice": () => branch("dice"),
  "branch-actions": () => branch("actions"),
  record: () => state && send("record", { on: state.recording === null }),
  "real-switch": () => send("real", { on: state.real === null }),
  "denoise-switch": () => send("denoise", { on: !state.denoise }),
  worlds: () => picker.open(started?.name),
  help: () => $("help-dialog").showModal(),
};
for (const [id, action] of Object.entries(actions))
  $(id).addEventListener("click", () => {
    if (state || id === "worlds" || id === "help") action();
  });
// After a click the keys are for the world again; who came by the keyboard stays where they are.
document.querySelector("main").addEventListener("click", (event) => {
  if (event.detail && event.target.closest("button, .screen") && !document.querySelector("dialog[open]")) $("dream").focus({ preventScroll: true });
});

const shortcuts = { p: "pause", ".": "step-once", n: "new-start", backspace: "reset", r: "record", b: "branch-dice", escape: "resume-last", "?": "help" };
const own = { ",": () => state && seek((sought.last ?? state.seek ?? state.step) - 1), t: toggleControl };

addEventListener("keydown", (event) => {
  const dialog = document.querySelector("dialog[open]");
  if (dialog?.id === "branches" && /^[1-9]$/.test(event.key)) branches.cards[event.key - 1]?.click();
  if (dialog || event.ctrlKey && event.key !== "Control" || event.metaKey || event.altKey) return;
  const at = event.target;
  const typing = at.matches("select, input:not([type=range])");
  const pressing = [" ", "Enter"].includes(event.key) && at.matches("button, a");
  const sliding = event.key.startsWith("Arrow") && at.matches("input[type=range]");
  if (typing || pressing || sliding) return;
  if (input.key(event)) return event.preventDefault(); // a key that the world uses belongs to the world
  const key = event.key.toLowerCase();
  if (event.repeat && key !== "." && key !== ",") return;
  if (shortcuts[key]) event.preventDefault();
  if (shortcuts[key]) $(shortcuts[key]).hidden || $(shortcuts[key]).click();
  else own[key]?.();
});
addEventListener("keyup", (event) => input.key(event));

$("timeline").addEventListener("input", ({ target }) => seek(Number(target.value)));
$("speed").addEventListener("input", (event) => {
  setRange(event.target, event.target.value);
  write("speed-text", `${event.target.value}/s`);
  send("speed", { fps: Number(event.target.value) });
});
$("quality").addEventListener("click", ({ target }) => target.dataset.value && send("quality", { name: target.dataset.value }));
$("control").addEventListener("click", ({ target }) => target.dataset.value && send("control", { by: target.dataset.value }));
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
$("picker").addEventListener("close", () => $("dream").focus({ preventScroll: true }));

// Whether anybody looks, and whether with fingers

const isVisible = () => document.visibilityState === "visible" && document.hasFocus();
function lookAgain() {
  if (!isVisible()) input.clear();
  send("visible", { on: isVisible() });
}
document.addEventListener("visibilitychange", lookAgain);
addEventListener("blur", lookAgain);
addEventListener("focus", lookAgain);

const touch = () => document.body.classList.add("touch");
if (matchMedia("(pointer: coarse)").matches) touch();
addEventListener("touchstart", touch, { once: true, passive: true });

veil("loading", "Connecting …");
try {
  const answer = await fetch(withToken("/api/worlds"));
  if (!answer.ok) throw new Error(`${answer.status}`);
  worlds = (await answer.json()).worlds;
  picker.fill(worlds);
  connection.open();
} catch {
  mark("closed", "Closed");
  veil("ended", "The server cannot be reached", token ? "Is “diamond-gym play” still running?" : "Open the whole address that the command printed, with its token.", "Try again", () => location.reload());
}
