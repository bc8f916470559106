// The choice of a world, a model, a quality and a seed.

import { withToken } from "./connection.js";
import { make } from "./panels.js";

const $ = (id) => document.getElementById(id);

export class Picker {
  constructor(start) {
    this.worlds = [];
    this.chosen = null;
    $("picker-form").onsubmit = (event) => {
      event.preventDefault();
      $("picker").close();
      const seed = $("picker-seed").value.trim();
      start({
        world: this.chosen.name,
        ...($("picker-model").value && { model: $("picker-model").value }),
        ...($("picker-quality").value && { quality: $("picker-quality").value }),
        ...(/^\d+$/.test(seed) && { seed: Number(seed) }),
      });
    };
    $("picker-model").onchange = () => this.showModel();
  }

  fill(worlds) {
    this.worlds = worlds;
    $("world-list").replaceChildren(...worlds.map((world) => this.card(world)));
    if (!worlds.length) $("world-list").append(make("p", "hint", "There is no model here yet: diamond-gym pull fetches one, train-wm makes one."));
  }

  card(world) {
    const badges = [];
    if (world.models.some((model) => model.agent)) badges.push("agent");
    if (world.real) badges.push("real game");
    if (world.models.some((model) => model.stages > 1)) badges.push("slow on a CPU");
    const image = world.preview ? make("img", "") : make("span", "no-image");
    if (world.preview) Object.assign(image, { src: withToken(world.preview), alt: "", onerror: () => image.replaceWith(make("span", "no-image")) });
    const about = make("span", "about", make("b", "", world.name), make("small", "", world.models.map((model) => model.name).join(", ")));
    if (badges.length) about.append(make("span", "badges", ...badges.map((text) => make("span", "", text))));
    const card = make("button", "world", image, about);
    card.type = "button";
    card.dataset.world = world.name;
    card.title = world.models[0]?.summary ?? "";
    card.setAttribute("aria-pressed", "false");
    card.onclick = () => this.choose(world);
    card.ondblclick = () => $("picker-form").requestSubmit();
    return card;
  }

  choose(world) {
    this.chosen = world;
    for (const card of $("world-list").children) card.setAttribute("aria-pressed", String(card.dataset.world === world.name));
    $("picker-model").replaceChildren(...world.models.map((model) => new Option(model.name + (model.stages > 1 ? " (two stages)" : ""), model.name)));
    $("picker-quality").replaceChildren(new Option("the model's own", ""), ...world.qualities.map((name) => new Option(name, name)));
    $("picker-start").disabled = false;
    this.showModel();
  }

  showModel() {
    const model = this.chosen?.models.find((each) => each.name === $("picker-model").value);
    $("picker-model").title = model?.summary ?? "";
  }

  open(name) {
    const world = this.worlds.find((each) => each.name === name) ?? this.worlds[0];
    if (world) this.choose(world);
    if (!$("picker").open) $("picker").showModal();
    $("picker-start").focus({ preventScroll: true, focusVisible: false });
  }
}
