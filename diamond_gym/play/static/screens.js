// The canvases: their pictures, their size in whole pixels, the strip of earlier frames, and the curves.

const $ = (id) => document.getElementById(id);
const SCREENS = { 0: "dream", 1: "real", 2: "difference", 6: "inset" };

/** Draws a bitmap at its own size; the style's size scales it up. */
export function draw(canvas, frame) {
  if (canvas.width !== frame.width || canvas.height !== frame.height) {
    canvas.width = frame.width;
    canvas.height = frame.height;
  }
  canvas.getContext("2d").drawImage(frame.bitmap, 0, 0);
  canvas.dataset.step = frame.step;
}

export class Screens {
  constructor() {
    this.size = [64, 64];
    this.film = new Map(); // step -> a bitmap
    this.every = 8;
    new ResizeObserver(() => this.layout()).observe($("screens"));
    addEventListener("resize", () => this.layout());
  }

  begin(size) {
    this.size = size;
    this.clearFilm();
    for (const id of Object.values(SCREENS)) {
      delete $(id).dataset.step;
      $(id).getContext("2d").clearRect(0, 0, $(id).width, $(id).height);
    }
    this.layout();
  }

  show(frame) {
    const canvas = $(SCREENS[frame.kind]);
    draw(canvas, frame);
    if (frame.kind === 6 && canvas.hidden) {
      canvas.hidden = false;
      this.layout();
    }
  }

  /** Shows or hides reality and the difference. */
  compare(on) {
    $("screens").classList.toggle("compared", on);
    $("screen-real").hidden = $("screen-difference").hidden = $("curve-box").hidden = !on;
    this.layout();
  }

  /** Scales the dream by the largest whole number of device pixels that fits; the other two by half of it. */
  layout() {
    const [height, width] = this.size;
    const ratio = devicePixelRatio || 1;
    const compared = $("screens").classList.contains("compared");
    const stacked = innerWidth < 600;
    const beside = compared && !stacked ? 1.5 : 1;
    const gaps = compared && !stacked ? 14 : 0;
    const room = $("screens").clientWidth - gaps;
    if (room <= 0) return;
    // What is above and below the picture is to be seen without scrolling, too.
    const above = $("screens").getBoundingClientRect().top + scrollY;
    const others = [...$("screens").parentElement.children].filter((each) => each !== $("screens") && each.offsetHeight);
    const below = others.reduce((sum, each) => sum + each.offsetHeight + (stacked ? 8 : 14), compared ? 28 : 0);
    const least = stacked ? 192 : 384;
    const tall = Math.max(innerHeight - above - below - 12, least);
    const scale = Math.min(room / beside / width, tall / height);
    let whole = Math.max(Math.floor(scale * ratio), 1);
    if (beside > 1 && whole > 1) whole -= whole % 2; // half of it is whole, too
    const fits = scale * ratio < 1 ? scale : whole / ratio;
    const set = (id, by) => Object.assign($(id).style, { width: `${width * by}px`, height: `${height * by}px` });
    set("dream", fits);
    // Two captions and a gap stand between the two small ones, so that all three end on one line.
    const half = stacked ? (Math.floor((room - 12) / 2 / width * ratio) || 1) / ratio : fits / 2;
    set("real", half);
    set("difference", half);
    const inset = $("inset");
    Object.assign(inset.style, { width: `${(width * fits) / 4}px`, height: `${(height * fits) / 4}px` });
    $("screens").parentElement.style.setProperty("--screen", `${Math.max(width * fits * beside + gaps, 300)}px`);
    this.drawFilm();
  }

  clearFilm(after = -1) {
    for (const step of this.film.keys()) if (step > after) this.film.delete(step);
    this.drawFilm();
  }

  /** Keeps every few frames of the dream for the timeline. */
  async keep(frame, always = false) {
    if (!always && frame.step % this.every) return;
    const small = { resizeWidth: 48, resizeHeight: Math.round((48 * frame.height) / frame.width) };
    this.film.set(frame.step, frame.width > 96 ? await createImageBitmap(frame.bitmap, small) : frame.bitmap);
    this.drawFilm();
  }

  setRange(first, last) {
    for (const step of this.film.keys()) if (step < first - 2 * this.every || step > last) this.film.delete(step);
    this.range = [first, last];
  }

  drawFilm() {
    const canvas = $("film");
    const context = fit(canvas);
    if (!context || !this.range || !this.film.size) return;
    const [first, last] = this.range;
    const steps = [...this.film.keys()].sort((a, b) => a - b);
    const height = canvas.clientHeight;
    const tile = (height * this.size[1]) / this.size[0];
    const count = Math.ceil(canvas.clientWidth / tile);
    context.imageSmoothingEnabled = false;
    for (let i = 0; i < count; i++) {
      const wanted = first + ((i + 0.5) / count) * (last - first);
      const step = steps.findLast((each) => each <= wanted) ?? steps[0];
      context.drawImage(this.film.get(step), i * tile, 0, tile - 1, height);
    }
  }
}

/** Sets a canvas to the device's pixels, emptied, and gives its context in CSS pixels; null while it is not shown. */
function fit(canvas) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return null;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

/** A curve over the steps of a dream. */
export class Curve {
  constructor(id, color, unit, digits) {
    Object.assign(this, { id, color, unit, digits, points: [] });
  }

  /** Adds a point; going back to an earlier step forgets the later ones. */
  add(step, value) {
    while (this.points.length && this.points.at(-1)[0] >= step) this.points.pop();
    this.points.push([step, value]);
    if (this.points.length > 600) this.points.shift();
    this.draw();
  }

  clear() {
    this.points = [];
    this.draw();
  }

  draw() {
    const canvas = $(this.id);
    const context = fit(canvas);
    if (!context) return;
    const [width, height, margin] = [canvas.clientWidth, canvas.clientHeight, 4];
    const values = this.points.map(([, value]) => value);
    const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
    const range = Math.max(high - low, 1);
    const y = (value) => height - margin - ((value - low) / range) * (height - 2 * margin);
    context.strokeStyle = "#2a3240";
    context.beginPath();
    context.moveTo(0, y(0));
    context.lineTo(width, y(0));
    context.stroke();
    if (values.length < 2) return;
    const [first, last] = [this.points[0][0], this.points.at(-1)[0]];
    context.beginPath();
    for (const [step, value] of this.points) context.lineTo(((step - first) / Math.max(last - first, 1)) * (width - 2) + 1, y(value));
    context.strokeStyle = this.color;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.stroke();
    context.fillStyle = "#a3adbc";
    context.font = "11px sans-serif";
    context.textAlign = "right";
    context.fillText(values.at(-1).toFixed(this.digits), width - 2, y(values.at(-1)) > 20 ? 12 : height - 6);
    canvas.setAttribute("aria-label", `${this.unit}: ${values.at(-1).toFixed(1)} at step ${last}, from ${low.toFixed(1)} to ${high.toFixed(1)}`);
  }
}
