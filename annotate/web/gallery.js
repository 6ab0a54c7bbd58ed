// The page of search results: keep or reject each hit.

import { call, blobUrl } from "./local.js";

const byId = (id) => document.getElementById(id), cards = [];
const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

function card(hit) {
  const figure = document.createElement("figure"), image = document.createElement("img");
  const caption = document.createElement("figcaption"), when = document.createElement("span");
  const confidence = document.createElement("span");
  image.alt = `${hit.video} at ${clock(hit.seconds)}`;
  when.textContent = `${clock(hit.seconds)} · ${hit.start}–${hit.stop - 1}`;
  confidence.textContent = hit.confidence === null ? "" : hit.confidence.toFixed(2);
  caption.append(when, confidence); figure.append(image, caption);
  figure.tabIndex = 0; figure.dataset.hit = hit.name;
  figure.onclick = () => figure.focus(); figure.ondblclick = () => enlarge(hit);
  figure.hit = hit; cards.push(figure); show(figure);
  return figure;
}

function show(figure) {
  const { keep } = figure.hit;
  figure.className = keep === true ? "kept" : keep === false ? "rejected" : "";
  figure.setAttribute("aria-label", `${figure.hit.name}: ${figure.className || "not decided"}`);
}

function tally() {
  const number = (keep) => cards.filter((each) => each.hit.keep === keep).length;
  byId("tally").textContent = `${cards.length} hits: ${number(true)} kept, `
    + `${number(false)} rejected, ${number(null)} open`;
}

async function decide(figure, keep) {
  const before = figure.hit.keep;
  figure.hit.keep = keep; show(figure); tally();
  try {
    await call("decide", { hit: figure.hit.name, keep });
    byId("error").textContent = "";
  } catch (error) {
    figure.hit.keep = before; show(figure); tally();
    byId("error").textContent = `${figure.hit.name} was not saved: ${error.message}`;
  }
}

function enlarge(hit) {
  byId("full").querySelector("img").src = cards.find((each) => each.hit === hit).querySelector("img").src;
  byId("full").showModal();
}

function move(from, by) {
  const next = cards[Math.min(Math.max(from + by, 0), cards.length - 1)];
  next.focus(); next.scrollIntoView({ block: "nearest" });
}

// How many cards lie between this one and the one below (direction 1) or above (-1).
function stepTo(from, direction) {
  const here = cards[from].getBoundingClientRect(), centre = here.left + here.width / 2;
  const others = cards.filter((each) =>
    (each.getBoundingClientRect().top - here.top) * direction > 2);
  const distance = (each) => { const r = each.getBoundingClientRect();
    return Math.abs(r.top - here.top) * 1e4 + Math.abs(r.left + r.width / 2 - centre); };
  const nearest = (a, b) => distance(b) < distance(a) ? b : a;
  return others.length ? cards.indexOf(others.reduce(nearest)) - from : 0;
}

addEventListener("keydown", (event) => {
  if (!cards.length || event.ctrlKey || event.metaKey || event.altKey) return;
  if (byId("full").open) { if (event.key === "Enter") byId("full").close(); return; }
  const at = Math.max(cards.indexOf(document.activeElement), 0), figure = cards[at];
  const keys = {
    k: () => { decide(figure, true); move(at, 1); }, r: () => { decide(figure, false); move(at, 1); },
    u: () => decide(figure, null), ArrowRight: () => move(at, 1), ArrowLeft: () => move(at, -1),
    ArrowDown: () => move(at, stepTo(at, 1)), ArrowUp: () => move(at, stepTo(at, -1)),
    Enter: () => enlarge(figure.hit),
  };
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) { event.preventDefault(); action(); }
});

// Images are fetched, since an <img> cannot send the token; those near the window first.
const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    blobUrl(target.hit.image).then((url) => { target.querySelector("img").src = url; });
  }
}, { rootMargin: "600px" });

async function start() {
  let data;
  try {
    data = await (await call("hits")).json();
  } catch (error) {
    byId("error").textContent = error.message;
    return;
  }
  document.title = byId("title").textContent = data.title;
  document.documentElement.style.setProperty("--aspect", data.aspect);
  for (const [name, hits] of Object.entries(Object.groupBy(data.hits, (hit) => hit.video))) {
    const heading = document.createElement("h2"), section = document.createElement("section");
    heading.textContent = `${name} · ${hits.length}`;
    section.append(...hits.map(card));
    byId("main").append(heading, section);
  }
  cards.forEach((each) => nearby.observe(each));
  tally();
  if (cards.length) cards[0].focus();
}

start();
