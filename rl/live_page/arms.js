// Arms: what they do, what they see, and how to stop them.
"use strict";

const JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];
const KEPT_S = 22;
const PICTURE_MS = 110;
const SHORT = 5;
const cards = new Map();
let lastEvent = 0;

function show(text, fine) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.classList.toggle("fine", fine);
  notice.hidden = false;
  clearTimeout(show.timer);
  show.timer = setTimeout(() => (notice.hidden = true), 8000);
}

async function post(path, content) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    keepalive: true,
  });
  const said = await answer.json();
  return { ok: answer.ok, said };
}

async function stop(arm) {
  try {
    const { ok, said } = await post("/stop", { arm });
    const arms = Object.entries(said);
    const names = (some) => some.map(([name]) => name).join(", ");
    const stopped = arms.filter(([, one]) => one.ok === true);
    const absent = arms.filter(([, one]) => one.absent === true);
    const failed = arms.filter(([, one]) => one.ok !== true && one.absent !== true);
    const alarms = (failed.length ? failed : absent).map(([name, one]) => `${name} (${one.message || one})`);
    if (ok) show(`Stopped: ${names(stopped)}${absent.length ? `. No process: ${names(absent)}` : ""}`, true);
    else show(`NOT stopped: ${alarms.join("; ")}. Use the switch in the servo supply.`, false);
  } catch (error) {
    show("NOT stopped: the dashboard does not answer. Use the switch in the servo supply.", false);
  }
}

async function reset(card, event) {
  event.preventDefault();
  const input = card.form.querySelector("input");
  const { ok, said } = await post("/reset", { arm: card.name, token: input.value });
  input.value = "";
  show(ok ? `${card.name} is reset and holds` : `${card.name}: ${said.message}`, ok);
}

function element(tag, parts = {}, ...children) {
  const made = Object.assign(document.createElement(tag), parts);
  made.append(...children);
  return made;
}

function makeCard(arm) {
  const root = document.getElementById("arm").content.cloneNode(true).firstElementChild;
  const card = { root, name: arm.arm, data: [[], ...JOINTS.map(() => []), ...JOINTS.map(() => [])], plots: [], form: root.querySelector("form"), pictures: [] };
  root.dataset.arm = arm.arm;
  root.querySelector("h2").textContent = arm.arm;
  root.querySelector(".stop").setAttribute("aria-label", `Stop ${arm.arm}`);
  root.querySelector(".stop").addEventListener("click", () => stop(arm.arm));
  card.form.addEventListener("submit", (event) => reset(card, event));
  for (const camera of arm.cameras) card.pictures.push(makePicture(root.querySelector(".cameras"), arm.arm, camera));
  const joints = root.querySelector(".joints");
  joints.append(element("div", { className: "key" }, element("span", {}, element("i"), "measured"), element("span", {}, element("i", { className: "sent" }), "commanded"), "last 20 s"));
  for (const name of JOINTS) {
    const value = element("span", { className: "value", textContent: "–" });
    const plot = element("div", { className: "plot" });
    const joint = element("div", { className: "joint" }, element("div", { className: "name" }, element("span", { textContent: name }), value), plot);
    joints.append(joint);
    card.plots.push({ joint, value, element: plot, plot: null });
  }
  document.getElementById("arms").append(root);
  cards.set(arm.arm, card);
  for (const each of card.plots) each.plot = makePlot(each.element, jointOptions, [[], [], []]);
  return card;
}

// Each picture asks for the next one when it has come: a slow link makes fewer, not older pictures.
function makePicture(parent, arm, camera) {
  const image = element("img", { alt: `${arm}, camera ${camera}`, hidden: true });
  const none = element("div", { className: "none", textContent: "no picture" });
  const rate = element("span");
  parent.append(element("figure", {}, image, none, element("figcaption", {}, element("span", { textContent: camera }), rate)));
  const times = [];
  const next = () => (image.src = `/frames/${arm}/${camera}.jpg?${performance.now()}`);
  image.addEventListener("load", () => {
    image.hidden = false;
    none.hidden = true;
    times.push(performance.now());
    while (times.length > 11) times.shift();
    const span = (times.at(-1) - times[0]) / 1000;
    rate.textContent = span > 0 ? `${((times.length - 1) / span).toFixed(1)}/s` : "";
    setTimeout(next, PICTURE_MS);
  });
  image.addEventListener("error", () => {
    image.hidden = true;
    none.hidden = false;
    rate.textContent = "";
    times.length = 0;
    setTimeout(next, 1000);
  });
  next();
}

function showArm(arm) {
  const card = cards.get(arm.arm) || makeCard(arm);
  const state = arm.state;
  const stale = state !== null && arm.silent_s > 1;
  const mode = card.root.querySelector(".mode");
  card.root.classList.toggle("silent", state === null || stale);
  card.root.classList.toggle("unknown", state === null && card.stamp === undefined);
  card.root.classList.toggle("stopped", state !== null && state.mode === "STOP");
  mode.className = `mode ${state ? state.mode : ""}`;
  mode.textContent = state ? state.mode : "NO ANSWER";
  card.root.querySelector(".reason").textContent = state ? (stale ? `silent for ${arm.silent_s.toFixed(0)} s; last: ` : "") + state.reason : arm.trouble;
  card.form.hidden = !(state && state.mode === "STOP");
  if (state) showState(card, arm, state);
}

function showState(card, arm, state) {
  if (state.stamp === card.stamp) return;
  card.stamp = state.stamp;
  const [times] = card.data;
  if (times.length && state.stamp < times.at(-1)) card.data.forEach((values) => (values.length = 0));
  times.push(state.stamp);
  JOINTS.forEach((_, i) => {
    card.data[1 + i].push(state.joint_pos[i]);
    card.data[1 + JOINTS.length + i].push(state.sent[i]);
  });
  while (times.length && state.stamp - times[0] > KEPT_S) card.data.forEach((values) => values.shift());
  card.plots.forEach(({ joint, value }, i) => {
    const unit = i === 5 ? "" : "°";
    const short = state.sent[i] - state.joint_pos[i];
    value.textContent = `${state.joint_pos[i].toFixed(1)}${unit}`;
    const isShort = i < 5 && Math.abs(short) > SHORT;
    joint.classList.toggle("short", isShort);
    if (isShort) value.textContent += ` (${Math.abs(short).toFixed(0)}° short)`;
  });
  showFacts(card, arm, state);
}

function showFacts(card, arm, state) {
  const health = state.health;
  const facts = [];
  if (health) {
    const hottest = Math.max(...health.temperature_c);
    const load = Math.max(...health.load.map(Math.abs));
    facts.push(["hottest servo", `${hottest.toFixed(0)} °C`, hottest >= 65 ? "hot" : hottest >= 55 ? "warm" : ""]);
    facts.push(["supply", `${Math.min(...health.voltage_v).toFixed(1)} V`, ""]);
    facts.push(["greatest load", `${(100 * load).toFixed(0)} %`, load > 0.8 ? "hot" : load > 0.5 ? "warm" : ""]);
  }
  const guarded = Object.values(state.events).reduce((sum, count) => sum + count, 0);
  facts.push(["guard changed", `${guarded}×`, ""]);
  facts.push(["cycle", `${(1000 * state.cycle_s).toFixed(1)} ms`, ""]);
  facts.push(["latest by", `${(1000 * state.late_s).toFixed(1)} ms`, state.late_s > 0.02 ? "warm" : ""]);
  facts.push(["link", `${arm.round_trip_ms} ms`, ""]);
  facts.push(["driven by", state.clients.join(", ") || "nobody", ""]);
  const key = JSON.stringify([facts, state.faults]);
  if (key === card.facts) return;
  card.facts = key;
  card.root.querySelector(".facts").replaceChildren(...facts.map(([name, value, level]) => element("div", { className: name === "driven by" ? "wide" : "" }, element("dt", { textContent: name }), element("dd", { textContent: value, className: level }))));
  card.root.querySelector(".faults").replaceChildren(...state.faults.slice(-3).map((text) => element("li", { textContent: `! ${text}` })));
}

function drawJoints() {
  for (const card of cards.values()) {
    if (!card.stamp || card.drawn === card.stamp) continue;
    card.drawn = card.stamp;
    card.plots.forEach(({ plot }, i) => plot.setData([card.data[0], card.data[1 + i], card.data[1 + JOINTS.length + i]]));
  }
}

function watchLink() {
  const pill = document.getElementById("link");
  const live = performance.now() - lastEvent < 1500;
  pill.textContent = live ? "live" : "the dashboard does not answer";
  pill.className = `pill ${live ? "good" : "bad"}`;
  for (const card of cards.values()) if (!live) card.root.classList.add("silent");
}

const events = new EventSource("/events");
events.addEventListener("message", (event) => {
  lastEvent = performance.now();
  JSON.parse(event.data).arms.forEach(showArm);
});
setInterval(watchLink, 500);
setInterval(drawJoints, 250);
document.getElementById("stop-all").addEventListener("click", () => stop(null));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop(null);
});
