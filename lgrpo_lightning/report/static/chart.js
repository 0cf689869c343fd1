// One chart: uPlot with a tooltip, a keyboard cursor and the page's colours.

const AXIS_FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const FAINT = 0.3; // opacity of the raw curve below its mean
const BAND = 0.14; // opacity of an interval
const LARGE_STEP = 10; // points that Page Up and Page Down move the cursor by

/**
 * A chart of curves over optimizer steps.
 *
 * `view` is shared by all charts: {min, max, smoothing, onZoom(min, max), onReset()}.
 * Returns {box, draw(curves), zoom(), empty}.
 */
class Chart {
  constructor(title, unit, view) {
    this.view = view;
    this.plot = null;
    this.tooltip = element("div", { class: "tooltip", hidden: true });
    this.live = element("span", { class: "hidden-text", "aria-live": "polite" });
    this.area = element("div", { class: "plot", tabindex: 0, role: "application", keydown: (event) => this.onKey(event) });
    this.area.addEventListener("blur", () => this.leave());
    this.key = element("p", { class: "key" });
    this.title = element("h3", {}, title);
    this.box = element("figure", { class: "chart" },
      element("figcaption", {}, this.title, unit ? element("span", { class: "muted" }, unit) : null),
      this.area, this.key, this.live);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.area);
    onThemeChange(() => this.plot?.redraw(false));
  }

  size() {
    return { width: Math.max(200, this.area.clientWidth), height: this.area.clientHeight };
  }

  /** Draw curves of panels.js, in place of what was there. */
  draw(curves) {
    this.plot?.destroy();
    this.plot = null;
    this.curves = curves;
    const series = [{}];
    const bands = [];
    const tables = curves.map((curve) => this.addCurve(curve, series, bands));
    const data = tables.length ? uPlot.join(tables) : [[]];
    this.area.replaceChildren();
    this.plot = new uPlot({ ...this.size(), series, bands, ...this.options() }, data, this.area);
    this.plot.over.append(this.tooltip);
    this.describe();
  }

  /** Add the series of a curve; return its data as a table for uPlot.join. */
  addCurve(curve, series, bands) {
    const stroke = () => runColour(curve.run);
    const line = {
      curve, stroke, width: 2, dash: curve.dash, spanGaps: false,
      points: { show: curve.points || curve.x.length === 1, size: 6, fill: stroke, stroke, width: 0 },
    };
    const smoothing = curve.points ? 1 : this.view.smoothing;
    const table = [curve.x];
    if (smoothing > 1) {
      series.push({ ...line, curve: null, width: 1, alpha: FAINT });
      table.push(curve.y);
    }
    series.push(line);
    table.push(smooth(curve.y, smoothing));
    if (curve.low && curve.high) {
      const edge = { curve: null, stroke, width: 0, points: { show: false } };
      bands.push({ series: [series.length, series.length + 1], fill: () => translucent(runColour(curve.run), BAND) });
      series.push(edge, { ...edge });
      table.push(curve.high.y, curve.low.y);
    }
    return table;
  }

  options() {
    const axis = {
      stroke: () => themeColour("--muted"), font: AXIS_FONT,
      grid: { stroke: () => themeColour("--line"), width: 1 }, ticks: { show: false },
    };
    const { view } = this;
    return {
      padding: [8, 22, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, auto: false, range: () => [view.min, view.max] } },
      axes: [
        { ...axis, size: 28, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] },
        { ...axis, size: 54, space: 34, values: (_, splits) => splits.map(formatTick) },
      ],
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 6 },
        sync: { key: "steps", setSeries: false, scales: ["x", null], filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        bind: { dblclick: () => () => view.onReset() },
        dataIdx: (plot, number, place) => (plot.series[number].curve ? nearest(plot.data[number], place) : null),
        points: { size: 8, width: 2 },
      },
      hooks: {
        setCursor: [(plot) => this.showTooltip(plot)],
        setSelect: [(plot) => this.onSelect(plot)],
      },
    };
  }

  onSelect(plot) {
    if (plot.select.width < 1) return;
    const from = plot.posToVal(plot.select.left, "x");
    const to = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.view.onZoom(Math.max(0, Math.round(from)), Math.round(to));
  }

  /** Show the steps of the shared view. */
  zoom() {
    // The y axis follows what is visible.
    this.plot?.setData(this.plot.data, true);
  }

  /** Values at the cursor: [{curve, value, step}]. */
  readings(plot) {
    return plot.series.flatMap((series, number) => {
      const place = plot.cursor.idxs?.[number];
      if (!series.curve || place === null || place === undefined) return [];
      return [{ curve: series.curve, value: plot.data[number][place], step: plot.data[0][place] }];
    });
  }

  showTooltip(plot) {
    const { idx, left, top } = plot.cursor;
    const active = this.area.matches(":hover") || this.area === document.activeElement;
    if (idx === null || idx === undefined || left < 0 || !active) {
      this.tooltip.hidden = true;
      return;
    }
    const step = plot.data[0][idx];
    this.tooltip.replaceChildren(
      element("strong", {}, `step ${step}`),
      ...this.readings(plot).map((reading) => element("div", {},
        swatch(reading.curve.run),
        element("span", {}, this.nameOf(reading.curve) + (reading.step === step ? "" : ` (step ${reading.step})`)),
        element("span", { class: "number" }, formatNumber(reading.value)))),
    );
    this.tooltip.hidden = false;
    const width = this.tooltip.offsetWidth;
    const right = left + 14 + width > plot.over.clientWidth;
    this.tooltip.style.left = `${Math.max(-50, right ? left - width - 14 : left + 14)}px`;
    this.tooltip.style.top = `${Math.max(0, Math.min(top - 10, plot.over.clientHeight - this.tooltip.offsetHeight))}px`;
  }

  nameOf(curve) {
    return several ? `${runNames[curve.run]} ${curve.label}` : curve.label;
  }

  onKey(event) {
    if (!this.plot || !this.curves.length) return;
    const steps = this.visibleSteps();
    if (!steps.length) return;
    const now = this.plot.cursor.idx ?? null;
    const at = now === null ? -1 : steps.findIndex((place) => place >= now);
    const moves = {
      ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - LARGE_STEP, PageDown: at + LARGE_STEP,
      Home: 0, End: steps.length - 1,
    };
    if (event.key === "Escape") this.leave();
    else if (event.key in moves) this.moveTo(steps[Math.max(0, Math.min(steps.length - 1, moves[event.key]))]);
    else return;
    event.preventDefault();
  }

  /** Places of the data that the view shows. */
  visibleSteps() {
    return this.plot.data[0].flatMap((step, place) => (step >= this.view.min && step <= this.view.max ? [place] : []));
  }

  moveTo(place) {
    const { plot } = this;
    const left = plot.valToPos(plot.data[0][place], "x");
    plot.setCursor({ left, top: plot.over.clientHeight / 3 }, true, true);
    this.live.textContent = `step ${plot.data[0][place]}: ` +
      this.readings(plot).map((reading) => `${this.nameOf(reading.curve)} ${formatNumber(reading.value)}`).join(", ");
  }

  leave() {
    this.plot?.setCursor({ left: -10, top: -10 }, true, true);
    this.tooltip.hidden = true;
  }

  /** Say what the chart shows, and how its lines differ. */
  describe() {
    const labels = [...new Map(this.curves.map((curve) => [curve.label, curve])).values()];
    this.key.replaceChildren(...(labels.length > 1 || labels.some((curve) => curve.points) ? labels.map(lineKey) : []));
    const ends = this.curves.map((curve) => {
      const known = curve.y.filter((value) => value !== null);
      return `${this.nameOf(curve)} from ${formatNumber(known[0])} to ${formatNumber(known.at(-1))}`;
    });
    this.area.setAttribute("aria-label", `${this.title.textContent} over optimizer steps: ${ends.join("; ")}. Arrow keys read values.`);
  }
}

/** A small drawing of a line and its name. */
function lineKey(curve) {
  const SVG = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(SVG, "svg");
  const parts = [["line", { x1: 0, y1: 5, x2: 26, y2: 5, "stroke-width": 2, "stroke-dasharray": curve.dash.join(" ") }]];
  if (curve.points) parts.push(["circle", { cx: 13, cy: 5, r: 3 }]);
  for (const [name, attributes] of [["svg", { width: 26, height: 10, "aria-hidden": "true" }], ...parts]) {
    const part = name === "svg" ? drawing : drawing.appendChild(document.createElementNS(SVG, name));
    for (const [attribute, value] of Object.entries(attributes)) part.setAttribute(attribute, value);
  }
  return element("span", {}, drawing, curve.label);
}

/** The place of the known value that is nearest to a place; null if there is none. */
function nearest(values, place) {
  for (let distance = 0; distance < values.length; distance += 1) {
    for (const found of [place - distance, place + distance]) {
      if (values[found] !== null && values[found] !== undefined) return found;
    }
  }
  return null;
}

/** A tick of the y axis; the axis chooses round values. */
function formatTick(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e6 ? value.toExponential() : String(Number(value.toPrecision(6)));
  return text.replace("-", "−").replace("e−", "e-").replace("e+", "e");
}

function translucent(colour, opacity) {
  return colour + Math.round(opacity * 255).toString(16).padStart(2, "0");
}
