// The section of curves: what is shown, smoothed over how many steps, from where to where.

const SMOOTHINGS = [1, 5, 20, 50, 200];
const MANY_STEPS = 150; // from so many on, curves begin smoothed

function buildCurves() {
  const names = columnNames();
  const home = section("curves");
  if (!names.length) {
    home.append(element("p", { class: "empty" }, "No metrics were found in these runs."));
    return;
  }
  const last = Math.max(1, ...runs.flatMap((run) => run.curves.map((found) => found.x.at(-1))));
  const charts = [];
  const view = {
    min: 0, max: last, smoothing: defaultSmoothing(last),
    onZoom(min, max) {
      if (max <= min) return;
      Object.assign(view, { min, max });
      [from.value, to.value] = [min, max];
      reset.disabled = min === 0 && max === last;
      charts.forEach(({ chart }) => chart.zoom());
    },
    onReset: () => view.onZoom(0, last),
  };
  const from = element("input", { type: "number", min: 0, max: last, value: 0, change: fromInputs });
  const to = element("input", { type: "number", min: 0, max: last, value: last, change: fromInputs });
  const reset = element("button", { type: "button", disabled: true, click: view.onReset }, "All steps");

  function fromInputs() {
    const [min, max] = [Number(from.value), Number(to.value)];
    const valid = Number.isFinite(min) && Number.isFinite(max) && min >= 0 && max > min;
    view.onZoom(valid ? min : view.min, valid ? max : view.max);
  }

  function redraw() {
    charts.forEach(({ chart, curves }) => chart.draw(curves().filter((curve) => shown.has(curve.run))));
  }

  const smoothing = selectControl("Smoothing", SMOOTHINGS.map((size) => [size, size === 1 ? "none" : `mean of ${size} points`]), (value) => {
    view.smoothing = Number(value);
    redraw();
  });
  smoothing.select.value = view.smoothing;

  add(home,
    element("p", { class: "intro" }, "Over optimizer steps done. Drag across a chart to look closer, double-click to go back; in a chart that has the focus, the arrow keys read values."),
    element("div", { class: "controls" },
      runToggles(redraw),
      smoothing.box,
      element("div", { class: "control steps" }, "Steps",
        element("div", { class: "pair" }, label("first step", from), "to", label("last step", to), reset)),
    ),
    buildCharts(view, charts, names),
  );
  redraw();
}

function defaultSmoothing(last) {
  if (last < MANY_STEPS) return 1;
  return SMOOTHINGS.findLast((size) => size <= last / 40) ?? 1;
}

function label(text, input) {
  input.setAttribute("aria-label", text);
  return input;
}

/** A chart for every panel that has data, and one whose column can be chosen. */
function buildCharts(view, charts, names) {
  const grid = element("div", { class: "charts" });
  const missing = [];
  for (const panel of PANELS) {
    const curves = curvesOfPanel(panel);
    if (!curves.length) {
      if (panel.missing) missing.push(`${panel.title} (${panel.missing})`);
      continue;
    }
    const chart = new Chart(panel.title, panel.unit, view);
    charts.push({ chart, curves: () => curves });
    grid.append(chart.box);
  }
  grid.append(chosenColumn(view, charts, names));
  const note = missing.length ? element("p", { class: "empty" }, `Not recorded: ${missing.join("; ")}.`) : null;
  return element("div", {}, grid, note);
}

function chosenColumn(view, charts, names) {
  let chosen = names.find((name) => /reward_std|zero_variance|weight/.test(name)) ?? names[0];
  const chart = new Chart("", "", view);
  const control = selectControl("Any other metric", names.map((name) => [name, name]), (value) => {
    chosen = value;
    chart.title.textContent = value;
    chart.draw(curvesOfColumn(chosen).filter((curve) => shown.has(curve.run)));
  });
  control.select.value = chosen;
  chart.title.textContent = chosen;
  chart.title.classList.add("hidden-text");
  chart.box.querySelector("figcaption").append(control.box);
  chart.box.classList.add("chosen");
  charts.push({ chart, curves: () => curvesOfColumn(chosen) });
  return chart.box;
}

/** Checkboxes that show and hide runs; null where there is one run. */
function runToggles(redraw) {
  if (!several) return null;
  const boxes = runs.map((_, place) => {
    const onChange = (event) => {
      if (event.target.checked) shown.add(place);
      else shown.delete(place);
      redraw();
    };
    return element("label", {}, element("input", { type: "checkbox", checked: true, change: onChange }), swatch(place), runNames[place]);
  });
  return element("fieldset", { class: "choice" }, element("legend", {}, "Runs"), element("div", { class: "options" }, boxes));
}
