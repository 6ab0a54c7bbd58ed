// The page of point prompts: keys, buttons and the pointer, and what they do.

import { Frames } from "./frames.js";
import { bindingOf, digitOf, fillSheet } from "./keys.js";
import { Lanes } from "./lanes.js";
import { call } from "./local.js";
import { Model } from "./model.js";
import { Panel } from "./panel.js";
import { GONE, INSIDE, OUTSIDE, View } from "./view.js";

const byId = (id) => document.getElementById(id);
const MASK_STYLES = ["fill", "outline", "off"];
const SEEN_AFTER = 250; // milliseconds that a frame is shown before it counts as looked at

const model = new Model();
let view, frames, lanes, panel, times = null; // seconds of all frames, where the rate varies
let wanted = 0; // the frame that a person asked for; view.shown is the one on the canvas
let current = 1; // the number of the current object
let negative = false, following = true, hidden = false, playing = null;
let maskRequest = new AbortController(), hover = null;
let drawn = { frame: null, objects: [] }; // the masks on the canvas
let seconds = 0; // of the picture on the canvas

// --- frames -------------------------------------------------------------------------------

/** Show a frame: its picture as soon as it is here, then its masks. */
async function goTo(frame, { byPerson = true } = {}) {
  const count = model.state.clip.frames;
  wanted = Math.min(Math.max(Math.round(frame), 0), count - 1);
  if (byPerson) following = false;
  endHover();
  const target = wanted;
  try {
    const picture = await frames.get(target);
    if (target !== wanted) return; // another frame was asked for meanwhile
    view.drawPicture(target, picture.bitmap);
    seconds = picture.seconds;
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return;
  }
  showFrame();
  if (!byPerson) return; // watching a run is no look at its frames
  setTimeout(() => { if (view.shown === target && !playing) model.post("seen", { frames: [target] }); },
    SEEN_AFTER);
}

function showFrame() {
  const { state } = model, frame = view.shown;
  if (frame === null) return;
  document.body.dataset.shown = frame;
  if (document.activeElement !== byId("frame")) byId("frame").value = frame;
  byId("time").textContent = `of ${state.clip.frames - 1}, ${clock(seconds)}`;
  showPoints();
  showMasks();
  lanes.show(state, frame, current);
  panel.show(state, frame, current);
}

function showPoints() {
  const { state } = model, frame = view.shown;
  view.points = [];
  view.boxes = (state.proposals[frame] ?? []).map((each) => ({ xyxy: each.box, proposed: true }));
  for (const object of state.objects) {
    const rows = object.rows.filter((row) => row.frame === frame), isCurrent = object.id === current;
    const rgb = rgbOf(object.colour);
    for (const row of rows) {
      if (row.label === INSIDE || row.label === OUTSIDE) {
        view.points.push({ x: row.x, y: row.y, label: row.label, rgb, current: isCurrent, row });
      }
    }
    const corners = [2, 3].map((label) => rows.find((row) => row.label === label));
    if (corners[0] && corners[1]) {
      view.boxes.push({ xyxy: corners.flatMap((row) => [row.x, row.y]), rgb });
    }
  }
  view.drawMarks();
}

async function showMasks() {
  maskRequest.abort();
  maskRequest = new AbortController();
  const frame = view.shown;
  try {
    const masks = await model.masksOf(frame, maskRequest.signal);
    if (view.shown === frame && masks.rev === model.state.rev) drawMasks(masks);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  }
}

function drawMasks(masks) {
  drawn = masks;
  const shown = hidden ? [] : masks.objects.filter((each) => model.object(each.id)).map((each) => {
    const object = model.object(each.id);
    const doubt = each.status === "stale" ? " (old points)"
      : each.flags.length ? ` ! ${each.flags.join(", ")}` : "";
    return { ...each, rgb: rgbOf(object.colour), text: `${each.id} ${object.class}${doubt}` };
  });
  view.drawMasks(shown);
  document.body.dataset.masks = `${masks.frame}:${masks.rev}`;
}

function nextPromptFrame(direction) {
  const prompted = [...new Set(model.state.objects.flatMap((each) => each.prompts))].sort((a, b) => a - b);
  const found = direction > 0 ? prompted.find((each) => each > view.shown)
    : prompted.reverse().find((each) => each < view.shown);
  if (found !== undefined) goTo(found); else say("no further frame has points");
}

function play() {
  if (playing) { stopPlaying(); return; }
  const begun = performance.now() - 1000 * secondsOf(view.shown), count = model.state.clip.frames;
  playing = { seen: [] };
  const paint = async () => {
    if (!playing) return;
    const due = frameAt((performance.now() - begun) / 1000);
    if (due !== view.shown) { // late pictures are left out; the number is that of the one shown
      await goTo(due);
      playing?.seen.push(due);
    }
    if (due === count - 1) stopPlaying(); else requestAnimationFrame(paint);
  };
  requestAnimationFrame(paint);
}

const secondsOf = (frame) => times?.[frame] ?? frame / model.state.clip.rate;

/** The last frame that begins at a time or before. @param {number} time seconds */
function frameAt(time) {
  let low = 0, high = model.state.clip.frames - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (secondsOf(middle) <= time) low = middle; else high = middle - 1;
  }
  return low;
}

function stopPlaying() {
  if (playing?.seen.length) model.post("seen", { frames: playing.seen });
  playing = null;
}

// --- objects and points -------------------------------------------------------------------

function select(id) {
  current = id;
  const object = model.object(id);
  say(object ? `object ${id}, ${object.class}` : `new object ${id}: click inside it`);
  showFrame();
}

function selectNeighbour(by) {
  const ids = model.state.objects.map((each) => each.id);
  if (!ids.length) return;
  const at = ids.indexOf(current);
  select(ids[(at + by + ids.length) % ids.length]);
}

async function click(frame, [x, y], outside) {
  const id = current, label = outside ? OUTSIDE : INSIDE;
  const done = await model.act("point", { frame, object: id, x, y, label,
    class: model.object(id) ? undefined : model.state.next_class });
  const object = model.object(id), [first, stop] = model.state.clip.bounds;
  if (!done || !object) return;
  const next = frame < first || frame >= stop ? `; frames ${first} to ${stop - 1} are propagated`
    : object.lanes.stale.length ? "; F propagates again from here"
      : object.lanes.tracked.length ? "" : "; F propagates, O begins the next object";
  const count = object.rows.filter((row) => row.frame === frame).length;
  say(`object ${id}, ${object.class}: ${count} point${count > 1 ? "s" : ""} on frame ${frame}${next}`);
}

async function toggleGone() {
  const frame = view.shown, object = model.object(current);
  const was = object?.rows.some((row) => row.frame === frame && row.label === GONE);
  if (await model.act("gone", { frame, object: current })) {
    say(was ? `object ${current} is tracked on from frame ${frame}`
      : `object ${current} is gone from frame ${frame} on, until its next point`);
  }
}

function askClass() {
  if (!model.object(current)) { say(`object ${current} has no points yet`); return; }
  byId("class-name").value = "";
  byId("class-name").placeholder = model.object(current).class;
  byId("class-list").replaceChildren(...model.state.classes.map((each) => new Option(each)));
  byId("class-dialog").showModal();
}

function askDelete() {
  const object = model.object(current);
  if (!object) return;
  const tracked = object.lanes.tracked.concat(object.lanes.provisional);
  const span = tracked.length ? `, tracked on frames ${Math.min(...tracked.map((s) => s[0]))} to `
    + `${Math.max(...tracked.map((s) => s[1])) - 1}` : "";
  byId("delete-text").textContent = `Delete object ${object.id}, ${object.class}: `
    + `${object.rows.length} rows on ${object.prompts.length} frames${span}? Undo brings it back.`;
  byId("delete-dialog").showModal();
}

async function propose() {
  const detector = byId("detector").value, frame = view.shown;
  if (!detector) { say("no detector: start with a vocabulary that has entries for one, or with a detector"); return; }
  say(`${detector} looks at frame ${frame}`);
  const result = await model.post("propose", { frame, detector });
  if (result) say(result.message);
}

async function acceptProposals() {
  const proposed = model.state.proposals[view.shown] ?? [];
  if (!proposed.length) { say("no boxes are proposed on this frame"); return; }
  await model.act("accept", { frame: view.shown });
}

/** Zoom to the mask of the object, or where it has none, to its points; or show all again. */
function zoomToObject() {
  if (!view.fitted) { view.fit(); return; }
  const mask = drawn.frame === view.shown && drawn.objects.find((each) => each.id === current);
  const points = view.points.filter((each) => each.current);
  if (mask) view.zoomTo(mask.box);
  else if (points.length) {
    const [xs, ys] = [points.map((each) => each.x), points.map((each) => each.y)];
    view.zoomTo([Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)]);
  } else say(`object ${current} has no mask on frame ${view.shown}`);
}

// --- preview under the pointer ------------------------------------------------------------

async function preview(xy, outside) {
  hover?.control.abort(); // the newest wins
  const control = new AbortController(), frame = view.shown;
  hover = { control };
  try {
    const record = { frame, object: current, x: xy[0], y: xy[1], label: outside ? OUTSIDE : INSIDE };
    const answer = await (await call("preview", record, control.signal)).json();
    if (control.signal.aborted || view.shown !== frame) return;
    const colour = model.object(current)?.colour ?? "#ffffff";
    const others = (model.masks.get(frame)?.objects ?? []).filter((each) => each.id !== current);
    drawMasks({ frame, rev: model.state.rev, objects: others });
    if (answer.mask) {
      view.drawMasks([...others.map((each) => ({ ...each, rgb: rgbOf(model.object(each.id).colour), text: `${each.id}` })),
        { ...answer, rgb: rgbOf(colour), text: "preview" }]);
    }
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  }
}

function endHover() {
  if (!hover) return;
  hover.control.abort();
  hover = null;
  if (view.shown !== null) showMasks();
}

// --- propagation, queue, result -----------------------------------------------------------

async function run(direction) {
  if (model.state.running) { await model.post("stop"); return; }
  following = true;
  await model.post("run", { direction, frame: view.shown });
}

async function setRange(end) {
  const [start, stop] = model.state.range, [first, last] = model.state.clip.bounds;
  const frame = view.shown;
  const range = end === "in" ? [start === frame ? first : frame, stop]
    : [start, stop === frame + 1 ? last : frame + 1];
  await model.post("range", { start: range[0], stop: range[1] });
}

function nextStop(by) {
  const stops = model.state.queue;
  if (!stops.length) { say("no frame is known to be worth a look"); return; }
  const at = stops.findIndex((each) => each.frame === view.shown);
  const stop = stops[at < 0 ? (by > 0 ? 0 : stops.length - 1) : (at + by + stops.length) % stops.length];
  if (stop.object !== null) current = stop.object;
  goTo(stop.frame);
  say(`frame ${stop.frame}${stop.object === null ? "" : `, object ${stop.object}`}: ${stop.why}; `
    + "a click corrects it, Y: it looks right");
}

/** Go to a frame of the list of frames to label. */
function goToListed(listed) {
  goTo(listed.frame);
  const { why, rank, frame } = listed, count = model.state.to_label.length;
  say(`frame ${frame}, rank ${rank} of ${count} to label: ${why}; click its objects, Y: nothing to label, L: the next`);
}

/** Go to the next frame of the list that is not labelled, or to the one before, labelled or not. */
function nextListed(by) {
  const listed = model.state.to_label, at = listed.findIndex((each) => each.frame === view.shown);
  if (!listed.length) { say("no list of frames to label: start with --frames"); return; }
  const ahead = at < 0 ? (by > 0 ? listed : listed.toReversed())
    : by > 0 ? [...listed.slice(at + 1), ...listed.slice(0, at)] : listed.slice(0, at).toReversed();
  const next = ahead.find((each) => by < 0 || !each.done);
  if (next) goToListed(next);
  else say(by > 0 ? "no other frame is left to label; Ctrl S saves the items" : "this is the first frame to label");
}

async function looksRight() {
  const frame = view.shown, stops = model.state.queue.map((each) => each.frame);
  const at = stops.indexOf(frame), isListed = model.state.to_label.some((each) => each.frame === frame);
  if (await model.act("reviewed", { frame, value: !model.state.reviewed.includes(frame) })) {
    if (at >= 0 && stops.length > 1) nextStop(1);
    else if (isListed && model.state.reviewed.includes(frame)) nextListed(1);
  }
}

async function save() {
  say("saving");
  showResult(await model.post("save"));
}

async function build() {
  say("building the dataset");
  showResult(await model.post("dataset"));
}

function showResult(result) {
  if (result) byId("result").textContent = result.message;
  say(result ? result.message : "");
}

// --- actions by name: the table of keys and the buttons use the same ----------------------

const actions = {
  back: () => goTo(wanted - 1), forward: () => goTo(wanted + 1),
  "back-10": () => goTo(wanted - 10), "forward-10": () => goTo(wanted + 10),
  "previous-prompt": () => nextPromptFrame(-1), "next-prompt": () => nextPromptFrame(1),
  first: () => goTo(0), last: () => goTo(model.state.clip.frames - 1),
  "go-to": () => { byId("frame").focus(); byId("frame").select(); },
  play,
  "new-object": () => select(model.freeNumber()),
  "next-object": () => selectNeighbour(1), "previous-object": () => selectNeighbour(-1),
  "object-number": (event) => {
    const object = model.state.objects[(digitOf(event) + 9) % 10];
    if (object) select(object.id);
  },
  class: askClass, gone: toggleGone, delete: askDelete,
  clear: () => model.act("clear", { frame: view.shown, object: current }),
  negative: () => { negative = !negative; showMode(); },
  box: () => { view.boxMode = !view.boxMode; showMode(); },
  crosshair: () => {
    view.crosshair = view.crosshair ? null : [view.size.width / 2, view.size.height / 2];
    showMode();
  },
  propose, accept: acceptProposals,
  "run-forward": () => run("forward"), "run-backward": () => run("backward"), "run-both": () => run("both"),
  "range-in": () => setRange("in"), "range-out": () => setRange("out"),
  "next-stop": () => nextStop(1), "previous-stop": () => nextStop(-1), "looks-right": looksRight,
  "next-listed": () => nextListed(1), "previous-listed": () => nextListed(-1),
  "zoom-object": zoomToObject,
  "zoom-in": () => view.zoom(1.25), "zoom-out": () => view.zoom(0.8),
  masks: () => {
    view.style = MASK_STYLES[(MASK_STYLES.indexOf(view.style) + 1) % MASK_STYLES.length];
    say(`masks: ${view.style}`);
    showMasks();
  },
  points: () => { view.showPoints = !view.showPoints; view.drawMarks(); },
  hide: () => { hidden = true; view.showPoints = false; showMasks(); },
  undo: () => model.act("undo"), redo: () => model.act("redo"),
  save,
  help: () => byId("help").showModal(),
  escape: () => {
    Object.assign(view, { boxMode: false, crosshair: null });
    negative = false;
    stopPlaying();
    showMode();
    byId("stage").focus();
  },
};

function showMode() {
  const modes = [negative && "clicks mark what is OUTSIDE (N)", view.boxMode && "drag a box (B)",
    view.crosshair && "crosshair: arrows, Enter, Alt+Enter (K)"].filter(Boolean);
  byId("mode").hidden = !modes.length;
  byId("mode").textContent = modes.join(" · ");
  view.drawMarks();
}

/** Move or use the crosshair; tells whether the key was for it. */
function crosshairKey(event) {
  if (!view.crosshair) return false;
  const step = event.shiftKey ? 10 : 1, [x, y] = view.crosshair;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (moves[event.code]) {
    view.crosshair = view.clamped([x + moves[event.code][0], y + moves[event.code][1]]);
    view.drawMarks();
    return true;
  }
  if (event.key !== "Enter") return false;
  click(view.shown, view.crosshair, event.altKey || negative);
  return true;
}

function keyDown(event) {
  const typing = event.target.closest("input, select, dialog[open]");
  if (typing || !model.state) return;
  const onControl = event.target.closest("button, a");
  if (onControl && ["Enter", " ", "Tab"].includes(event.key)) return;
  if (event.key === "Tab" && event.target !== byId("stage")) return;
  if (crosshairKey(event)) { event.preventDefault(); return; }
  if (event.key === " ") { // plays when it comes up, unless something was dragged
    event.preventDefault();
    if (!view.spaceHeld) Object.assign(view, { spaceHeld: true, panned: false });
    return;
  }
  const binding = bindingOf(event);
  if (!binding) return;
  event.preventDefault();
  actions[binding.id](event);
}

function keyUp(event) {
  if (event.key === " " && view?.spaceHeld) {
    view.spaceHeld = false;
    if (!view.panned && !event.target.closest("input, dialog[open], button")) play();
  }
  if (event.key.toLowerCase() === "h" && hidden) {
    hidden = false;
    view.showPoints = true;
    showFrame();
  }
}

// --- texts --------------------------------------------------------------------------------

function say(text) { byId("status").textContent = text; }

function notice(text, ...buttons) {
  const box = byId("notice");
  box.hidden = !text;
  box.replaceChildren(text, ...buttons.map(([name, does]) => {
    const button = document.createElement("button");
    button.textContent = name;
    button.type = "button";
    button.onclick = does;
    return button;
  }));
}

function showNotices() {
  const { state } = model;
  if (model.unsent) return;
  if (state.writer && state.writer !== model.client) {
    notice("Another tab edits this session; this one only shows it.",
      ["Edit here", () => model.post("take-over")]);
  } else if (state.outside) {
    const { added, removed, error } = state.outside;
    const change = error || `${added} rows more, ${removed} rows less`;
    notice(`${state.points_file} was changed by another program: ${change}.`,
      ...(error ? [] : [["Take its rows", () => model.post("outside", { take: true })]]),
      ["Keep mine", () => model.post("outside", { take: false })]);
  } else {
    notice(state.save_error);
  }
}

function failed(error) {
  if (model.unsent) {
    notice(`Not saved: ${error.message}`, ["Try again", () => model.retry()]);
  } else {
    say(error.message);
  }
}


/** Format seconds to the millisecond. @param {number} time */
function clock(time) {
  const ms = Math.round(time * 1000);
  return `${Math.floor(ms / 60_000)}:${((ms % 60_000) / 1000).toFixed(3).padStart(6, "0")}`;
}

const rgbOf = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// --- start --------------------------------------------------------------------------------

function connect() {
  model.addEventListener("state", () => {
    showNotices();
    byId("undo").disabled = !model.state.can_undo;
    byId("redo").disabled = !model.state.can_redo;
    byId("stop").disabled = !model.state.running;
    byId("progress").textContent = model.state.running?.text ?? "";
    if (view?.shown !== null) showFrame();
    document.body.dataset.rev = model.state.rev;
  });
  model.addEventListener("masks", ({ detail }) => {
    if (following && model.state.running) goTo(detail.frame, { byPerson: false });
    else if (detail.frame === view.shown) drawMasks(detail);
  });
  model.addEventListener("progress", ({ detail }) => {
    if (model.state.running) byId("progress").textContent = detail;
  });
  model.addEventListener("failure", ({ detail }) => failed(detail));
  model.addEventListener("message", ({ detail }) => {
    const { queue } = model.state;
    say(`${detail}; ${queue.length ? `J leads to ${queue.length} frames worth a look` : "Ctrl S saves the items"}`);
  });
  model.addEventListener("offline", () => notice("The server does not answer. What was saved is safe; start it again."));
  model.addEventListener("online", () => { notice(""); showNotices(); });
  view.addEventListener("click", ({ detail }) => click(detail.frame, detail.xy, detail.outside || negative));
  view.addEventListener("box", async ({ detail: { frame, xyxy: [x1, y1, x2, y2] } }) => {
    view.boxMode = false;
    showMode();
    await model.act("box", { frame, object: current, x1, y1, x2, y2,
      class: model.object(current) ? undefined : model.state.next_class });
  });
  view.addEventListener("move", ({ detail: { frame, point, to } }) => model.act("move",
    { frame, object: current, x: point.x, y: point.y, to_x: to[0], to_y: to[1] }));
  view.addEventListener("remove", ({ detail: { frame, point } }) => model.act("unpoint",
    { frame, object: current, x: point.x, y: point.y }));
  view.addEventListener("hover", ({ detail: { xy, event } }) => {
    if (event.shiftKey) preview(xy, event.altKey || negative); else endHover();
  });
  view.addEventListener("hover-end", endHover);
  view.addEventListener("redraw", () => showFrame());
  addEventListener("keydown", keyDown);
  addEventListener("keyup", keyUp);
  byId("frame").addEventListener("change", () => {
    const number = Number(byId("frame").value);
    if (Number.isInteger(number)) goTo(number); else byId("frame").value = view.shown;
    byId("stage").focus();
  });
  byId("frame").addEventListener("keydown", (event) => { // a number that stays is no change
    if (event.key === "Escape") byId("frame").value = view.shown;
    if (["Enter", "Escape"].includes(event.key)) byId("stage").focus();
  });
  const buttons = { "new-object": "new-object", class: "class", gone: "gone", propose: "propose", undo: "undo", redo: "redo", "run-backward": "run-backward",
    "run-forward": "run-forward", "run-both": "run-both", "next-stop": "next-stop", "next-listed": "next-listed",
    "looks-right": "looks-right", save: "save", "help-button": "help" };
  for (const [id, name] of Object.entries(buttons)) byId(id).onclick = () => actions[name]();
  byId("stop").onclick = () => model.post("stop");
  byId("dataset").onclick = build;
  byId("class-dialog").addEventListener("close", () => {
    const name = byId("class-name").value.trim();
    if (byId("class-dialog").returnValue === "ok" && name) {
      model.act("class", { object: current, class: name })
        .then((done) => done && say(`object ${current} is of class ${name}`));
    }
  });
  byId("delete-dialog").addEventListener("close", () => {
    if (byId("delete-dialog").returnValue === "ok") model.act("delete", { object: current });
  });
}

async function start() {
  fillSheet(byId("help"));
  try {
    await model.load();
  } catch (error) {
    notice(error.message);
    return;
  }
  const { clip } = model.state;
  document.title = `${clip.name} - annotate point`;
  byId("clip").textContent = clip.name;
  if (clip.variable_rate) times = await (await call("times")).json();
  frames = new Frames(clip.frames);
  view = new View(byId("stage"), clip);
  lanes = new Lanes(byId("lanes"), clip.frames, goTo);
  panel = new Panel(select, (stop) => { if (stop.object !== null) current = stop.object; goTo(stop.frame); },
    goToListed);
  connect();
  current = model.state.objects[0]?.id ?? 1;
  const { detectors } = model.state;
  byId("detector").replaceChildren(...detectors.map((each) => new Option(each)));
  byId("detector-row").hidden = !detectors.length;
  showNotices();
  await goTo(model.state.range[0]);
  byId("stage").focus();
  const toLabel = model.state.to_label;
  if (toLabel.some((each) => !each.done)) {
    say(`${toLabel.filter((each) => !each.done).length} frames to label: L goes to the first. ? shows all keys.`);
  } else if (!model.state.objects.length) {
    say("Click inside an object to see its mask. O begins the next object, F propagates, ? shows all keys.");
  }
  document.body.dataset.ready = "true";
}

start();
