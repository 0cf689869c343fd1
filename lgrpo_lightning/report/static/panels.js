// Which curves are shown together.

// A line takes the first of its columns that a run has.
const TRAINING = "training";
const EVALUATION = "evaluation";
const PANELS = [
  {
    title: "Reward",
    lines: [
      { label: TRAINING, columns: ["train/reward"] },
      { label: EVALUATION, columns: ["eval/reward"], points: true },
    ],
    missing: "train/reward, eval/reward",
  },
  { title: "pass@k", unit: "share of problems, with 95 % interval", pattern: /^eval\/((?:pass|maj)@\d+)$/, column: (label) => `eval/${label}`, missing: "eval/pass@k of RewardEvaluator" },
  // Of a single set it would say what pass@k says.
  { title: "Evaluation sets", unit: "pass@1", pattern: /^eval\/source\/(.+)\/pass@1$/, column: (label) => `eval/source/${label}/pass@1`, atLeast: 2 },
  {
    title: "KL to the reference",
    unit: "nats per token",
    lines: [{ label: TRAINING, columns: ["kl/ref", "train/kl"] }],
    missing: "kl/ref of KLTracker",
  },
  { title: "Loss", lines: [{ label: TRAINING, columns: ["train/loss"] }], missing: "train/loss" },
  {
    title: "Entropy",
    unit: "nats per token",
    lines: [{ label: TRAINING, columns: ["train/entropy", "kl/entropy"] }],
    missing: "train/entropy or kl/entropy",
  },
  {
    title: "Completion length",
    unit: "tokens",
    lines: [
      { label: TRAINING, columns: ["train/length"] },
      { label: EVALUATION, columns: ["eval/length"], points: true },
    ],
    missing: "train/length, eval/length",
  },
  {
    title: "Path depth",
    unit: "process steps of a completion",
    lines: [{ label: TRAINING, columns: ["train/path_depth", "tree/path_depth"] }],
    missing: "train/path_depth",
  },
  {
    title: "Shared tokens",
    unit: "intermediate proportion",
    lines: [{ label: TRAINING, columns: ["train/intermediate_proportion", "tree/intermediate_proportion"] }],
    missing: "train/intermediate_proportion",
  },
];
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [14, 5], [5, 2, 2, 2, 2, 2]];

/** All curves of a panel: [{run, label, x, y, points, dash, low, high}]. */
function curvesOfPanel(panel) {
  const curves = [];
  const all = panel.pattern ? labelsOfPattern(panel.pattern) : [];
  const labels = all.length >= (panel.atLeast ?? 1) ? all : [];
  runs.forEach((run, place) => {
    for (const line of panel.lines ?? []) {
      const found = line.columns.map((name) => column(run, name)).find((data) => data !== null);
      if (found) curves.push({ run: place, label: line.label, points: Boolean(line.points), dash: [], ...found });
    }
    labels.forEach((label, number) => {
      const name = panel.column(label);
      const found = column(run, name);
      if (!found) return;
      curves.push({
        run: place, label, points: true, dash: DASHES[number % DASHES.length], ...found,
        low: column(run, `${name}_low`), high: column(run, `${name}_high`),
      });
    });
  });
  return curves;
}

function labelsOfPattern(pattern) {
  const labels = columnNames().map((name) => pattern.exec(name)?.[1]).filter(Boolean);
  const rank = (label) => (label.startsWith("pass") ? 0 : 1e6) + (Number(label.split("@")[1]) || 0);
  return labels.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

/** The curves of one column, whatever it is. */
function curvesOfColumn(name) {
  const label = name.startsWith("eval/") ? EVALUATION : TRAINING;
  return runs.flatMap((run, place) => {
    const found = column(run, name);
    return found ? [{ run: place, label, points: label === EVALUATION, dash: [], ...found }] : [];
  });
}

/** Mean over the last `window` values; a value that is not finite stays a gap. */
function smooth(values, window) {
  if (window <= 1) return values;
  const result = [];
  let sum = 0;
  let known = 0;
  values.forEach((value, place) => {
    if (value !== null) { sum += value; known += 1; }
    const old = place >= window ? values[place - window] : null;
    if (old !== null) { sum -= old; known -= 1; }
    result.push(value === null ? null : sum / known);
  });
  return result;
}
