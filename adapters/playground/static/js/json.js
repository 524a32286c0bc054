/** JSON whose whole numbers may be longer than JavaScript's: a seed has 64 bits. */

export function parseJson(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
      ? BigInt(context.source)
      : value,
  );
}

export function toJson(value, indent) {
  return JSON.stringify(
    value,
    (_, item) => (typeof item !== "bigint" ? item : JSON.rawJSON ? JSON.rawJSON(String(item)) : Number(item)),
    indent,
  );
}

/** A whole number, exact whatever its length; `null` if `text` is none. */
export function wholeNumber(text) {
  if (!/^[+-]?\d+$/.test(text)) return null;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : BigInt(text.replace("+", ""));
}

export const same = (one, other) => toJson(one) === toJson(other);
