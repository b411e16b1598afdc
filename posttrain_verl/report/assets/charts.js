"use strict";
// Curves, drawn by uPlot on canvases. Arrow keys move the cursor, whose values stand in the legend.
const Charts = (() => {
  const HEIGHT = 180;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (value) => (value == null ? "" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4)));
  const shown = (figure) => (figure.percent ? (value) => (value == null ? "" : `${+(100 * value).toFixed(1)} %`) : short);

  function draw() {
    for (const { plot, watch } of drawn) { watch.disconnect(); plot.destroy(); }
    const [figures, marks] = ["figures", "marks"].map((id) => JSON.parse(document.getElementById(id)?.textContent ?? "[]"));
    drawn = figures.map((figure) => chart(figure, marks[figure.part] ?? []));
  }

  function chart(figure, marks) {
    const root = document.getElementById(figure.id);
    root.querySelectorAll(".canvas, .values").forEach((old) => old.remove());
    const holder = document.createElement("div");
    holder.className = "canvas";
    holder.tabIndex = 0;
    holder.setAttribute("role", "img");
    holder.setAttribute("aria-label", `${figure.title}. ${figure.curves.map((curve) => spoken(figure, curve)).join(" ")}`);
    root.append(holder, values(figure));
    const plot = new uPlot(options(figure, marks, holder.clientWidth), columns(figure), holder);
    const watch = new ResizeObserver(() => plot.setSize({ width: holder.clientWidth, height: HEIGHT }));
    watch.observe(holder);
    holder.addEventListener("keydown", (event) => move(plot, figure, event));
    return { plot, watch };
  }

  function columns(figure) {
    const own = figure.curves.map((curve) => curve.y);
    if (!figure.stacked) return [figure.x, ...own];
    const sum = new Array(figure.x.length).fill(0);
    return [figure.x, ...own.map((y) => y.map((value, i) => (sum[i] += value)))];
  }

  function options(figure, marks, width) {
    const ink = colour("--quiet"), line = colour("--line"), format = shown(figure);
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, font: "12px system-ui, sans-serif" };
    return {
      width, height: HEIGHT,
      cursor: { sync: { key: `steps-${figure.part}` }, drag: { x: true, y: false }, points: { size: 6 } },
      scales: { x: { time: false }, y: figure.log ? { distr: 3 } : { range: (u, low, high) => range(figure, low, high) } },
      axes: [{ ...axis, size: 32, values: (u, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : "")) },
             { ...axis, size: 62, values: (u, ticks) => ticks.map((tick) => (tick == null ? "" : format(tick))) }],
      series: [{ label: "step" }, ...figure.curves.map((curve, i) => series(figure, curve, i))],
      bands: figure.stacked ? figure.curves.slice(1).map((_, i) => ({ series: [i + 2, i + 1] })) : [],
      hooks: { draw: [(plot) => marks.forEach((mark) => drawMark(plot, mark))] },
    };
  }

  // A flat curve gets an axis of its own size: uPlot would draw 0 % on one that ends at 10,000 %.
  function range(figure, low, high) {
    if (low === null) return [0, 1];
    if (figure.stacked) return [0, high * 1.05 || 1];
    if (low < high) return uPlot.rangeNum(low, high, 0.1, true);
    return low === 0 || (figure.percent && low <= 1) ? [0, 1] : [low - Math.abs(low) / 10, low + Math.abs(low) / 10];
  }

  function series(figure, curve, i) {
    const noisy = figure.curves.some((other) => other.trend) && !curve.trend;
    const stroke = colour(`--c${curve.trend ? 0 : i % 10}`);
    const known = curve.y.reduce((count, value) => count + (value != null), 0);
    return {
      label: curve.label || figure.title.toLowerCase(), stroke: noisy ? stroke + "66" : stroke, width: figure.stacked ? 1 : noisy ? 1 : 2,
      fill: figure.stacked ? stroke + "b0" : undefined, spanGaps: true, points: { show: known <= 30 && !figure.stacked, size: 5, fill: stroke },
      value: (u, value, s, at) => (at == null ? "–" : shown(figure)(curve.y[at]) || "–"),
    };
  }

  function drawMark(plot, mark) {
    const { ctx, bbox } = plot, x = plot.valToPos(mark.step, "x", true);
    if (!(x >= bbox.left && x <= bbox.left + bbox.width)) return;
    ctx.save();
    ctx.strokeStyle = colour(mark.level === "stop" ? "--bad" : "--warn");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4, 3]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  function spoken(figure, curve) {
    const known = curve.y.map((value, i) => [value, figure.x[i]]).filter(([value]) => value != null);
    if (!known.length || curve.trend) return "";
    const say = shown(figure), [first, start] = known[0], [last, end] = known.at(-1);
    let low = first, high = first;
    for (const [value] of known) { low = Math.min(low, value); high = Math.max(high, value); }
    return `${curve.label || "value"}: ${say(first)} at step ${start}, ${say(last)} at step ${end}, from ${say(low)} to ${say(high)}.`;
  }

  // At most 12 steps, evenly spaced, as a table: for screen readers, and for whoever wants numbers.
  function values(figure) {
    const details = document.createElement("details");
    details.className = "values";
    details.id = `values-${figure.id}`;
    details.innerHTML = "<summary>Values</summary>";
    details.addEventListener("toggle", () => {
      if (details.querySelector("table")) return;
      const n = figure.x.length, picked = [...new Set(Array.from({ length: Math.min(n, 12) }, (_, i) => Math.round((i * (n - 1)) / Math.max(1, Math.min(n, 12) - 1))))];
      const table = details.appendChild(document.createElement("div")).appendChild(document.createElement("table"));
      table.parentElement.className = "scroll";
      table.parentElement.tabIndex = 0;
      cells(table.createTHead().insertRow(), ["step", ...figure.curves.map((curve) => curve.label || figure.title)], "th");
      const body = table.createTBody();
      for (const at of picked) cells(body.insertRow(), [figure.x[at], ...figure.curves.map((curve) => shown(figure)(curve.y[at]))], "td");
    });
    return details;
  }

  function cells(row, texts, tag) {
    for (const text of texts) row.appendChild(document.createElement(tag)).textContent = text;
  }

  function move(plot, figure, event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const last = figure.x.length - 1, from = plot.cursor.idx ?? (by < 0 ? last + 1 : -1);
    const at = Math.max(0, Math.min(last, from + by));
    plot.setCursor({ left: plot.valToPos(figure.x[at], "x"), top: 10 });
  }

  dark.addEventListener("change", draw);
  return { draw };
})();
Charts.draw();
performance.mark("curves"); // benchmarks/report.py asks when
