// Read-outs, key caps, the agent's bars, the tiles of the denoising, and the grid of branches.

import { draw } from "./screens.js";
import { keyLabel } from "./input.js";

const $ = (id) => document.getElementById(id);
const signed = (number) => (number > 0 ? "+" : number < 0 ? "−" : "") + Math.abs(number).toLocaleString("en", { maximumFractionDigits: 2 });
const percent = (part) => `${(100 * part).toLocaleString("en", { maximumFractionDigits: part < 0.1 && part > 0 ? 1 : 0 })} %`;
const words = (meaning) => meaning.toLowerCase().replace(/^(up|down)(left|right)/, "$1 $2").replace(/(\w)fire$/, "$1 + fire").replace("noop", "nothing");

/** The element of that tag and class, with text or children. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Writes text only where it changes: an unchanged output is not read out again. */
export function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

export function showState(state, started) {
  write("return", signed(state.return));
  write("reward", signed(state.reward));
  $("reward").dataset.sign = Math.sign(state.reward);
  write("end", percent(state.end));
  $("end-meter").value = state.end;
  write("step", state.step.toLocaleString("en"));
  write("fps", `${state.fps ? state.fps.toFixed(1) : "–"} of ${state.target_fps}`);
  write("seed", String(state.seed));
  write("start", state.start < 0 ? "the real game" : `no. ${state.start}`);
  write("horizon", started.horizon > 0 ? `${started.horizon} steps` : "none");
  write("value", state.value === null ? "–" : signed(state.value));
}

export function buildBars(kind, actions, shown) {
  $("agent").hidden = !shown;
  write("bars-label", kind === "vector" ? "Last action" : "Action probabilities");
  $("probabilities").classList.toggle("many", actions.length > 9);
  $("probabilities").replaceChildren(
    ...actions.map((name) => make("li", "", make("span", "", words(name)), make("span", "bar-track", make("span", "bar-fill")), make("span", "bar-number", "–"))),
  );
}

/** The chances of each action, or that each button is pressed; of other actions what was done, part by part. */
export function showBars(probabilities, action) {
  const parts = Array.isArray(action) ? action.flat(Infinity) : null;
  [...$("probabilities").children].forEach((row, i) => {
    if (probabilities.length) {
      row.querySelector(".bar-fill").style.transform = `scaleX(${probabilities[i].toFixed(4)})`;
      row.lastChild.textContent = percent(probabilities[i]);
    } else row.lastChild.textContent = i < (parts?.length ?? 0) ? signed(parts[i]) : "–";
    row.classList.toggle("taken", parts ? probabilities.length > 0 && parts[i] > 0 : i === action);
  });
}

/** What a key alone does, where that has a word: {"a": "LEFT"}. */
export function keyMeanings(world) {
  const alone = world.keys.filter(([keys]) => keys.length === 1);
  return Object.fromEntries(alone.map(([[key], action]) => [key, words(world.actions[action] ?? "")]));
}

/** The key caps below the screen: moves as a cluster, the others in a row. */
export function buildKeys(world) {
  const meanings = keyMeanings(world);
  const cap = (key) => {
    const face = make("span", `cap ${key}`, keyLabel(key));
    if (meanings[key]) face.append(make("small", "", meanings[key]));
    face.dataset.key = key;
    return face;
  };
  const moves = ["w", "a", "s", "d"].filter((key) => world.key_names.includes(key));
  const others = world.key_names.filter((key) => !moves.includes(key) && !(world.mouse && ["left", "right"].includes(key)));
  const groups = [];
  const flat = !moves.includes("w") && !moves.includes("s");
  if (moves.length) groups.push(make("div", flat ? "cap-row" : "cluster", ...moves.map(cap)));
  if (others.length) groups.push(make("div", "cap-row", ...others.map(cap)));
  if (moves.length) groups.push(make("p", "hint", "or arrow keys"));
  $("keys").replaceChildren(...groups);
}

/** Lights the caps of the keys that are held, or those of the agent's action. */
export function lightKeys(down, agent) {
  for (const cap of document.querySelectorAll("[data-key]")) {
    const on = down.includes(cap.dataset.key);
    cap.classList.toggle(cap.closest(".cross") ? "on" : "down", on);
    cap.classList.toggle("agent", on && agent);
  }
}

/** The keys that an action stands for; [] where there is none. */
export function keysOf(world, action) {
  const names = world.kind === "buttons" && Array.isArray(action) ? world.actions.filter((_, i) => i < action.length - 2 && action[i]) : [];
  return world.keys.find(([, each]) => each === action)?.[0] ?? names;
}

/** The tiles of the denoising: one a step, and the spread. */
export function showDenoising(frame) {
  const tiles = $("denoising-steps");
  const id = frame.kind === 5 ? "spread" : `noise-${frame.index}`;
  let tile = tiles.querySelector(`[data-tile="${id}"]`);
  if (!tile) {
    const text = frame.kind === 5 ? `spread of ${frame.index}` : frame.index ? `step ${frame.index}` : "noise";
    tile = make("figure", "", make("canvas", ""), make("figcaption", "", text));
    tile.dataset.tile = id;
    tile.dataset.order = frame.kind === 5 ? 99 : frame.index;
    const next = [...tiles.children].find((each) => +each.dataset.order > +tile.dataset.order);
    tiles.insertBefore(tile, next ?? null);
  }
  draw(tile.firstChild, frame);
  // The heat map takes longer than a step: one of an earlier frame stays, dimmed, until the next comes.
  const spread = tiles.querySelector("[data-tile=spread]");
  spread?.classList.toggle("stale", spread.firstChild.dataset.step !== String(frame.step));
}

/** The grid of futures. */
export class Branches {
  constructor(choose) {
    this.choose = choose;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
  }

  /** Takes what is sent from now on for branches that the player wants to see. */
  ask() {
    this.wanted = true;
    this.frames = null;
  }

  show(message) {
    // Some may be on their way when the player closes the grid: it must not open again.
    if (!this.wanted || (this.frames && !$("branches").open)) return;
    if (!this.frames) this.open(message);
    message.labels.forEach((label, i) => {
      const [name, sum] = this.cards[i].querySelectorAll("span > *");
      name.textContent = words(label);
      sum.textContent = message.ended[i] ? "ends" : message.rewards[i] ? signed(message.rewards[i]) : "";
    });
    const text = message.kind === "dice" ? "The same actions, other dice." : "Each action, held from here on.";
    write("branches-text", `${text} ${message.done ? "Choose one to go on in it." : `Dreaming step ${message.shown} of ${message.steps} …`}`);
  }

  open(message) {
    this.frames = Array.from({ length: message.count }, () => new Map());
    this.cards = this.frames.map((_, i) => {
      const card = make("button", "branch", make("canvas", ""), make("span", "", make("b", ""), make("i", "")));
      card.type = "button";
      card.dataset.index = i;
      card.onclick = () => {
        this.wanted = false;
        this.choose(i);
      };
      return card;
    });
    $("branch-grid").replaceChildren(...this.cards);
    const { count } = message;
    $("branch-grid").style.setProperty("--columns", Math.ceil(count / Math.ceil(count / 6)));
    $("branches").showModal();
    this.cards[0].focus({ preventScroll: true });
    let at = 0;
    const turn = () => {
      if (!$("branches").open) return;
      at += 1;
      this.frames.forEach((frames, i) => {
        const steps = [...frames.keys()].sort((a, b) => a - b);
        // Over the steps there are, and still for a moment at the last.
        const shown = this.still.matches ? steps.length - 1 : Math.min(at % (steps.length + 6), steps.length - 1);
        if (steps.length) draw(this.cards[i].firstChild, frames.get(steps[shown]));
      });
      setTimeout(turn, 110);
    };
    turn();
  }

  take(frame) {
    this.frames?.[frame.index]?.set(frame.step, frame);
  }

  close() {
    if (!$("branches").open) return;
    this.wanted = false;
    $("branches").close();
  }
}
