// The table of keys: the page binds from it, and the sheet of keys is made from it.
// Letters go by what the layout writes, digits and arrows by the place of the key.

/** @typedef {{id: string, keys: string[], text: string, group: string, repeats?: boolean}} Binding */

/** @type {Binding[]} */
export const BINDINGS = [
  { id: "back", keys: ["ArrowLeft"], text: "one frame back", group: "Frames", repeats: true },
  { id: "forward", keys: ["ArrowRight"], text: "one frame on", group: "Frames", repeats: true },
  { id: "back-10", keys: ["Shift+ArrowLeft"], text: "10 frames back", group: "Frames", repeats: true },
  { id: "forward-10", keys: ["Shift+ArrowRight"], text: "10 frames on", group: "Frames", repeats: true },
  { id: "previous-prompt", keys: ["Ctrl+ArrowLeft"], text: "previous frame with points", group: "Frames" },
  { id: "next-prompt", keys: ["Ctrl+ArrowRight"], text: "next frame with points", group: "Frames" },
  { id: "first", keys: ["Home"], text: "first frame", group: "Frames" },
  { id: "last", keys: ["End"], text: "last frame", group: "Frames" },
  { id: "go-to", keys: ["g"], text: "go to a frame by its number", group: "Frames" },
  { id: "play", keys: ["Space"], text: "play, pause", group: "Frames" },
  { id: "new-object", keys: ["o"], text: "new object: the next click starts it", group: "Objects" },
  { id: "next-object", keys: ["Tab"], text: "next object", group: "Objects" },
  { id: "previous-object", keys: ["Shift+Tab"], text: "previous object", group: "Objects" },
  { id: "object-number", keys: ["Digit"], text: "1 to 9, 0: object by its place in the list", group: "Objects" },
  { id: "class", keys: ["c"], text: "class of the object", group: "Objects" },
  { id: "gone", keys: ["x"], text: "the object is gone from here, until its next point", group: "Objects" },
  { id: "clear", keys: ["Delete", "Backspace"], text: "remove the object's points on this frame", group: "Objects" },
  { id: "delete", keys: ["Shift+Delete"], text: "delete the object on all frames", group: "Objects" },
  { id: "negative", keys: ["n"], text: "clicks mark what is outside; again: inside", group: "Points" },
  { id: "box", keys: ["b"], text: "the next drag draws a box", group: "Points" },
  { id: "crosshair", keys: ["k"], text: "point by keys: arrows move, Enter inside, Alt+Enter outside", group: "Points" },
  { id: "propose", keys: ["d"], text: "let the chosen detector propose boxes on this frame", group: "Points" },
  { id: "accept", keys: ["Enter"], text: "accept the proposed boxes of this frame", group: "Points" },
  { id: "run-forward", keys: ["f"], text: "propagate forward; again: stop", group: "Propagate" },
  { id: "run-backward", keys: ["r"], text: "propagate backward; again: stop", group: "Propagate" },
  { id: "run-both", keys: ["t"], text: "propagate both ways; again: stop", group: "Propagate" },
  { id: "range-in", keys: ["i", "["], text: "propagate from here on only; again: from the start", group: "Propagate" },
  { id: "range-out", keys: ["Shift+I", "]"], text: "propagate up to here only; again: to the end", group: "Propagate" },
  { id: "next-stop", keys: ["j", "."], text: "next frame worth a look", group: "Worth a look" },
  { id: "previous-stop", keys: ["Shift+J", ","], text: "previous frame worth a look", group: "Worth a look" },
  { id: "looks-right", keys: ["y"], text: "this frame looks right, or has nothing to label; go to the next", group: "Worth a look" },
  { id: "next-listed", keys: ["l"], text: "next frame to label", group: "To label" },
  { id: "previous-listed", keys: ["Shift+L"], text: "the frame to label before this one", group: "To label" },
  { id: "zoom-object", keys: ["z"], text: "zoom to the object; again: whole picture", group: "View" },
  { id: "zoom-in", keys: ["+", "="], text: "zoom in", group: "View", repeats: true },
  { id: "zoom-out", keys: ["-"], text: "zoom out", group: "View", repeats: true },
  { id: "masks", keys: ["m"], text: "masks: filled, outlines, off", group: "View" },
  { id: "points", keys: ["p"], text: "points: on, off", group: "View" },
  { id: "hide", keys: ["h"], text: "hide all while held", group: "View" },
  { id: "undo", keys: ["Ctrl+z"], text: "undo", group: "Session", repeats: true },
  { id: "redo", keys: ["Ctrl+Shift+Z", "Ctrl+y"], text: "redo", group: "Session", repeats: true },
  { id: "save", keys: ["Ctrl+s"], text: "save the items", group: "Session" },
  { id: "help", keys: ["?"], text: "this sheet", group: "Session" },
  { id: "escape", keys: ["Escape"], text: "leave a mode", group: "Session" },
];

/** What the pointer does: for the sheet only. */
export const POINTER = [
  ["click", "a point inside the object"],
  ["right click, Alt+click, long press", "a point outside the object"],
  ["click on a point", "remove it"],
  ["drag a point", "move it"],
  ["Shift held", "preview of what a click would give; with Alt: outside"],
  ["wheel, pinch", "zoom at the pointer"],
  ["Space+drag, middle button, two fingers", "move the picture"],
  ["click on a lane", "go to that frame"],
];

/** Name the key of an event as the table does. @param {KeyboardEvent} event */
export function keyName(event) {
  if (/^(Digit|Numpad)[0-9]$/.test(event.code) && !event.ctrlKey && !event.metaKey && !event.altKey
      && !event.shiftKey) return "Digit";
  const place = /^(Arrow|Home$|End$)/.test(event.code);
  let key = event.key === " " ? "Space" : place ? event.code : event.key;
  const single = key.length === 1, letter = single && key.toLowerCase() !== key.toUpperCase();
  const control = event.ctrlKey || event.metaKey;
  if (letter) key = event.shiftKey ? key.toUpperCase() : key.toLowerCase();
  // a sign such as ? needs Shift on one layout and not on another
  const shift = event.shiftKey && (!single || letter);
  return `${control ? "Ctrl+" : ""}${event.altKey && !single ? "Alt+" : ""}${shift ? "Shift+" : ""}${key}`;
}

/** @param {KeyboardEvent} event @returns {Binding | undefined} */
export function bindingOf(event) {
  const name = keyName(event);
  return BINDINGS.find((each) => each.keys.includes(name) && (each.repeats || !event.repeat));
}

/** The digit of a key, 0 to 9. @param {KeyboardEvent} event */
export function digitOf(event) { return Number(event.code.slice(-1)); }

/** Build the sheet of keys. @param {HTMLElement} into */
export function fillSheet(into) {
  const columns = document.createElement("div");
  columns.className = "columns";
  const groups = Object.groupBy(BINDINGS, (each) => each.group);
  for (const [group, bindings] of Object.entries(groups)) {
    columns.append(table(group, bindings.map((each) => [each.keys.map(shown), each.text])));
  }
  columns.append(table("Pointer", POINTER.map(([does, text]) => [[does], text])));
  into.replaceChildren(columns);
}

const SHOWN = { ArrowLeft: "←", ArrowRight: "→", Digit: "1…9, 0", Delete: "Del" };
const shown = (key) => (key === "+" ? key : key.split("+").map((part) => SHOWN[part]
  ?? (part.length === 1 ? part.toUpperCase() : part)).join(" "));

function table(group, rows) {
  const section = document.createElement("section"), body = document.createElement("table");
  const heading = document.createElement("h2");
  heading.textContent = group;
  for (const [keys, text] of rows) {
    const row = body.insertRow(), cell = row.insertCell();
    for (const key of keys) {
      const sign = document.createElement("kbd");
      sign.textContent = key;
      cell.append(sign, " ");
    }
    row.insertCell().textContent = text;
  }
  section.append(heading, body);
  return section;
}
