/** Reads a property of the request's JSON schema: which kinds of values it may have. */

const NAMES = {
  boolean: "yes or no",
  enum: "one of",
  integer: "whole number",
  number: "number",
  string: "text",
  strings: "list of texts",
  integers: "list of numbers",
  json: "JSON",
};

export const nameOf = (kind) => NAMES[kind];

/** The kinds of values that `schema` allows, null aside: `[{kind, shape}]`, each kind once. */
export function kindsOf(schema, defs) {
  const found = new Map();
  for (const shape of alternatives(schema, defs)) {
    const kind = kindOf(shape, defs);
    const before = found.get(kind);
    if (kind === "enum" && before) before.shape = { enum: [...values(before.shape), ...values(shape)] };
    else if (!before) found.set(kind, { kind, shape });
    else before.shape = {};
  }
  return found.size ? [...found.values()] : [{ kind: "json", shape: {} }];
}

/** The values of an enum or a constant. */
export const values = (shape) => shape.enum ?? [shape.const];

function alternatives(schema, defs) {
  if (schema.$ref) return alternatives(defs[schema.$ref.split("/").pop()] ?? {}, defs);
  const parts = schema.anyOf ?? schema.oneOf ?? (schema.allOf?.length === 1 ? schema.allOf : null);
  if (parts) return parts.flatMap((part) => alternatives(part, defs));
  if (Array.isArray(schema.type)) return schema.type.flatMap((type) => alternatives({ ...schema, type }, defs));
  return schema.type === "null" ? [] : [schema];
}

function kindOf(shape, defs) {
  if (shape.enum || "const" in shape) return "enum";
  if (["boolean", "integer", "number", "string"].includes(shape.type)) return shape.type;
  if (shape.type !== "array") return "json";
  const items = alternatives(shape.items ?? {}, defs);
  if (items.every((item) => item.type === "string" && !item.enum)) return "strings";
  return items.every((item) => item.type === "integer") ? "integers" : "json";
}

/** The parts of a request that are no control: the chat makes them. */
const OF_THE_CHAT = new Set(["messages", "stream"]);

/** The fields that are controls, by group, in the schema's order: `[[group, [[name, property]]]]`. */
export function groupsOf(schema) {
  const groups = new Map();
  for (const [name, property] of Object.entries(schema.properties)) {
    if (OF_THE_CHAT.has(name)) continue;
    const group = property["x-group"] ?? "other";
    groups.set(group, [...(groups.get(group) ?? []), [name, property]]);
  }
  return [...groups];
}
