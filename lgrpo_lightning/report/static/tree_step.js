// What is known of one step of a process tree, and of all steps whose weight λ changes.

const ROWS = 8;

/** Text, reward, advantage of a step, and its weight with and without λ. */
function describeStep(tree, step, layout) {
  if (!step) return [element("p", { class: "empty" }, "These completions have no tokens.")];
  const size = step.node.members.length;
  const { advantage, reward } = step.node;
  const largest = largestWeight(layout.steps);
  return [
    element("h3", {}, `Step ${step.place + 1} of ${layout.steps.length}`),
    element("p", { class: "muted" }, `${tokenRange(step)}, ${size === 1 ? `completion ${step.node.members[0] + 1} alone` : `shared by ${size} of ${tree.leaves.length} completions`}`),
    element("pre", { class: "tokens", tabindex: 0, role: "region", "aria-label": "Text up to this step" }, wayTo(step).map((on) => stepTokens(tree, on, on === step))),
    element("dl", { class: "figures-of-step" },
      element("div", {}, element("dt", {}, "mean reward R̂"), element("dd", { class: "number" }, formatNumber(reward))),
      element("div", {}, element("dt", {}, "advantage Â"), element("dd", { class: "number" }, formatSigned(advantage)))),
    element("h3", {}, "Weight of each of its tokens"),
    weightRow("GRPO: |λ|·Â", stepWeight(step, GRPO), largest),
    weightRow("λ-GRPO: Â", stepWeight(step, LAMBDA), largest),
    element("p", { class: "muted" }, verdict(size, advantage)),
  ];
}

function tokenRange(step) {
  const count = step.end - step.start;
  return count === 1 ? `token ${step.start + 1}` : `tokens ${step.start + 1}–${step.end}`;
}

function verdict(size, advantage) {
  if (size === 1) return "A step of one completion has the same weight in both.";
  if (Math.abs(advantage) < NOTHING) return "Its mean reward is that of the whole group: no gradient in either.";
  return `λ divides the weight by ${size}, so the step counts once, not once for every completion through it.`;
}

function wayTo(step) {
  const way = [];
  for (let on = step; on; on = on.parent) way.unshift(on);
  return way;
}

/** The tokens of a step; those of the chosen one with their limits. */
function stepTokens(tree, step, chosen) {
  if (!chosen) return element("span", { class: "before" }, stepText(tree, step));
  const spans = step.node.tokens.map((token) => element("span", { class: "token" }, token.replace(/\n/g, "↵\n")));
  if (step.node.omitted) spans.splice(tree.head, 0, element("span", { class: "muted" }, ` [… ${step.node.omitted} tokens …] `));
  return element("span", { class: "own" }, spans);
}

/** Scroll a text so that the chosen step's own tokens are seen, with a line before them. */
function scrollToOwn(text) {
  const own = text?.querySelector(".own");
  if (own) text.scrollTop = own.offsetTop - 30;
}

function weightRow(name, weight, largest) {
  return element("div", { class: "weight-row" },
    element("span", {}, name), weightBar(weight, largest), element("span", { class: "number" }, formatSigned(weight)));
}

/** A bar to the left for a negative weight, to the right for a positive one. */
function weightBar(weight, largest) {
  const bar = element("span", { class: weight < 0 ? "bar below" : "bar above", "aria-hidden": "true" }, element("span"));
  bar.style.setProperty("--length", Math.abs(weight) / largest);
  return bar;
}

/** How much of the group is shared, in a sentence. */
function describeTree(tree, layout) {
  const tokens = (step) => step.end - step.start;
  const unique = layout.steps.reduce((sum, step) => sum + tokens(step), 0);
  const all = layout.steps.reduce((sum, step) => sum + tokens(step) * step.node.members.length, 0);
  const rewards = tree.std === 0
    ? `All rewards are ${formatNumber(tree.mean)}, so the group gives no policy gradient.`
    : `Mean reward ${formatNumber(tree.mean)}, standard deviation ${formatNumber(tree.std)}.`;
  return `${plural(tree.leaves.length, "completion")}, ${plural(layout.steps.length, "step")}. ${rewards} ` +
    `${plural(all, "token")} on ${plural(unique, "node")} of the tree: GRPO counts a node once for every completion through it, λ-GRPO once, ` +
    `which takes away ${formatShare(all ? 1 - unique / all : 0)} of the tokens' weight.`;
}

/** How much λ changes a step's weight. */
function weightChange(step) {
  return Math.abs(stepWeight(step, GRPO) - stepWeight(step, LAMBDA));
}

function byChange(steps) {
  return [...steps].sort((a, b) => weightChange(b) - weightChange(a));
}

/** A table of the shared steps, the most changed first. */
function changesTable(tree, layout, onChoose) {
  const changed = byChange(layout.steps).filter((step) => weightChange(step) > 0);
  if (!changed.length) return [element("p", { class: "empty" }, "λ changes no step here: none is shared, or all shared ones have advantage 0.")];
  const largest = largestWeight(layout.steps);
  const row = (step) => element("tr", {},
    element("th", { scope: "row" }, element("button", { type: "button", class: "link", click: () => onChoose(step) }, visible(shorten(stepText(tree, step), 48)) || "(empty)")),
    element("td", { class: "number" }, tokenRange(step).replace(/tokens? /, "")),
    element("td", { class: "number" }, String(step.node.members.length)),
    element("td", { class: "number" }, formatNumber(step.node.reward)),
    ...[GRPO, LAMBDA].map((method) => element("td", { class: "number weight-cell" }, weightBar(stepWeight(step, method), largest), formatSigned(stepWeight(step, method)))));
  const head = [["Step", false], ["tokens", true], ["|λ|", true], ["R̂", true], ["GRPO: |λ|·Â", true], ["λ-GRPO: Â", true]];
  const box = element("div");
  const draw = (number) => {
    const more = changed.length - number;
    box.replaceChildren(table(head, changed.slice(0, number).map(row), { class: "changes" }));
    if (more > 0) box.append(element("button", { type: "button", class: "more", click: () => draw(changed.length) }, `Show ${more} more`));
  };
  draw(ROWS);
  return [box];
}
