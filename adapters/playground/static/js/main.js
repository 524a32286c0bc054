/** Begins: asks the server what it takes, and puts the parts together. */

import { ApiError, ask, health, readKey, writeKey } from "./api.js";
import { Sides } from "./compare.js";
import { $ } from "./dom.js";
import { Page } from "./page.js";
import { makeTabs } from "./tabs.js";
import { bindTheme } from "./theme.js";

const status = (text) => ($("#status").textContent = text);
const pane = makeTabs($("#panes"), (id) => (document.body.dataset.pane = id));
const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

bindTheme($("#theme"));
bindKey();
begin();

async function begin() {
  await loaded();
  try {
    const [schema, models] = await Promise.all([ask("v1/chat/completions/schema"), ask("v1/models")]);
    $("#connection").textContent = `${models.data[0].id} · engine ${schema["x-engine"]}`;
    $("#key-note").hidden = true;
    start(schema, models.data[0].id);
  } catch (error) {
    const asks = error instanceof ApiError && [401, 403].includes(error.status);
    $("#connection").textContent = asks ? "wants an API key" : error.message;
    if (asks) askForKey(error);
  }
}

/** Until the model is there. */
async function loaded() {
  for (;;) {
    const answer = await health().catch(() => 0);
    if (answer === 200) return;
    $("#connection").textContent = answer ? "the model is being loaded" : "the server cannot be reached";
    await wait(1);
  }
}

function start(schema, model) {
  let page = null;
  const sides = new Sides(schema, () => page?.changed());
  page = new Page(sides, model, status, pane);
  page.changed();
  document.body.dataset.ready = "";
  $("#prompt").focus({ preventScroll: true });
}

function askForKey(error) {
  $("#key-note").hidden = false;
  $("#key-note").textContent = readKey() ? `The key is not taken: ${error.message}` : "This server wants a key.";
  $("#key-box").open = true;
  $("#key").focus();
}

/** The key is kept for this tab alone. */
function bindKey() {
  $("#key").value = readKey();
  const take = (event) => {
    event.preventDefault();
    writeKey($("#key").value.trim());
    $("#key-box").open = false;
    if (document.body.dataset.ready === undefined) begin();
    status("The key is set.");
  };
  $("#key-form").addEventListener("submit", take);
  $("#key-box").addEventListener("keydown", (event) => event.key === "Escape" && ($("#key-box").open = false));
}
