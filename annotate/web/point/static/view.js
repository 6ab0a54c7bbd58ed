// The picture, the masks and the points on the stage: drawing, zoom and pan, and the pointer.

import { drawMap, paint } from "./rle.js";

const SVG = "http://www.w3.org/2000/svg";
const POINT_RADIUS = 7, HIT_RADIUS = 10, DRAG_START = 4; // screen pixels
const MAX_ZOOM = 40, LONG_PRESS = 500; // milliseconds
export const INSIDE = 1, OUTSIDE = 0, GONE = -1;

export class View extends EventTarget {
  /** @param {HTMLElement} stage @param {{width: number, height: number}} size of the pictures */
  constructor(stage, size) {
    super();
    this.stage = stage;
    this.size = size;
    this.view = stage.querySelector("#view");
    this.marks = stage.querySelector("#marks");
    [this.picture, this.masks] = stage.querySelectorAll("canvas");
    for (const canvas of [this.picture, this.masks]) {
      canvas.width = size.width;
      canvas.height = size.height;
    }
    this.scale = 1;
    this.left = this.top = 0;
    this.fitted = true;
    /** What is on the canvas: null until the first picture. @type {number | null} */
    this.shown = null;
    this.style = "fill";
    this.showPoints = true;
    this.points = [];
    this.boxes = [];
    this.crosshair = null;
    this.boxMode = false;
    this.drag = null;
    this.pointers = new Map();
    new ResizeObserver(() => { if (this.fitted) this.fit(); else this.place(); }).observe(stage);
    stage.addEventListener("pointerdown", (event) => this.pointerDown(event));
    stage.addEventListener("pointermove", (event) => this.pointerMove(event));
    stage.addEventListener("pointerup", (event) => this.pointerUp(event));
    stage.addEventListener("pointercancel", (event) => this.pointerCancel(event));
    stage.addEventListener("pointerleave", () => this.emit("hover-end"));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.fit();
  }

  emit(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  // --- place ------------------------------------------------------------------------------

  fit() {
    const { clientWidth, clientHeight } = this.stage;
    this.scale = Math.min(clientWidth / this.size.width, clientHeight / this.size.height) || 1;
    this.left = (clientWidth - this.size.width * this.scale) / 2;
    this.top = (clientHeight - this.size.height * this.scale) / 2;
    this.fitted = true;
    this.place();
  }

  place() {
    this.view.style.transform = `translate(${this.left}px, ${this.top}px) scale(${this.scale})`;
    this.view.classList.toggle("zoomed", this.scale > 2);
    this.drawMarks();
  }

  /** Zoom by a factor, so that a point of the stage stays where it is. */
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const smallest = Math.min(this.stage.clientWidth / this.size.width,
      this.stage.clientHeight / this.size.height);
    const scale = Math.min(Math.max(this.scale * factor, smallest / 2), MAX_ZOOM);
    this.left = x - (x - this.left) * scale / this.scale;
    this.top = y - (y - this.top) * scale / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.place();
  }

  /** Show a box of the picture, x1, y1, x2, y2, with some ground around it. */
  zoomTo([x1, y1, x2, y2]) {
    const width = Math.max(x2 - x1, 24) * 1.8, height = Math.max(y2 - y1, 24) * 1.8;
    this.scale = Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height, MAX_ZOOM);
    this.left = this.stage.clientWidth / 2 - (x1 + x2) / 2 * this.scale;
    this.top = this.stage.clientHeight / 2 - (y1 + y2) / 2 * this.scale;
    this.fitted = false;
    this.place();
  }

  /** The place of an event in the picture, in pixels of the clip. */
  pictureXy(event) {
    const frame = this.stage.getBoundingClientRect();
    return [(event.clientX - frame.left - this.left) / this.scale,
      (event.clientY - frame.top - this.top) / this.scale];
  }

  isInside([x, y]) { return x >= 0 && y >= 0 && x < this.size.width && y < this.size.height; }

  screenXy([x, y]) { return [x * this.scale + this.left, y * this.scale + this.top]; }

  // --- drawing ----------------------------------------------------------------------------

  /** @param {number} frame @param {ImageBitmap} picture */
  drawPicture(frame, picture) {
    this.picture.getContext("2d").drawImage(picture, 0, 0, this.size.width, this.size.height);
    this.shown = frame;
  }

  /** Draw the masks of the picture on the canvas.
   * @param {{id: number, mask: object, rgb: number[], text: string}[]} objects */
  drawMasks(objects) {
    const context = this.masks.getContext("2d"), { width, height } = this.size;
    this.tags = [];
    if (this.style === "off" || !objects.length) {
      context.clearRect(0, 0, width, height);
    } else {
      const map = new Uint16Array(width * height);
      objects.forEach((each, n) => paint(each.mask, map, n + 1));
      const colours = objects.map((each) => each.rgb);
      context.putImageData(drawMap(map, width, height, colours, this.style), 0, 0);
      this.tags = objects;
    }
    this.drawMarks();
  }

  /** Draw what keeps its size on the screen: points, boxes, numbers of objects. */
  drawMarks() {
    const nodes = (this.tags ?? []).map((each) => this.tag(each));
    if (this.showPoints) {
      nodes.push(...this.boxes.map((each) => this.boxMark(each)));
      nodes.push(...this.points.map((each) => this.pointMark(each)));
    }
    if (this.drag?.box) nodes.push(this.boxMark({ xyxy: this.drag.box, current: true }));
    if (this.crosshair) nodes.push(...this.crosshairMarks());
    this.marks.replaceChildren(...nodes);
  }

  tag({ box, rgb, text }) {
    const [left, y] = this.screenXy([box[0], box[1]]), [right] = this.screenXy([box[2], box[3]]);
    const fits = left + 8 * text.length < this.stage.clientWidth;
    const node = element("text", { class: "tag", x: fits ? Math.max(left, 4) : right, y: Math.max(y - 5, 14),
      "text-anchor": fits ? "start" : "end", fill: `rgb(${rgb.join(",")})` });
    node.textContent = text;
    return node;
  }

  /** Inside is a disc with a plus, outside a square with a minus: not by colour alone. */
  pointMark({ x, y, label, rgb, current }) {
    const [sx, sy] = this.screenXy([x, y]), r = POINT_RADIUS, colour = `rgb(${rgb.join(",")})`;
    const group = element("g", { class: "marker", opacity: current ? 1 : 0.65 });
    const shape = label === INSIDE ? element("circle", { cx: sx, cy: sy, r })
      : element("rect", { x: sx - r, y: sy - r, width: 2 * r, height: 2 * r });
    set(shape, { fill: label === INSIDE ? colour : "#000", stroke: label === INSIDE ? "#000" : colour });
    const sign = label === INSIDE ? `M${sx - 4} ${sy}h8M${sx} ${sy - 4}v8` : `M${sx - 4} ${sy}h8`;
    group.append(shape, element("path", { d: sign, stroke: label === INSIDE ? "#000" : "#fff" }));
    return group;
  }

  boxMark({ xyxy, rgb = [255, 255, 255], proposed }) {
    const [x1, y1] = this.screenXy(xyxy.slice(0, 2)), [x2, y2] = this.screenXy(xyxy.slice(2));
    return element("rect", { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1),
      height: Math.abs(y2 - y1), fill: "none", stroke: `rgb(${rgb.join(",")})`, "stroke-width": 2,
      "stroke-dasharray": proposed ? "6 4" : "none" });
  }

  crosshairMarks() {
    const [x, y] = this.screenXy(this.crosshair);
    return ["#000", "#fff"].map((stroke, n) => element("path", { fill: "none", stroke,
      "stroke-width": n ? 1.5 : 4, d: `M${x - 16} ${y}h12M${x + 4} ${y}h12M${x} ${y - 16}v12M${x} ${y + 4}v12` }));
  }

  // --- pointer ----------------------------------------------------------------------------

  pointAt(event) {
    if (!this.showPoints) return null;
    const frame = this.stage.getBoundingClientRect();
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
    const distance = (point) => {
      const [sx, sy] = this.screenXy([point.x, point.y]);
      return Math.hypot(sx - x, sy - y);
    };
    const near = this.points.filter((each) => each.current && distance(each) <= HIT_RADIUS);
    return near.sort((a, b) => distance(a) - distance(b))[0] ?? null;
  }

  pointerDown(event) {
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 2) { this.startPinch(); return; }
    const pan = event.button === 1 || this.spaceHeld;
    // the frame of a click is that of the picture on the canvas when the button goes down
    this.drag = { pan, button: event.button, frame: this.shown, start: event, begun: performance.now(),
      xy: this.pictureXy(event),
      point: pan ? null : this.pointAt(event), left: this.left, top: this.top, moved: false };
    if (event.button === 1) event.preventDefault();
  }

  pointerMove(event) {
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, event);
    const { drag } = this;
    if (drag?.pinch) { this.movePinch(); return; }
    if (!drag) {
      const xy = this.pictureXy(event);
      if (this.isInside(xy)) this.emit("hover", { xy, event }); else this.emit("hover-end");
      return;
    }
    const dx = event.clientX - drag.start.clientX, dy = event.clientY - drag.start.clientY;
    drag.moved ||= Math.hypot(dx, dy) >= DRAG_START;
    if (!drag.moved) return;
    if (drag.pan) {
      this.stage.classList.add("panning");
      this.panned = true;
      [this.left, this.top] = [drag.left + dx, drag.top + dy];
      this.fitted = false;
      this.place();
    } else if (this.boxMode) {
      drag.box = [...drag.xy, ...this.pictureXy(event)];
      this.drawMarks();
    } else if (drag.point) {
      const [x, y] = this.clamped(this.pictureXy(event));
      const { row } = drag.point;
      this.points = this.points.map((each) => (each.row === row ? { ...each, x, y } : each));
      this.drawMarks();
    }
  }

  pointerUp(event) {
    const { drag } = this;
    this.pointers.delete(event.pointerId);
    this.drag = null;
    this.stage.classList.remove("panning");
    if (!drag || drag.pan || drag.pinch || drag.frame === null) return;
    const xy = this.pictureXy(event), { frame } = drag;
    if (this.boxMode && drag.moved) {
      const [x1, y1] = this.clamped(drag.xy, 0), [x2, y2] = this.clamped(xy, 0);
      this.emit("box", { frame, xyxy: [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)] });
    } else if (drag.point && drag.moved) {
      this.emit("move", { frame, point: drag.point.row, to: this.clamped(xy) });
    } else if (drag.point) {
      this.emit("remove", { frame, point: drag.point.row });
    } else if (this.isInside(drag.xy) && !drag.moved) {
      const outside = drag.button === 2 || drag.start.altKey || (drag.start.ctrlKey && drag.button === 0)
        || (event.pointerType === "touch" && performance.now() - drag.begun > LONG_PRESS);
      this.emit("click", { frame, xy: drag.xy, outside });
    }
  }

  pointerCancel(event) {
    this.pointers.delete(event.pointerId);
    this.drag = null;
    this.stage.classList.remove("panning");
    this.emit("redraw");
  }

  /** The nearest place inside the picture. */
  clamped([x, y], margin = 0.01) {
    return [Math.min(Math.max(x, 0), this.size.width - margin),
      Math.min(Math.max(y, 0), this.size.height - margin)];
  }

  startPinch() {
    const [a, b] = [...this.pointers.values()];
    this.drag = { pinch: true, distance: distanceOf(a, b), centre: centreOf(a, b) };
  }

  movePinch() {
    if (this.pointers.size < 2) return;
    const [a, b] = [...this.pointers.values()], frame = this.stage.getBoundingClientRect();
    const centre = centreOf(a, b), distance = distanceOf(a, b);
    this.left += centre[0] - this.drag.centre[0];
    this.top += centre[1] - this.drag.centre[1];
    this.zoom(distance / this.drag.distance, centre[0] - frame.left, centre[1] - frame.top);
    Object.assign(this.drag, { distance, centre });
  }

  wheel(event) {
    event.preventDefault();
    const frame = this.stage.getBoundingClientRect();
    const step = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
    this.zoom(Math.exp(-step * 0.0015), event.clientX - frame.left, event.clientY - frame.top);
  }
}

const distanceOf = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
const centreOf = (a, b) => [(a.clientX + b.clientX) / 2, (a.clientY + b.clientY) / 2];

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  set(node, attributes);
  return node;
}
