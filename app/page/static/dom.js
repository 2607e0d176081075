// Elements and numbers as the page writes them. No text ever becomes HTML.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element; `properties` are its own, "class" and those with a dash or an "aria" become attributes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class" || key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** 0.1234 as "12.3 %". */
export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

/** 12.345 as "12.3 ms". */
export function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

/** Says `text` to people who listen to the page. */
export function announce(text) {
  byId("announcements").textContent = text;
}

/** The value of the chosen radio button called `name`. */
export function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`)?.value;
}
