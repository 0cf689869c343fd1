// The drawing of a process tree: a block for every step, walked with the arrow keys.

const NARROW = 68; // pixels; in a narrower block the size of its set is left to its height
const LINE = 15; // pixels of a line of text
const MARGIN = 3; // pixels around the drawing, for the outline of what has the focus


/** Draws trees and reports the step that is pointed at or chosen: onShow(step). */
class TreeDrawing {
  constructor(onShow) {
    this.onShow = onShow;
    this.canvas = element("div", { class: "tree", role: "tree", "aria-label": "Process tree" });
    this.scroller = element("div", { class: "tree-scroll" }, this.canvas);
    this.leaves = element("div", { class: "leaves" });
    this.box = element("div", { class: "tree-frame" }, this.scroller, this.leaves);
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("mouseleave", () => this.show(this.chosen));
    this.leaves.addEventListener("mouseleave", () => this.show(this.chosen));
    new ResizeObserver(() => this.onResize()).observe(this.scroller);
  }

  draw(tree, method) {
    this.tree = tree;
    this.method = method;
    this.layOut();
    const { steps } = this.layout;
    this.choose(byChange(steps)[0] ?? null);
  }

  /** Colour the same tree by the other method. */
  recolour(method) {
    this.method = method;
    const { place } = this.chosen ?? {};
    this.layOut();
    this.choose(this.layout.steps[place] ?? null);
  }

  onResize() {
    if (this.tree && this.scroller.clientWidth !== this.drawnWidth) this.recolour(this.method);
  }

  layOut() {
    this.drawnWidth = this.scroller.clientWidth;
    this.layout = layoutTree(this.tree, this.drawnWidth - 2 * MARGIN);
    const { steps, rows, rowHeight, ticks, width } = this.layout;
    const largest = largestWeight(steps);
    this.box.style.setProperty("--row", `${rowHeight}px`);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.setProperty("--rows", rows.length);
    this.blocks = steps.map((step) => this.makeBlock(step, largest));
    this.canvas.replaceChildren(
      element("div", { class: "axis", "aria-hidden": "true" }, ticks.map(({ token, left }, place) => makeTick(token, left, place === ticks.length - 1))),
      ...rows.map((leaf, place) => makeTrack(leaf, place, steps)),
      ...this.blocks,
    );
    this.leaves.replaceChildren(makeLeafHead(), ...rows.map((leaf) => this.makeLeaf(leaf)));
  }

  makeBlock(step, largest) {
    const weight = stepWeight(step, this.method);
    const size = step.node.members.length;
    const height = step.span * this.layout.rowHeight - 2;
    const block = element("div", {
      class: ["step", weight < 0 ? "below" : weight > 0 ? "above" : "even", height < 2 * LINE ? "slim" : "", step.width < NARROW ? "narrow" : ""].join(" "),
      role: "treeitem", tabindex: -1, "aria-level": step.depth, "aria-selected": "false",
      "aria-label": `${shorten(stepText(this.tree, step), 80)}; ${plural(size, "completion")}, weight ${formatSigned(weight)}`,
      mouseenter: () => this.show(step),
      click: () => { this.choose(step); this.focus(step); },
      focus: () => { if (this.chosen !== step) this.choose(step); },
    },
    element("span", { class: "text" }, visible(stepText(this.tree, step))),
    element("span", { class: "value number" }, formatSigned(weight), element("span", { class: "size" }, ` ${size}×`)));
    const { style } = block;
    // The root, so that a small weight can be told from none.
    style.setProperty("--strength", Math.sqrt(Math.abs(weight) / largest));
    style.setProperty("--lines", Math.max(1, Math.floor((height - LINE) / LINE)));
    style.setProperty("--first", step.first);
    style.setProperty("--span", step.span);
    style.left = `${step.left}px`;
    style.width = `${step.width - 2}px`;
    return block;
  }

  makeLeaf(leaf) {
    const step = leaf.node === null ? null : this.layout.steps[leaf.node];
    return element("div", { class: "leaf", mouseenter: () => step && this.show(step), click: () => step && this.choose(step) },
      element("span", { class: "muted" }, `${leaf.completion + 1}`),
      element("span", { class: "number" }, formatNumber(leaf.reward)),
      element("span", { class: `number ${leaf.advantage < 0 ? "minus" : leaf.advantage > 0 ? "plus" : ""}` }, formatSigned(leaf.advantage)),
      leaf.truncated ? element("span", { class: "cut", title: "cut off at the token limit" }, "cut") : null);
  }

  /** Make a step the chosen one, the only one that the Tab key reaches. */
  choose(step) {
    this.chosen = step;
    this.blocks.forEach((block, place) => {
      const chosen = step !== null && place === step.place;
      block.tabIndex = chosen ? 0 : -1;
      block.setAttribute("aria-selected", chosen);
    });
    this.show(step);
    if (step !== null) this.reveal(step);
  }

  /** Scroll sideways, and nothing but the drawing, until a step is seen. */
  reveal(step) {
    const { scrollLeft, clientWidth } = this.scroller;
    const right = step.left + Math.min(step.width, clientWidth);
    if (step.left < scrollLeft) this.scroller.scrollLeft = step.left;
    else if (right > scrollLeft + clientWidth) this.scroller.scrollLeft = right - clientWidth;
  }

  /** Show a step's text and figures, and the way to it. */
  show(step) {
    const way = new Set();
    for (let on = step; on; on = on.parent) way.add(on.place);
    this.blocks.forEach((block, place) => {
      block.classList.toggle("way", way.has(place));
      block.classList.toggle("shown", step !== null && place === step.place);
    });
    this.onShow(step, this.layout);
  }

  focus(step) {
    const block = this.blocks[step.place];
    block.focus({ preventScroll: true });
    block.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  onKey(event) {
    const { steps } = this.layout;
    const { place, parent, children } = this.chosen;
    const target = {
      ArrowRight: children[0], ArrowLeft: parent, ArrowDown: steps[place + 1], ArrowUp: steps[place - 1],
      Home: steps[0], End: steps.at(-1),
    }[event.key];
    if (target === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (!target) return;
    this.choose(target);
    this.focus(target);
  }
}

function makeTick(token, left, last) {
  const tick = element("span", { class: last ? "last" : null }, String(token));
  tick.style.left = `${left}px`;
  return tick;
}

/** A line from where a completion ends to the right edge, so that its row can be followed. */
function makeTrack(leaf, place, steps) {
  const track = element("div", { class: "track" });
  const end = leaf.node === null ? null : steps[leaf.node];
  track.style.setProperty("--first", place);
  track.style.left = `${end ? end.left + end.width : 0}px`;
  return track;
}

function makeLeafHead() {
  return element("div", { class: "leaf head" }, element("span", { title: "number of the completion" }, "#"), element("span", {}, "reward"), element("span", {}, "adv."));
}
