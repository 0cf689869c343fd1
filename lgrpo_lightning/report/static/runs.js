// The runs of this report, their colours, and which of them are shown.

const runs = JSON.parse(section("data").textContent).runs;
const COLOURS = 6;
const several = runs.length > 1;
const shown = new Set(runs.map((_, place) => place));

/** Colour of a run as CSS resolves it now, in the light or the dark theme. */
function runColour(place) {
  return themeColour(`--run-${place % COLOURS}`);
}

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A short line in the run's colour. */
function swatch(place) {
  const made = element("span", { class: "swatch", "aria-hidden": "true" });
  made.style.setProperty("--colour", `var(--run-${place % COLOURS})`);
  return made;
}

/** The folder that all runs share, "" where there is none. */
const commonFolder = (() => {
  const folders = new Set(runs.map((run) => run.name.split("/")[0]));
  return several && folders.size === 1 ? [...folders][0] : "";
})();

/** Names of the runs, without the folder that they share. */
const runNames = runs.map((run) => (commonFolder ? run.name.slice(commonFolder.length + 1) : run.name));

function onThemeChange(listener) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", listener);
}

/** A column of a run's metrics: {x, y}, or null where it was not logged. */
function column(run, name) {
  for (const found of run.curves) {
    if (name in found.y) return { x: found.x, y: found.y[name] };
  }
  return null;
}

function columnNames() {
  const names = new Set();
  for (const run of runs) for (const found of run.curves) Object.keys(found.y).forEach((name) => names.add(name));
  return [...names].sort();
}

/** A select for the run where there are several, else null. */
function runControl(onChange) {
  if (!several) return null;
  return selectControl("Run", runNames.map((name, place) => [place, name]), (value) => onChange(Number(value)), true);
}
