// Shows a rater one clip or pair after the other, and sends each answer before it asks for more.
"use strict";

const PERIOD_MS = 160;
const STAY = 5; // Ticks for which the last moment stays: it is the one that is judged.
const KEYS = {
  clip: { y: "reached", n: "not reached", s: "skip", u: "undo", " ": "pause" },
  pair: { a: "left is better", b: "right is better", t: "tie", s: "skip", u: "undo", " ": "pause" },
};
const ANSWERS = {
  clip: { y: { success: true }, n: { success: false }, s: {} },
  pair: { a: { better: "left" }, b: { better: "right" }, t: { better: "tie" }, s: {} },
};
const rater = new URLSearchParams(location.search).get("rater");
const state = { asked: null, stars: null, busy: false, playing: true, tick: 0, players: [] };

const at = (id) => document.getElementById(id);
const make = (tag, props = {}) => Object.assign(document.createElement(tag), props);

function notice(text) {
  at("notice").textContent = text || "";
  at("notice").hidden = !text;
}

async function call(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const reply = await fetch(path, options);
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.message);
  return said;
}

function player(clip, camera) {
  const canvas = make("canvas", { width: 4, height: 4 });
  const images = Array.from({ length: clip.moments }, (_, index) => make("img", { src: `/clip/${clip.clip}/${camera}/${index}.jpg` }));
  const figure = make("figure");
  figure.append(canvas, make("figcaption", { textContent: camera }));
  const draw = (index) => {
    const image = images[index];
    if (!image.complete || !image.naturalWidth) return;
    if (canvas.width !== image.naturalWidth) Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
    canvas.getContext("2d").drawImage(image, 0, 0);
  };
  return { figure, draw, loaded: () => images.every((image) => image.complete) };
}

function showClip(clip, title) {
  const box = make("div", { className: "clip" });
  const views = make("div", { className: "views" });
  const line = make("div", { className: "line" });
  const mark = make("span");
  const players = clip.cameras.map((camera) => player(clip, camera));
  views.append(...players.map((one) => one.figure));
  line.append(mark);
  if (title) box.append(make("h3", { textContent: title }));
  box.append(views, line);
  state.players.push((tick) => {
    if (!players.every((one) => one.loaded())) return false;
    const index = Math.min(tick % (clip.moments + STAY), clip.moments - 1);
    for (const one of players) one.draw(index);
    mark.style.width = `${(100 * (index + 1)) / clip.moments}%`;
    return true;
  });
  return box;
}

function button(key, text) {
  const made = make("button", { type: "button" });
  made.dataset.key = key;
  made.append(make("kbd", { textContent: key === " " ? "space" : key }), text);
  return made;
}

function showStars() {
  const words = ["", "nothing of it", "a little", "half", "nearly", "done well"];
  at("stars").replaceChildren(...[1, 2, 3, 4, 5].map((stars) => {
    const made = button(String(stars), words[stars]);
    made.setAttribute("aria-pressed", String(state.stars === stars));
    return made;
  }));
}

function show(asked) {
  Object.assign(state, { asked, stars: null, tick: 0, playing: true, players: [] });
  at("rater").textContent = asked.rater;
  at("count").textContent = `${asked.done} of ${asked.of}`;
  Object.assign(at("bar"), { value: asked.done, max: Math.max(1, asked.of) });
  at("done").hidden = asked.item !== null;
  at("ask").hidden = asked.item === null;
  document.body.dataset.item = asked.item || "";
  if (asked.item === null) return;
  const pair = asked.kind === "pair";
  at("goal").textContent = asked.goal;
  at("question").textContent = pair ? "Which of the two went better?" : "Is the goal reached at the end? Give stars first, if you like.";
  at("clips").className = asked.kind;
  at("clips").replaceChildren(...asked.clips.map((clip, index) => showClip(clip, pair ? ["a: left", "b: right"][index] : "")));
  at("stars").hidden = pair;
  showStars();
  at("keys").replaceChildren(...Object.entries(KEYS[asked.kind]).map(([key, text]) => button(key, text)));
}

async function send(path, body) {
  if (state.busy) return;
  state.busy = true;
  try {
    show(await call(path, body));
    notice("");
  } catch (error) {
    notice(`Not kept: ${error.message}`);
  } finally {
    state.busy = false;
  }
}

function press(key) {
  if (key === "u") return send("/undo", { rater });
  if (!state.asked || state.asked.item === null) return undefined;
  if (key === " ") {
    state.playing = !state.playing;
    document.body.dataset.playing = state.playing;
    return undefined;
  }
  const { kind, item } = state.asked;
  if (kind === "clip" && "12345".includes(key)) {
    state.stars = state.stars === Number(key) ? null : Number(key);
    return showStars();
  }
  const answer = ANSWERS[kind][key];
  if (!answer) return undefined;
  const stars = kind === "clip" && key !== "s" ? state.stars : null;
  return send("/answer", { rater, item, ...answer, ...(stars && { stars }) });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !rater) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : "";
  if (!key) return;
  // A button that has the focus would take the space bar for itself.
  if (key === " ") event.preventDefault();
  press(key);
});
document.addEventListener("click", (event) => {
  const pressed = event.target.closest("button[data-key]");
  if (!pressed) return;
  pressed.blur();
  press(pressed.dataset.key);
});
setInterval(() => {
  // Both clips of a pair begin together, once every picture is here.
  const drawn = state.players.map((draw) => draw(state.tick));
  if (state.playing && drawn.every(Boolean)) state.tick += 1;
}, PERIOD_MS);

async function begin() {
  if (rater) {
    await send(`/next?rater=${encodeURIComponent(rater)}`);
    return;
  }
  const names = await call("/raters");
  at("who").hidden = false;
  at("names").replaceChildren(...names.map((name) => {
    const made = make("button", { type: "button", textContent: name });
    made.addEventListener("click", () => location.assign(`/?rater=${encodeURIComponent(name)}`));
    return made;
  }));
}
begin();
