// The lists beside the picture: objects, frames to label, and frames worth a look.

const byId = (id) => document.getElementById(id);

export class Panel {
  /** @param {(id: number) => void} select @param {(stop: object) => void} goToStop
   * @param {(listed: object) => void} goToListed */
  constructor(select, goToStop, goToListed) {
    this.select = select;
    this.goToStop = goToStop;
    this.goToListed = goToListed;
  }

  /** @param {object} state of the model @param {number} frame @param {number} current object */
  show(state, frame, current) {
    const rows = state.objects.map((each) => this.objectRow(each, frame, current));
    if (!state.objects.some((each) => each.id === current)) rows.push(this.newRow(current));
    byId("objects").replaceChildren(...rows);
    byId("queue").replaceChildren(...state.queue.slice(0, 8).map((each) => this.stopRow(each, frame)));
    this.showListed(state.to_label, frame);
    const { looked_share: share, provisional, reviewed, range, clip } = state;
    byId("looked").textContent = `${Math.round(share * 100)} % of the frames looked at, `
      + `${reviewed.length} look right` + (provisional ? `; ${provisional} masks are provisional until saved` : "");
    const whole = range[0] === clip.bounds[0] && range[1] === clip.bounds[1];
    byId("reach").textContent = whole ? "" : `frames ${range[0]} to ${range[1] - 1}`;
  }

  /** Show the frames to label that come next: those that are done are left out. */
  showListed(listed, frame) {
    byId("to-label").hidden = !listed.length;
    const open = listed.filter((each) => !each.done || each.frame === frame);
    byId("listed").replaceChildren(...open.slice(0, 4).map((each) => this.listedRow(each, frame)));
    byId("labelled").textContent = `${listed.filter((each) => each.done).length} of ${listed.length} labelled`;
  }

  listedRow(listed, frame) {
    return this.frameRow(listed.frame, frame, `${listed.rank}: frame ${listed.frame}, ${listed.why}`,
      () => this.goToListed(listed));
  }

  objectRow(object, frame, current) {
    const row = document.createElement("li"), name = document.createElement("button");
    const here = object.rows.filter((each) => each.frame === frame);
    const marks = here.some((each) => each.label === -1) ? "gone from here"
      : here.length ? `${here.length} here` : "";
    row.setAttribute("aria-current", object.id === current);
    name.className = "name";
    name.type = "button";
    name.textContent = `${object.class}${marks ? `, ${marks}` : ""}`;
    name.title = describe(object);
    name.setAttribute("aria-label", `object ${object.id}, ${object.class}: ${describe(object)}`);
    name.onclick = () => this.select(object.id);
    row.append(sign(object.id, object.colour, object.text_colour), name);
    return row;
  }

  newRow(id) {
    const row = document.createElement("li"), text = document.createElement("span");
    row.setAttribute("aria-current", true);
    text.className = "name";
    text.textContent = "new: click inside it";
    row.append(sign(id, "#ffffff", "#000000"), text);
    return row;
  }

  stopRow(stop, frame) {
    const text = `${stop.frame}: ${stop.object === null ? "" : `object ${stop.object}, `}${stop.why}`;
    return this.frameRow(stop.frame, frame, text, () => this.goToStop(stop));
  }

  frameRow(of, shown, text, goThere) {
    const row = document.createElement("li"), button = document.createElement("button");
    row.setAttribute("aria-current", of === shown);
    button.type = "button";
    button.className = "stop";
    button.textContent = text;
    button.onclick = goThere;
    row.append(button);
    return row;
  }
}

/** Say in words what the lane of an object shows. */
function describe(object) {
  const { lanes } = object, count = (spans) => spans.reduce((sum, [a, b]) => sum + b - a, 0);
  const parts = [`points on ${object.prompts.length} frames`];
  for (const [name, text] of [["tracked", "tracked"], ["provisional", "provisional"],
    ["stale", "out of date"], ["gone", "gone"], ["lost", "lost"]]) {
    const frames = count(lanes[name]);
    if (frames) parts.push(`${text} on ${frames}`);
  }
  return parts.join(", ");
}

function sign(id, colour, textColour) {
  const node = document.createElement("span");
  node.className = "number-sign";
  node.textContent = id;
  node.style.background = colour;
  node.style.color = textColour;
  return node;
}
