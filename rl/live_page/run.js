// Learning: success of the newest run, and what its reward model said of the last judged episode.
"use strict";

const NAMES = { REWARDER: "rewarder", POLICY_SERVER: "policy server", LEARNER: "learner" };
const queues = new Map();
const reward = { episode: null, plot: null, index: 0, playing: true, judged: null, screens: [] };
let successPlot = null;

function showLinks(disk, links) {
  const items = [element("li", { className: disk.free_gb < 5 ? "bad" : "good", textContent: `disk ${disk.free_gb.toFixed(0)} GB free of ${disk.total_gb.toFixed(0)}` })];
  for (const [name, link] of Object.entries(links)) {
    const text = link.ok ? `${NAMES[name] || name} ${link.ms} ms` : `${NAMES[name] || name} does not answer`;
    items.push(element("li", { className: link.ok ? "good" : "bad", textContent: text }));
  }
  document.getElementById("links").replaceChildren(...items);
}

function showSuccess(run) {
  const box = document.getElementById("success-plot");
  const curve = run && run.curve;
  document.getElementById("goal").textContent = run ? `${run.goal} ${run.run}: ${run.episodes} episodes, ${run.steps} steps` : "No run yet: make train-rl";
  const rate = document.getElementById("rate");
  rate.replaceChildren();
  if (run && run.recent) {
    const { won, of, lower, upper } = run.recent;
    const judge = curve ? `; judged by ${curve.judge}` : "";
    rate.append(`${Math.round((100 * won) / of)} % `, element("small", { textContent: `${won} of the newest ${of} (${Math.round(100 * lower)}–${Math.round(100 * upper)} % at 95 %)${judge}` }));
  }
  box.classList.toggle("empty-plot", !curve);
  if (!curve) return;
  const data = [curve.steps, curve.lower, curve.upper, curve.rate];
  if (successPlot) successPlot.setData(data);
  else successPlot = makePlot(box, successOptions, data);
}

// What a second model makes of the rewarded successes, and whether that has frozen the updates.
function showAudit(run) {
  const line = document.getElementById("audit");
  const audit = run && run.audit;
  line.hidden = !audit;
  line.textContent = "";
  if (!audit) return;
  line.classList.toggle("alarm", audit.frozen !== null);
  const share = audit.of ? `Audits: ${audit.right} of ${audit.of} rewarded successes confirmed (at least ${Math.round(100 * audit.lower)} % at 95 %)` : "No audit counts yet";
  line.textContent = audit.frozen ? `Updates are frozen: ${audit.frozen}. Let them go on: make unfreeze RUN=${run.run} why="…"` : share;
}

function showReward(judged) {
  const box = document.getElementById("reward-plot");
  document.getElementById("player").hidden = !judged;
  box.classList.toggle("empty-plot", !judged);
  if (!judged) {
    document.getElementById("episode").textContent = "No judged episode yet: it is shown here with what the reward model said at each picture.";
    return;
  }
  if (reward.episode === judged.episode) return;
  Object.assign(reward, { episode: judged.episode, judged, index: 0 });
  document.getElementById("episode").textContent = story(judged);
  const screens = judged.cameras.map((camera) => makeScreen(judged.episode, camera));
  reward.screens = screens;
  document.getElementById("screens").replaceChildren(...screens.map((screen) => screen.figure));
  const scrub = document.getElementById("scrub");
  scrub.max = judged.seconds.length - 1;
  if (reward.plot) dropPlot(reward.plot);
  box.replaceChildren();
  const data = [judged.seconds, judged.progress, judged.success.map((won) => (won ? 1 : 0))];
  reward.plot = makePlot(box, (width, height) => rewardOptions(width, height, () => judged.seconds[reward.index]), data);
  showQueue(judged.streaming);
  showMoment();
}

// Rows that each arm had left whenever it asked the policy server for more, in the last minute.
function showQueues(link) {
  const arms = (link && link.arms) || {};
  document.getElementById("policy").hidden = Object.keys(arms).length === 0;
  for (const [arm, queue] of Object.entries(arms)) {
    if (!queues.has(arm)) queues.set(arm, makeQueue(arm));
    const { line, plot } = queues.get(arm);
    const now = queue.rows_left.length ? `${queue.rows_left[queue.rows_left.length - 1]} rows left when it last asked` : "asked for nothing in the last minute";
    line.textContent = `${arm}: ${now}; ran out ${queue.underflows} times`;
    line.classList.toggle("alarm", queue.rows_left[queue.rows_left.length - 1] === 0);
    plot.setData([queue.ages_s.map((age) => -age), queue.rows_left]);
  }
  for (const [arm, { line, box, plot }] of queues) {
    if (arm in arms) continue;
    dropPlot(plot);
    line.remove();
    box.remove();
    queues.delete(arm);
  }
}

function makeQueue(arm) {
  const line = element("p", { className: "soft" });
  const box = element("div", { className: "plot live-queue" });
  document.getElementById("queues").append(line, box);
  return { line, box, plot: makePlot(box, liveQueueOptions, [[], []]) };
}

// Rows ahead of the arm at each step of the last judged episode.
function showQueue(streaming) {
  const [line, box] = [document.getElementById("queue"), document.getElementById("queue-plot")];
  line.hidden = box.hidden = !streaming;
  if (!streaming) return;
  line.textContent = `Rows ahead of the arm: ${streaming.chunks} chunks, at most ${streaming.delay_steps_max} steps late; ran out ${streaming.underflows} times, held in ${streaming.starved_steps} of ${streaming.steps} steps`;
  const data = [streaming.queue.map((_, step) => step), streaming.queue];
  if (reward.queue) reward.queue.setData(data);
  else reward.queue = makePlot(box, queueOptions, data);
}

function story(judged) {
  const truth = judged.truth === null || judged.truth === undefined ? "" : judged.truth ? "; in truth a success" : "; in truth no success";
  const total = typeof judged.return === "number" ? `, return ${judged.return.toFixed(1)}` : "";
  return `${judged.arm} by ${judged.policy}, judged by ${judged.model}${total}${truth}. Line: progress; shaded: success.`;
}

function makeScreen(episode, camera) {
  const image = element("img", { alt: `Camera ${camera}` });
  const figure = element("figure", {}, image, element("figcaption", { textContent: camera }));
  return { figure, show: (index) => (image.src = `/episode/${episode}/${camera}/${index}.jpg`) };
}

function showMoment() {
  const { judged, index } = reward;
  reward.screens.forEach((screen) => screen.show(index));
  document.getElementById("scrub").value = index;
  const progress = judged.progress[index];
  const said = progress === null ? "could not tell" : `progress ${progress.toFixed(2)}, reward ${(progress - 1).toFixed(2)}`;
  document.getElementById("moment").textContent = `${judged.seconds[index].toFixed(1)} s: ${judged.success[index] ? "success" : said}`;
  if (reward.plot) reward.plot.redraw(false);
}

function play() {
  if (!reward.playing || !reward.judged || document.hidden) return;
  reward.index = (reward.index + 1) % reward.judged.seconds.length;
  showMoment();
}

async function refresh() {
  try {
    const answer = await fetch("/run");
    if (!answer.ok) return;
    const { run, disk, links } = await answer.json();
    showLinks(disk, links);
    showSuccess(run);
    showAudit(run);
    showReward(run && run.judged);
    showQueues(links.POLICY_SERVER);
  } catch (error) {
    // The pill in the header says that the dashboard does not answer.
  }
}

document.getElementById("play").addEventListener("click", (event) => {
  reward.playing = !reward.playing;
  event.target.textContent = reward.playing ? "Pause" : "Play";
});
document.getElementById("scrub").addEventListener("input", (event) => {
  reward.playing = false;
  document.getElementById("play").textContent = "Play";
  reward.index = Number(event.target.value);
  showMoment();
});
refresh();
setInterval(refresh, 1000);
setInterval(play, 200);
