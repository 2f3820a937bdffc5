// Small uPlot charts in the colours of the page.
"use strict";

const plots = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(options = {}) {
  return {
    stroke: () => colour("--soft"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: () => colour("--hair"), width: 1 },
    ticks: { show: false },
    ...options,
  };
}

// `draw(width, height)` returns uPlot's options; the plot follows the size of its element.
function makePlot(element, draw, data) {
  // Modes and stop buttons work without charts.
  if (typeof uPlot === "undefined") return { setData() {}, redraw() {}, destroy() {} };
  const plot = new uPlot(draw(element.clientWidth || 200, element.clientHeight || 60), data, element);
  new ResizeObserver(() => {
    if (element.clientWidth > 0) plot.setSize({ width: element.clientWidth, height: element.clientHeight });
  }).observe(element);
  plots.add(plot);
  return plot;
}

function dropPlot(plot) {
  plots.delete(plot);
  plot.destroy();
}

function jointOptions(width, height) {
  return {
    width,
    height,
    padding: [7, 0, 5, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false, range: (u, low, high) => [high - 20, high] }, y: { range: jointRange } },
    axes: [axis({ show: false }), axis({ size: 34, space: 18, gap: 3 })],
    series: [
      {},
      { stroke: () => colour("--blue"), width: 1.6, points: { show: false } },
      { stroke: () => colour("--orange"), width: 1.6, dash: [5, 4], points: { show: false } },
    ],
  };
}

// A joint at rest is a flat line, not noise enlarged to fill the plot.
function jointRange(plot, low, high) {
  if (low == null) return [-5, 5];
  const middle = (low + high) / 2;
  const half = Math.max(5, 0.6 * (high - low));
  return [middle - half, middle + half];
}

function successOptions(width, height) {
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false },
    scales: { x: { time: false }, y: { range: [0, 1] } },
    axes: [
      axis({ values: (u, all) => all.map((v) => (v >= 1000 ? `${v / 1000}k` : v)), label: "steps of practice", labelSize: 18, labelFont: "11px system-ui, sans-serif", size: 30 }),
      axis({ values: (u, all) => all.map((v) => `${Math.round(100 * v)} %`), size: 46 }),
    ],
    series: [
      {},
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: false } },
      { stroke: () => colour("--blue"), width: 2, points: { show: false } },
    ],
    bands: [{ series: [2, 1], fill: () => colour("--wash") }],
  };
}

function liveQueueOptions(width, height) {
  return {
    width,
    height,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false, range: [-60, 0] }, y: { range: (u, low, high) => [0, Math.max(1, high || 0)] } },
    axes: [axis({ values: (u, all) => all.map((v) => `${v} s`), size: 26 }), axis({ size: 46, space: 24 })],
    series: [{}, { stroke: () => colour("--blue"), width: 1.6, points: { show: true, size: 4 } }],
  };
}

function queueOptions(width, height) {
  return {
    width,
    height,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false }, y: { range: (u, low, high) => [0, Math.max(1, high)] } },
    axes: [axis({ label: "step", labelSize: 16, labelFont: "11px system-ui, sans-serif", size: 26 }), axis({ size: 46, space: 24 })],
    series: [{}, { stroke: () => colour("--blue"), width: 1.6, points: { show: false }, fill: () => colour("--wash"), paths: uPlot.paths.stepped({ align: 1 }) }],
  };
}

function rewardOptions(width, height, shown) {
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: false }, y: { range: [0, 1.02] } },
    axes: [axis({ values: (u, all) => all.map((v) => `${v} s`), size: 26 }), axis({ size: 46, space: 30 })],
    series: [
      {},
      { stroke: () => colour("--orange"), width: 2, points: { show: false }, spanGaps: false },
      { stroke: "transparent", fill: () => colour("--glow"), points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) },
    ],
    hooks: {
      draw: [
        (plot) => {
          const x = Math.round(plot.valToPos(shown(), "x", true));
          plot.ctx.save();
          plot.ctx.strokeStyle = colour("--ink");
          plot.ctx.lineWidth = 2 * devicePixelRatio;
          plot.ctx.beginPath();
          plot.ctx.moveTo(x, plot.bbox.top);
          plot.ctx.lineTo(x, plot.bbox.top + plot.bbox.height);
          plot.ctx.stroke();
          plot.ctx.restore();
        },
      ],
    },
  };
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((plot) => plot.redraw(true)));
