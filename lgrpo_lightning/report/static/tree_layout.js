// Where the steps of a process tree are drawn: completions are rows, tokens run to the right.
// A step spans the rows of its set; the same token position is at the same place in every row.

const MIN_STEP_WIDTH = 50;
const TICK_DISTANCE = 48;
const TOKEN_WIDTHS = [14, 9, 6, 4, 2]; // of one token; n tokens get √n times as much

/**
 * Lay a tree out in `available` pixels, more where its steps would become too narrow.
 *
 * Returns {steps, rows, width, rowHeight, ticks}. A step has {place, node, parent, children, depth,
 * start, end, first, span, left, width}: tokens start … end-1, rows first … first+span-1. `rows` are
 * the tree's leaves in the order of drawing, `ticks` [{token, left}].
 */
function layoutTree(tree, available) {
  const steps = tree.nodes.map((node, place) => ({ place, node, children: [] }));
  for (const step of steps) {
    step.parent = step.node.parent === null ? null : steps[step.node.parent];
    step.parent?.children.push(step);
    step.depth = step.parent ? step.parent.depth + 1 : 1;
    step.start = step.parent ? step.parent.end : 0;
    step.end = step.start + step.node.tokens.length + step.node.omitted;
  }
  const rows = orderRows(tree, steps);
  const rowHeight = rows.length <= 10 ? 40 : rows.length <= 18 ? 34 : 22;
  const position = placeTokens(steps, available);
  for (const step of steps) {
    step.left = position(step.start);
    step.width = position(step.end) - step.left;
  }
  const last = Math.max(0, ...steps.map((step) => step.end));
  return { steps, rows, rowHeight, width: position(last), ticks: placeTicks(steps, last, position) };
}

/** Leaves depth-first, so that every step's rows are neighbours; gives steps their rows. */
function orderRows(tree, steps) {
  const rows = [];
  const visit = (step) => {
    step.first = rows.length;
    rows.push(...tree.leaves.filter((leaf) => leaf.node === step.place));
    step.children.forEach(visit);
    step.span = Math.max(1, rows.length - step.first);
  };
  steps.filter((step) => step.parent === null).forEach(visit);
  rows.push(...tree.leaves.filter((leaf) => leaf.node === null));
  return rows;
}

/** A function from token positions, at which steps begin or end, to pixels. */
function placeTokens(steps, available) {
  const ends = new Map(); // token position → steps that end there
  for (const step of steps) ends.set(step.end, [...(ends.get(step.end) ?? []), step]);
  const order = [...ends.keys()].sort((a, b) => a - b);
  let positions;
  for (const width of TOKEN_WIDTHS) {
    positions = new Map([[0, 0]]);
    let before = 0;
    for (const end of order) {
      const least = ends.get(end).map((step) => positions.get(step.start) + MIN_STEP_WIDTH);
      positions.set(end, Math.max(positions.get(before) + width * Math.sqrt(end - before), ...least));
      before = end;
    }
    if (positions.get(before) <= available) break;
  }
  const stretch = Math.max(1, available / Math.max(1, ...positions.values()));
  return (token) => positions.get(token) * stretch;
}

function placeTicks(steps, last, position) {
  const ticks = [];
  for (const token of [...new Set([0, ...steps.map((step) => step.end)])].sort((a, b) => a - b)) {
    const left = position(token);
    const crowded = ticks.length && left - ticks.at(-1).left < TICK_DISTANCE;
    if (crowded && token !== last) continue;
    if (crowded && ticks.length > 1) ticks.pop();
    ticks.push({ token, left });
  }
  return ticks;
}

/** The text of a step; in the middle of a long one, how much is left out. */
function stepText(tree, step) {
  const { tokens, omitted } = step.node;
  if (!omitted) return tokens.join("");
  return `${tokens.slice(0, tree.head).join("")} [… ${omitted} tokens …] ${tokens.slice(tree.head).join("")}`;
}

/** A step's weight in the gradient, per token: |λ|·Â in GRPO, Â in λ-GRPO. */
function stepWeight(step, method) {
  const { members, advantage } = step.node;
  if (Math.abs(advantage) < NOTHING) return 0;
  return method === GRPO ? members.length * advantage : advantage;
}

const GRPO = "grpo";
const LAMBDA = "lambda";
const NOTHING = 1e-6; // an advantage that is 0 but for rounding

/** The largest weight of any step under either method; at least a little above 0. */
function largestWeight(steps) {
  return Math.max(1e-9, ...steps.map((step) => Math.abs(stepWeight(step, GRPO))));
}
