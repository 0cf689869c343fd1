// Elements of the page. Text of the runs only ever becomes text nodes and attributes.

/** Make an element. Properties are attributes, or listeners if they are functions. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  add(made, ...children.flat());
  return made;
}

/** A labelled select; `options` are [value, text] pairs. */
function selectControl(label, options, onChange, wide = false) {
  const select = element("select", { "aria-label": label, change: () => onChange(select.value) });
  setOptions(select, options);
  return { box: element("label", { class: wide ? "control wide" : "control" }, label, select), select };
}

function setOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

/** Radio buttons, one of which is chosen; `options` are [value, text] pairs. */
function choice(legend, name, options, chosen, onChange) {
  const radios = options.map(([value, text]) =>
    element("label", {},
      element("input", { type: "radio", name, value, checked: value === chosen, change: () => onChange(value) }),
      text,
    ),
  );
  return element("fieldset", { class: "choice" },
    element("legend", {}, legend), element("div", { class: "options" }, radios));
}

function table(head, rows, properties = {}) {
  const headings = head.map(([text, numeric]) =>
    element("th", { scope: "col", class: numeric ? "number" : null }, text));
  return element("div", { class: "table-scroll" },
    element("table", properties,
      element("thead", {}, element("tr", {}, headings)),
      element("tbody", {}, rows)));
}

function section(id) {
  return document.getElementById(id);
}

/** Add parts to the end of an element; null is none. */
function add(home, ...parts) {
  home.append(...parts.filter((part) => part !== null));
}
