// The top of the page and the settings: what was run, what it improved, what is missing.

const FACTS = [
  ["policy", "model.policy.path"],
  ["data", "data.path"],
  ["group size", "model.group_size"],
  ["β", "model.loss.kl_coef"],
  ["learning rate", "model.optimizer.init_args.lr"],
];
const FIGURES = [
  ["eval/pass@1", "pass@1"],
  ["eval/reward", "evaluation reward"],
  ["train/reward", "training reward"],
  ["train/length", "tokens per completion"],
  ["kl/ref", "KL to the reference"],
];

function buildTop() {
  section("top").append(
    element("p", { class: "kicker" }, "λ-GRPO report"),
    element("h1", {}, several ? `${runs.length} runs${commonFolder ? ` of ${commonFolder}` : ""}` : runs[0].name),
    ...(several ? [] : [factList(runs[0])]),
    ...figuresBox(),
    ...notesBox(),
  );
}

function factList(run) {
  const { values } = run.settings;
  const found = FACTS.filter(([, key]) => key in values).map(([name, key]) => [name, values[key]]);
  const steps = Math.max(0, ...run.curves.map((curve) => curve.x.at(-1)));
  if (steps) found.unshift(["optimizer steps", String(steps)]);
  if ("model.loss.process_set_scaling" in values) found.unshift(["method", plainGrpo(run) ? "GRPO" : "λ-GRPO"]);
  return element("dl", { class: "facts" }, found.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

/** First and last value of the main figures; in a table where there are several runs. */
function figuresBox() {
  const figures = FIGURES.filter(([name]) => runs.some((run) => column(run, name)));
  if (!figures.length) return [];
  if (!several) {
    return [element("dl", { class: "figures" }, figures.map(([name, text]) =>
      element("div", {}, element("dt", {}, text), element("dd", {}, firstToLast(runs[0], name)))))];
  }
  const head = [["Run, first → last", false], ...figures.map(([, text]) => [text, false])];
  const rows = runs.map((run, place) => element("tr", {},
    element("th", { scope: "row" }, swatch(place), runNames[place]),
    figures.map(([name]) => element("td", {}, firstToLast(run, name)))));
  return [element("div", { class: "figures-table" }, table(head, rows))];
}

function firstToLast(run, name) {
  const known = column(run, name)?.y.filter((value) => value !== null) ?? [];
  if (!known.length) return [MISSING];
  return [element("span", { class: "muted number" }, `${formatNumber(known[0])} → `), element("strong", { class: "number" }, formatNumber(known.at(-1)))];
}

/** What is missing or left out; a note that several runs have is there once. */
function notesBox() {
  const noted = new Map(); // note → places of the runs
  runs.forEach((run, place) => run.notes.forEach((note) => noted.set(note, [...(noted.get(note) ?? []), place])));
  if (!noted.size) return [];
  const items = [...noted].map(([note, places]) => element("li", {}, note,
    places.length < runs.length ? element("span", { class: "muted" }, ` (${places.map((place) => runNames[place]).join(", ")})`) : null));
  return [element("details", { class: "notes", open: true },
    element("summary", {}, "What this report leaves out"), element("ul", {}, items))];
}

function buildSettings() {
  const home = section("settings");
  if (several) home.append(differences());
  runs.forEach((run, place) => {
    if (!run.settings.text) return;
    home.append(element("details", { class: "config" },
      element("summary", {}, several ? `config.yaml of ${runNames[place]}` : "config.yaml"),
      element("pre", { tabindex: 0 }, run.settings.text)));
  });
  if (!runs.some((run) => run.settings.text)) home.append(element("p", { class: "empty" }, "No config.yaml was found."));
}

/** A table of the settings in which the runs differ. */
function differences() {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings.values)))].sort();
  const values = (name) => runs.map((run) => run.settings.values[name] ?? MISSING);
  const differing = names.filter((name) => new Set(values(name)).size > 1);
  if (!differing.length) return element("p", { class: "empty" }, "All runs have the same settings.");
  const rows = differing.map((name) => element("tr", {}, element("th", { scope: "row" }, name), values(name).map((value) => element("td", {}, value))));
  return element("div", { class: "differences" }, table([["Setting that differs", false], ...runNames.map((name) => [name, false])], rows));
}
