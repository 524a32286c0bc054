/** Controls for values: `{node, input, read(), write(value)}`; `read()` is `{set, value}`, or throws what is wrong. */

import { el } from "./dom.js";
import { parseJson, toJson, wholeNumber } from "./json.js";
import { values } from "./schema.js";

const UNSET = { set: false, value: undefined };
const is = (value) => ({ set: true, value });

/** A control of the kind `kind`; `hints` has the id, what describes it, and what holds without a value. */
export function control(kind, shape, hints, changed) {
  if (kind === "boolean") return choice([true, false], hints, changed);
  if (kind === "enum") return choice(values(shape), hints, changed);
  if (kind === "number" || kind === "integer") return numeric(kind, shape, hints, changed);
  return text(TEXTS[kind], shape, hints, changed);
}

function choice(options, hints, changed) {
  const texts = options.map((value) => toJson(value));
  const none = hints.unset ? `not set (${hints.unset})` : "not set";
  const items = texts.map((text, at) => el("option", { value: text }, String(options[at])));
  const input = el("select", attributes(hints, changed), el("option", { value: "" }, none), ...items);
  return {
    node: input,
    input,
    read: () => (input.value === "" ? UNSET : is(parseJson(input.value))),
    write: (value) => {
      const text = value === undefined ? "" : toJson(value);
      if (text && !texts.includes(text)) throw new Error("no such option");
      input.value = text;
    },
  };
}

function numeric(kind, shape, hints, changed) {
  const low = shape.minimum ?? shape.exclusiveMinimum;
  const high = shape.maximum ?? shape.exclusiveMaximum;
  const step = kind === "integer" ? 1 : (high ?? 2) - (low ?? 0) <= 1 ? 0.01 : 0.05;
  const limits = { min: safe(low), max: safe(high), step };
  const input = el("input", {
    type: "number",
    inputmode: "decimal",
    placeholder: hints.unset,
    ...limits,
    ...attributes(hints, changed),
  });
  const top = high ?? (kind === "number" && low === 0 ? 2 : undefined);
  const slides = low !== undefined && top !== undefined && top - low <= 100;
  const slider = slides
    ? el("input", { type: "range", "aria-label": `${hints.name}, slider`, ...limits, max: top })
    : null;
  const follow = () => slider && (slider.value = input.value || (hints.start ?? (low + top) / 2));
  slider?.addEventListener("input", () => {
    input.value = slider.value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  input.addEventListener("input", follow);
  follow();
  const read = () => {
    if (input.validity.badInput) throw new Error("should be a number");
    const given = input.value.trim();
    return given === "" ? UNSET : is(checked(given, kind, shape));
  };
  const write = (value) => {
    if (value !== undefined && !["number", "bigint"].includes(typeof value)) throw new Error("no number");
    input.value = value === undefined ? "" : String(value);
    follow();
  };
  return { node: el("div", { class: "numeric" }, input, slider), input, read, write };
}

function checked(given, kind, shape) {
  const value = kind === "integer" ? wholeNumber(given) : Number(given);
  if (value === null) throw new Error("should be a whole number");
  if (value < (shape.minimum ?? -Infinity)) throw new Error(`should be ${shape.minimum} or more`);
  if (value > (shape.maximum ?? Infinity)) throw new Error(`should be ${shape.maximum} or less`);
  if (value <= (shape.exclusiveMinimum ?? -Infinity)) throw new Error(`should be more than ${shape.exclusiveMinimum}`);
  if (value >= (shape.exclusiveMaximum ?? Infinity)) throw new Error(`should be less than ${shape.exclusiveMaximum}`);
  return value;
}

function text(how, shape, hints, changed) {
  const placeholder = hints.unset || (hints.example ? `e.g. ${hints.example}` : how.hint);
  const input = el("textarea", {
    rows: 1,
    spellcheck: "false",
    placeholder,
    title: how.hint,
    class: how.style,
    ...attributes(hints, changed),
  });
  const read = () => (input.value === "" ? UNSET : is(how.read(input.value, shape)));
  const write = (value) => (input.value = value === undefined ? "" : how.write(value));
  return { node: input, input, read, write };
}

const TEXTS = {
  string: { hint: "Text", read: (given) => given, write: (value) => demand(value, typeof value === "string", "text") },
  strings: {
    hint: 'One a line, or JSON: ["a", "b"]',
    read: (given) =>
      given.trimStart().startsWith("[") ? list(given, "string") : given.split("\n").filter((line) => line),
    write: (value) => {
      demand(value, Array.isArray(value) && value.every((item) => typeof item === "string"), "a list of texts");
      const plain =
        value.length && value.every((item) => item && !item.includes("\n")) && !value[0].trimStart().startsWith("[");
      return plain ? value.join("\n") : toJson(value);
    },
  },
  integers: {
    hint: "1, 2, 3",
    read: (given) =>
      given.trimStart().startsWith("[")
        ? list(given, "number")
        : given
            .split(/[\s,]+/)
            .filter((part) => part)
            .map(id),
    write: (value) => {
      demand(value, Array.isArray(value) && value.every((item) => Number.isInteger(item)), "a list of whole numbers");
      return value.length ? value.join(", ") : "[]";
    },
  },
  json: {
    hint: "JSON",
    style: "code",
    read: (given, shape) => {
      const value = valid(given);
      const object = value !== null && typeof value === "object" && !Array.isArray(value);
      if (shape.type === "object") demand(value, object, "a JSON object");
      return shape.type === "array" ? demand(value, Array.isArray(value), "a JSON list") : value;
    },
    write: (value) => (typeof value === "object" ? toJson(value, 2) : toJson(value)),
  },
};

function demand(value, good, what) {
  if (!good) throw new Error(`should be ${what}`);
  return value;
}

function valid(given) {
  try {
    return parseJson(given);
  } catch (error) {
    throw new Error(`is not JSON: ${error.message}`);
  }
}

const list = (given, type) => {
  const found = valid(given);
  return demand(found, Array.isArray(found) && found.every((item) => typeof item === type), `a list of ${type}s`);
};
const id = (part) => wholeNumber(part) ?? demand(part, false, "whole numbers");
const safe = (limit) => (Number.isSafeInteger(limit) || !Number.isInteger(limit) ? limit : undefined);
const attributes = (hints, changed) => ({
  id: hints.id,
  "aria-describedby": hints.describedBy,
  "aria-label": hints.label,
  on: { input: changed },
});
