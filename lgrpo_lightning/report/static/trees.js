// The section of process trees: which run, step and prompt, coloured by which method.

function buildTrees() {
  const home = section("trees");
  if (!runs.some((run) => run.trees.length)) {
    home.append(element("p", { class: "empty" }, "No process trees were recorded. Add the callback ProcessTreeMonitor to see them here."));
    return;
  }
  const firstRun = runs.findIndex((run) => run.trees.length);
  const state = { run: firstRun, place: tellingTree(runs[firstRun].trees) };
  let method = plainGrpo(runs[firstRun]) ? GRPO : LAMBDA;

  const detail = element("aside", { class: "step-detail", "aria-label": "The step that is pointed at or chosen" });
  const summary = element("p", { class: "summary", "aria-live": "polite" });
  const prompt = element("pre", { class: "prompt" });
  const changes = element("div", { class: "changes-box" });
  const drawing = new TreeDrawing((step, layout) => {
    detail.replaceChildren(...describeStep(state.tree, step, layout));
    scrollToOwn(detail.querySelector(".tokens"));
  });

  const run = runControl((place) => { state.run = place; state.place = tellingTree(runs[place].trees); refresh(); });
  const step = selectControl("Optimizer step", [], (value) => { state.place = trees().findIndex((tree) => tree.step === Number(value)); refresh(); });
  const group = selectControl("Prompt", [], (value) => { state.place = Number(value); refresh(); }, true);
  const pager = makePager("tree", (by) => { state.place += by; refresh(); });
  const methods = choice("Weight of a step", "method", [[LAMBDA, "λ-GRPO: Â"], [GRPO, "GRPO: |λ|·Â"]], method, (value) => { method = value; drawing.recolour(method); });

  function trees() {
    return runs[state.run].trees;
  }

  function refresh() {
    const all = trees();
    const tree = all[state.place];
    for (const part of [drawing.box, detail, changes, prompt]) part.hidden = !tree;
    setOptions(step.select, [...new Set(all.map((other) => other.step))].map((value) => [value, value]));
    setOptions(group.select, all.flatMap((other, place) => (other.step === tree?.step ? [[place, `${shorten(other.prompt, 60)} (mean reward ${formatNumber(other.mean)})`]] : [])));
    pager.update(state.place, all.length);
    if (!tree) {
      summary.textContent = "This run has no process trees.";
      return;
    }
    state.tree = tree;
    step.select.value = tree.step;
    group.select.value = state.place;
    prompt.textContent = tree.prompt;
    drawing.draw(tree, method);
    summary.textContent = describeTree(tree, drawing.layout) +
      (plainGrpo(runs[state.run]) ? " This run trained with plain GRPO (model.loss.process_set_scaling: false)." : "");
    changes.replaceChildren(element("h3", {}, "What λ changed"), ...changesTable(tree, drawing.layout, (chosen) => {
      drawing.choose(drawing.layout.steps[chosen.place]);
      drawing.focus(drawing.chosen);
    }));
  }

  add(home,
    element("p", { class: "intro" }, "Completions are rows, tokens run to the right. A block is a process step: a run of tokens that the same completions share; its colour is the weight that each of its tokens has in the gradient. Point at a block, or walk with the arrow keys."),
    element("div", { class: "controls" }, run?.box ?? null, step.box, group.box, pager.box, methods),
    prompt, summary, colourKey(),
    element("div", { class: "tree-and-step" }, drawing.box, detail),
    changes,
  );
  refresh();
}

/** Of the first step with a tree whose rewards differ, as others have no colours, that with most steps. */
function tellingTree(trees) {
  const step = trees.find((tree) => tree.std > 0)?.step;
  const size = (tree) => (tree.step === step && tree.std > 0 ? tree.nodes.length : 0);
  return trees.reduce((best, tree, place) => (size(tree) > size(trees[best]) ? place : best), 0);
}

function plainGrpo(run) {
  return run.settings.values["model.loss.process_set_scaling"] === "false";
}

function colourKey() {
  return element("p", { class: "colour-key", "aria-hidden": "true" }, "pushed down", element("span", { class: "scale" }), "pushed up");
}

/** Buttons to the previous and the next of many; `onMove` gets −1 or 1. */
function makePager(noun, onMove) {
  const previous = element("button", { type: "button", "aria-label": `Previous ${noun}`, click: () => onMove(-1) }, "‹ Previous");
  const next = element("button", { type: "button", "aria-label": `Next ${noun}`, click: () => onMove(1) }, "Next ›");
  const place = element("span");
  const box = element("div", { class: "control" }, place, element("div", { class: "pair" }, previous, next));
  return {
    box,
    update(now, total) {
      place.textContent = total ? `${noun} ${(now + 1).toLocaleString("en")} of ${total.toLocaleString("en")}` : `no ${noun}`;
      previous.disabled = now <= 0;
      next.disabled = now >= total - 1;
    },
  };
}
