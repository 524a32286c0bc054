/** The server's API. Addresses are relative to this file, so the page works under any path. */

import { parseJson, toJson } from "./json.js";

const KEY = "chatplan.key";
const root = new URL("../../", import.meta.url);

export const address = (path) => new URL(path, root).href;
export const readKey = () => sessionStorage.getItem(KEY) ?? "";
export const writeKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/** What the server refused: `param` names the field. */
export class ApiError extends Error {
  constructor(status, text) {
    const body = parsed(text);
    const place = body?.detail?.[0];
    const error = body?.error ?? (place ? { message: place.msg, param: steps(place.loc), code: place.type } : {});
    super(error.message ?? `the server answered ${status}`);
    Object.assign(this, { status, text, param: error.param ?? null, code: error.code ?? null });
  }
}

/** What is wrong, with the name of the field. */
export const told = (error) => [error.param, error.message].filter(Boolean).join(": ");

/** The response to a request, if it is a good one; `body` is JSON text. */
export async function call(path, { body, signal } = {}) {
  const headers = readKey() ? { Authorization: `Bearer ${readKey()}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(address(path), { method, headers, body, signal });
  if (!response.ok) throw new ApiError(response.status, await response.text());
  return response;
}

export async function ask(path, body) {
  const response = await call(path, body === undefined ? {} : { body: toJson(body) });
  return parseJson(await response.text());
}

/** 200 when the model is there; 503 while it loads. */
export const health = async () => (await fetch(address("health"))).status;

/** The data of each server-sent event of a response. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    kept = (kept + (value ?? "")).replace(/\r\n/g, "\n");
    const blocks = kept.split("\n\n");
    kept = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
    if (done) return;
  }
}

function parsed(text) {
  try {
    return parseJson(text);
  } catch {
    return null;
  }
}

function steps(loc) {
  return loc
    .slice(1)
    .reduce((path, step) => path + (typeof step === "number" ? `[${step}]` : path ? `.${step}` : step), "");
}
