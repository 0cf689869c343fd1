// Numbers and texts as people read them.

const MISSING = "–";

/** Three significant digits, a real minus sign. */
function formatNumber(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  let text;
  if (value === 0) text = "0";
  else if (size < 0.001 || size >= 1e6) text = value.toExponential(1);
  else if (Number.isInteger(value)) text = String(value);
  else text = value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 4);
  return text.replace("-", "−");
}

/** Two decimals with a sign, for advantages; zero has none. */
function formatSigned(value) {
  if (value === null || value === undefined) return MISSING;
  const text = Math.abs(value).toFixed(2);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
}

function formatShare(value) {
  return `${Math.round(value * 100)} %`;
}

function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** One line of a text, shortened. */
function shorten(text, characters) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length <= characters ? line : line.slice(0, characters - 1) + "…";
}

/** A text with line ends and outer spaces made visible, for a single line. */
function visible(text) {
  return text.replace(/\r?\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "·");
}
