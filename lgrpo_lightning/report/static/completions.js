// The section of completions: one prompt at a time, of a step of training or of an evaluation.

const LONG = 1200; // characters; longer texts begin folded
const SOURCES = [["training", "training"], ["validation", "validation"], ["test", "test"]];

function buildCompletions() {
  const home = section("completions");
  if (!runs.some((run) => run.groups.length)) {
    home.append(element("p", { class: "empty" }, "No completions were recorded. The callbacks CompletionLogger and RewardEvaluator write them."));
    return;
  }
  const state = { run: runs.findIndex((run) => run.groups.length), source: null, place: 0 };
  const list = element("div", { class: "completion-list" });
  const prompt = element("pre", { class: "prompt" });
  const summary = element("p", { class: "summary", "aria-live": "polite" });

  const run = runControl((place) => { state.run = place; enter(); });
  const source = selectControl("From", [], (value) => { state.source = value; state.place = 0; refresh(); });
  const step = selectControl("Optimizer step", [], (value) => { state.place = samePrompt(groups(), groups()[state.place], Number(value)); refresh(); });
  const group = selectControl("Prompt", [], (value) => { state.place = Number(value); refresh(); }, true);
  const order = selectControl("Order", [["sampled", "as sampled"], ["best", "best first"], ["worst", "worst first"]], refresh);
  const pager = makePager("prompt", (by) => { state.place += by; refresh(); });

  function groups() {
    return runs[state.run].groups.filter((other) => other.source === state.source);
  }

  /** Begin with the run that was chosen. */
  function enter() {
    const sources = SOURCES.filter(([name]) => runs[state.run].groups.some((other) => other.source === name));
    setOptions(source.select, sources);
    if (!sources.some(([name]) => name === state.source)) state.source = sources[0]?.[0] ?? null;
    source.select.value = state.source;
    state.place = 0;
    refresh();
  }

  function refresh() {
    const all = groups();
    const now = all[state.place];
    setOptions(step.select, [...new Set(all.map((other) => other.step))].map((value) => [value, value]));
    setOptions(group.select, all.flatMap((other, place) => (other.step === now?.step ? [[place, `${other.index + 1}: ${shorten(other.prompt, 60)}`]] : [])));
    pager.update(state.place, all.length);
    prompt.hidden = !now;
    if (!now) {
      summary.textContent = "This run has no completions.";
      list.replaceChildren();
      return;
    }
    step.select.value = now.step;
    group.select.value = state.place;
    prompt.textContent = now.prompt;
    summary.textContent = describeGroup(now);
    list.replaceChildren(...inOrder(now.completions, order.select.value).map(completionCard));
  }

  add(home,
    element("div", { class: "controls" }, run?.box ?? null, source.box, step.box, group.box, order.box, pager.box),
    prompt, summary, list,
  );
  enter();
}

/** The same prompt at another step if it is there, else the first of that step. */
function samePrompt(groups, now, step) {
  const same = groups.findIndex((other) => other.step === step && other.prompt === now.prompt);
  return same >= 0 ? same : groups.findIndex((other) => other.step === step);
}

function describeGroup(group) {
  const number = group.completions.reduce((sum, completion) => sum + completion.count, 0);
  const rewarded = group.completions.filter((completion) => completion.reward !== null);
  const count = rewarded.reduce((sum, completion) => sum + completion.count, 0);
  const total = rewarded.reduce((sum, completion) => sum + completion.reward * completion.count, 0);
  const same = number > group.completions.length ? `, ${group.completions.length} of them different` : "";
  return `${plural(number, "completion")}${same}${count ? `, mean reward ${formatNumber(total / count)}` : ""}.`;
}

function inOrder(completions, order) {
  if (order === "sampled") return completions;
  const sign = order === "best" ? -1 : 1;
  const rank = (completion) => completion.reward ?? sign * -Infinity;
  return [...completions].sort((a, b) => sign * (rank(a) - rank(b)) || 0);
}

function completionCard(completion) {
  const { advantage } = completion;
  const facts = [
    fact("reward", formatNumber(completion.reward)),
    advantage === null ? null : fact("advantage", formatSigned(advantage), advantage < 0 ? "minus" : advantage > 0 ? "plus" : ""),
    completion.length === null ? null : fact("", plural(completion.length, "token")),
    completion.truncated ? fact("", "cut off at the token limit") : null,
    completion.count > 1 ? fact("", `${completion.count} equal ones`) : null,
    ...breakdownFacts(completion.breakdown),
  ];
  return element("article", { class: "completion" }, element("p", { class: "completion-facts" }, facts), foldedText(completion.text));
}

/** Rewards per function; of a single one the total says it all. */
function breakdownFacts(breakdown) {
  const names = Object.keys(breakdown);
  return names.length > 1 ? names.map((name) => fact(name, formatNumber(breakdown[name]))) : [];
}

function fact(name, value, kind = "") {
  return element("span", {}, name ? element("span", { class: "muted" }, `${name} `) : null, element("span", { class: `number ${kind}` }, value));
}

function foldedText(text) {
  if (text === "") return element("p", { class: "empty" }, "(empty)");
  if (text.length <= LONG) return element("pre", {}, text);
  const body = element("pre", {}, `${text.slice(0, LONG)} …`);
  const unfold = element("button", { type: "button", class: "more", click: () => { body.textContent = text; unfold.remove(); } }, `Show all ${text.length.toLocaleString("en")} characters`);
  return element("div", {}, body, unfold);
}
