// One lane per object over the length of the clip, by shape: a full bar is tracked, a thin one
// provisional, dashes are out of date, hatching is gone, crosses are lost, diamonds have points,
// triangles are worth a look, triangles that stand below are frames to label. The first lane is of the clip: what was looked at, what looks right.

const HEIGHT = 20, LIGHT = "#eceff4", GREY = "#8b93a3";

export class Lanes {
  /** @param {HTMLElement} box @param {number} count frames of the clip
   * @param {(frame: number) => void} goTo */
  constructor(box, count, goTo) {
    this.box = box;
    this.count = count;
    this.goTo = goTo;
    this.rows = new Map();
    new ResizeObserver(() => this.draw()).observe(box);
  }

  /** @param {object} state of the model @param {number} frame @param {number} current object */
  show(state, frame, current) {
    Object.assign(this, { state, frame, current });
    const wanted = ["clip", ...state.objects.map((each) => each.id)];
    for (const [key, row] of this.rows) {
      if (!wanted.includes(key)) { row.remove(); this.rows.delete(key); }
    }
    for (const key of wanted) {
      if (!this.rows.has(key)) this.rows.set(key, this.makeRow(key));
    }
    const rows = wanted.map((key) => this.rows.get(key));
    if (rows.length !== this.box.children.length || rows.some((row, n) => row !== this.box.children[n])) {
      this.box.replaceChildren(...rows);
    }
    if (current !== this.scrolledTo) this.rows.get(current)?.scrollIntoView({ block: "nearest" });
    this.scrolledTo = current;
    this.draw();
  }

  makeRow(key) {
    const row = document.createElement("div"), sign = document.createElement("span");
    const canvas = document.createElement("canvas");
    row.className = key === "clip" ? "lane clip" : "lane";
    sign.className = "number-sign";
    sign.textContent = key === "clip" ? "" : key;
    const seek = (event) => {
      const frame = canvas.getBoundingClientRect();
      const share = (event.clientX - frame.left) / frame.width;
      this.goTo(Math.min(Math.max(Math.floor(share * this.count), 0), this.count - 1));
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); seek(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) seek(event); });
    row.append(sign, canvas);
    return row;
  }

  draw() {
    if (!this.state) return;
    for (const [key, row] of this.rows) {
      const canvas = row.querySelector("canvas"), ratio = devicePixelRatio || 1;
      const width = canvas.clientWidth;
      if (!width) continue;
      canvas.width = width * ratio;
      canvas.height = HEIGHT * ratio;
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      this.context = context;
      this.unit = width / this.count;
      if (key === "clip") this.drawClip();
      else this.drawObject(this.state.objects.find((each) => each.id === key), row);
      const x = (this.frame + 0.5) * this.unit;
      context.fillStyle = "#fff";
      context.fillRect(x - 1, 0, 2, HEIGHT);
    }
  }

  bars(spans, colour, top, height) {
    this.context.fillStyle = colour;
    for (const [start, stop] of spans) {
      this.context.fillRect(start * this.unit, top, Math.max((stop - start) * this.unit, 1), height);
    }
  }

  drawClip() {
    const { looked, reviewed, range } = this.state;
    this.bars([[0, this.count]], "#2b303b", 8, 4);
    this.bars([range], GREY, 9, 2);
    this.bars(looked, LIGHT, 8, 4);
    for (const frame of reviewed) this.tick(frame);
    for (const listed of this.state.to_label) this.base(listed.frame, listed.done);
    for (const stop of this.state.queue) this.triangle(stop.frame);
  }

  drawObject(object, row) {
    const colour = object.colour, { lanes } = object;
    row.querySelector(".number-sign").style.background = colour;
    row.querySelector(".number-sign").style.color = object.text_colour;
    row.style.background = object.id === this.current ? "#232834" : "";
    this.bars([[0, this.count]], "#22262f", 9, 2);
    this.bars(lanes.tracked, colour, 5, 10);
    this.bars(lanes.provisional, colour, 8, 4);
    this.dashes(lanes.stale, colour);
    this.hatching(lanes.gone, colour);
    for (const [start, stop] of lanes.lost) this.cross((start + stop) / 2);
    for (const frame of object.prompts) this.diamond(frame, colour);
    for (const frame of lanes.flagged) this.triangle(frame);
  }

  dashes(spans, colour) {
    this.context.fillStyle = colour;
    for (const [start, stop] of spans) {
      for (let x = start * this.unit; x < stop * this.unit; x += 8) {
        this.context.fillRect(x, 7, Math.min(4, stop * this.unit - x), 6);
      }
    }
  }

  hatching(spans, colour) {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = 1.2;
    for (const [start, stop] of spans) {
      context.save();
      context.beginPath();
      context.rect(start * this.unit, 5, (stop - start) * this.unit, 10);
      context.stroke();
      context.clip();
      context.beginPath();
      for (let x = start * this.unit - 10; x < stop * this.unit; x += 5) {
        context.moveTo(x, 15);
        context.lineTo(x + 10, 5);
      }
      context.stroke();
      context.restore();
    }
  }

  path(points, { fill, stroke }) {
    const { context } = this;
    context.beginPath();
    points.forEach(([x, y], n) => (n ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (fill) { context.closePath(); context.fillStyle = fill; context.fill(); }
    context.strokeStyle = stroke;
    context.lineWidth = 1.5;
    context.stroke();
  }

  diamond(frame, colour) {
    const x = (frame + 0.5) * this.unit;
    this.path([[x, 4], [x + 6, 10], [x, 16], [x - 6, 10]], { fill: colour, stroke: "#fff" });
  }

  triangle(frame) {
    const x = (frame + 0.5) * this.unit;
    this.path([[x - 4, 0], [x + 4, 0], [x, 6]], { fill: "#ffd400", stroke: "#000" });
  }

  /** A triangle that stands below: a frame to label; hollow when it is done. */
  base(frame, done) {
    const x = (frame + 0.5) * this.unit;
    this.path([[x - 4, 19], [x + 4, 19], [x, 13]], { fill: done ? "#191c23" : "#79b8ff", stroke: "#79b8ff" });
  }

  cross(frame) {
    const x = (frame + 0.5) * this.unit;
    this.path([[x - 4, 6], [x + 4, 14]], { stroke: LIGHT });
    this.path([[x - 4, 14], [x + 4, 6]], { stroke: LIGHT });
  }

  tick(frame) {
    const x = (frame + 0.5) * this.unit;
    this.path([[x - 4, 12], [x - 1, 16], [x + 5, 6]], { stroke: "#7cff4f" });
  }
}
