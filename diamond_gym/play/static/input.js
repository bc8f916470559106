// Keyboard, touch, gamepad and mouse, all of them turned into the protocol's names of keys.

const NAMES = { ArrowUp: "w", ArrowDown: "s", ArrowLeft: "a", ArrowRight: "d", " ": "space", Control: "ctrl", c: "ctrl", Shift: "shift" };
const SHOWN = { space: "Space", ctrl: "C", shift: "Shift", left: "Click", right: "Right click" };
const MOVES = ["w", "a", "s", "d"];

/** The protocol's name of a key; digits by their place, as shift makes other characters of them. */
export function keyName(event) {
  const key = event.code?.startsWith("Digit") ? event.code[5] : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return NAMES[key] ?? key.toLowerCase();
}

export const keyLabel = (key) => SHOWN[key] ?? key.toUpperCase();

/** The keys that are held, whichever device holds them; `changed` is called with all of them. */
export class Input {
  constructor({ changed, mouse, start }) {
    this.changed = changed;
    this.mouse = mouse;
    this.start = start;
    this.held = new Map(); // device -> its keys
    this.last = "";
    this.names = new Set();
    this.motion = { dx: 0, dy: 0, buttons: 0, sent: 0 };
    addEventListener("gamepadconnected", () => this.pollGamepad());
  }

  /** The keys of the world that is played. */
  use(names) {
    this.names = new Set(names);
    this.clear();
  }

  hold(device, keys) {
    this.held.set(device, [...keys].filter((key) => this.names.has(key)));
    const down = [...new Set([...this.held.values()].flat())].sort();
    if (down.join() === this.last) return;
    this.last = down.join();
    this.changed(down);
  }

  clear() {
    for (const device of this.held.keys()) this.hold(device, []);
  }

  /** A key of the keyboard; whether the world uses it. */
  key(event) {
    const key = keyName(event);
    const down = new Set(this.held.get("keyboard"));
    if (event.type === "keydown") down.add(key);
    else down.delete(key);
    this.hold("keyboard", down);
    return this.names.has(key);
  }

  /** The touch pad: a cross for the moves that the world has, and a button for each other key. */
  buildPad(pad, labels) {
    pad.replaceChildren();
    const moves = MOVES.filter((key) => this.names.has(key));
    if (moves.length) pad.append(this.cross(moves));
    const buttons = document.createElement("div");
    buttons.className = "pad-buttons";
    const others = [...this.names].filter((key) => !MOVES.includes(key));
    for (const key of others) {
      const button = document.createElement("button");
      button.type = "button";
      button.tabIndex = -1;
      button.className = `pad-button${others.length > 2 ? " minor" : ""}`;
      button.textContent = labels[key] ?? keyLabel(key);
      button.dataset.key = key;
      button.onpointerdown = (event) => {
        event.preventDefault();
        button.setPointerCapture(event.pointerId);
        this.hold(`touch-${key}`, [key]);
      };
      button.onpointerup = button.onpointercancel = () => this.hold(`touch-${key}`, []);
      button.oncontextmenu = (event) => event.preventDefault();
      buttons.append(button);
    }
    pad.append(buttons);
  }

  cross(moves) {
    const cross = document.createElement("div");
    const flat = !moves.includes("w") && !moves.includes("s");
    const tall = !moves.includes("a") && !moves.includes("d");
    cross.className = `cross${flat ? " flat" : tall ? " tall" : ""}`;
    const arrows = { w: ["up", "▲"], a: ["left-arrow", "◀"], s: ["down-arrow", "▼"], d: ["right-arrow", "▶"] };
    for (const key of moves) {
      const arrow = document.createElement("i");
      [arrow.className, arrow.textContent] = arrows[key];
      arrow.dataset.key = key;
      cross.append(arrow);
    }
    const move = (event) => {
      const box = cross.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width - 0.5;
      const y = (event.clientY - box.top) / box.height - 0.5;
      this.hold("cross", flat ? [x < 0 ? "a" : "d"] : tall ? [y < 0 ? "w" : "s"] : directions(x, y, 0.12));
    };
    cross.onpointerdown = (event) => {
      event.preventDefault();
      cross.setPointerCapture(event.pointerId);
      move(event);
    };
    cross.onpointermove = (event) => cross.hasPointerCapture(event.pointerId) && move(event);
    cross.onpointerup = cross.onpointercancel = () => this.hold("cross", []);
    cross.oncontextmenu = (event) => event.preventDefault();
    return cross;
  }

  pollGamepad() {
    const pad = navigator.getGamepads().find((each) => each?.connected);
    if (!pad) return this.hold("gamepad", []);
    const pressed = (i) => pad.buttons[i]?.pressed;
    const keys = directions(pad.axes[0] ?? 0, pad.axes[1] ?? 0, 0.4);
    [[12, "w"], [13, "s"], [14, "a"], [15, "d"]].forEach(([i, key]) => pressed(i) && keys.push(key));
    if ([0, 1, 2, 3].some(pressed)) keys.push("space");
    if (pressed(6)) keys.push("right");
    if (pressed(7)) keys.push("left");
    this.hold("gamepad", keys);
    const [x, y] = [pad.axes[2] ?? 0, pad.axes[3] ?? 0];
    if (Math.hypot(x, y) > 0.2) this.turn(x * 12, y * 12);
    if (pressed(9) && !this.started) this.start();
    this.started = pressed(9);
    requestAnimationFrame(() => this.pollGamepad());
  }

  /** The mouse over a canvas, locked to it by a click. */
  watchMouse(canvas) {
    const locked = () => document.pointerLockElement === canvas;
    const buttons = (event) => {
      if (!locked()) return;
      event.preventDefault();
      this.motion.buttons = event.buttons & 3;
      this.sendMotion();
    };
    canvas.addEventListener("mousedown", (event) => {
      if (!this.wantsMouse) return;
      if (locked()) buttons(event);
      else canvas.requestPointerLock()?.catch?.(() => {});
    });
    canvas.addEventListener("mouseup", buttons);
    canvas.addEventListener("contextmenu", (event) => this.wantsMouse && event.preventDefault());
    canvas.addEventListener("mousemove", (event) => locked() && this.turn(event.movementX, event.movementY));
    canvas.addEventListener("touchmove", ({ changedTouches: [touch] }) => {
      if (!this.wantsMouse) return;
      if (this.finger?.identifier === touch.identifier) this.turn(touch.clientX - this.finger.clientX, touch.clientY - this.finger.clientY);
      this.finger = touch;
    }, { passive: true });
    canvas.addEventListener("touchend", () => (this.finger = null));
    document.addEventListener("pointerlockchange", () => {
      if (locked() || !this.motion.buttons) return;
      this.motion.buttons = 0;
      this.sendMotion();
    });
  }

  turn(dx, dy) {
    this.motion.dx += dx;
    this.motion.dy += dy;
    if (performance.now() - this.motion.sent > 30) this.sendMotion();
    else this.waiting ??= setTimeout(() => this.sendMotion(), 30); // the last motion counts, too
  }

  sendMotion() {
    clearTimeout(this.waiting);
    this.waiting = undefined;
    if (!this.wantsMouse) return;
    const { dx, dy, buttons } = this.motion;
    this.mouse({ dx: Math.round(dx), dy: Math.round(dy), buttons });
    Object.assign(this.motion, { dx: 0, dy: 0, sent: performance.now() });
  }
}

/** The keys of a direction, eight of which are distinguished; none near the middle. */
function directions(x, y, dead) {
  if (Math.hypot(x, y) < dead) return [];
  const octant = (Math.round(Math.atan2(y, x) / (Math.PI / 4)) + 8) % 8;
  return [["d"], ["d", "s"], ["s"], ["s", "a"], ["a"], ["a", "w"], ["w"], ["w", "d"]][octant];
}
