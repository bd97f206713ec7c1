// This page has a passkey answer what the program beside it asks, one question
// after the other. It decides nothing: what it sends is checked there.
"use strict";

const $ = id => document.getElementById(id);

let step = { n: 0 };

function say(words, kind) {
  $("status").textContent = words;
  $("status").className = kind || "";
}

function show() {
  const asks = step.kind === "create" || step.kind === "get";
  $("title").textContent = step.title;
  $("about").textContent = step.about || "";
  $("facts").replaceChildren(...(step.facts || []).flatMap(([what, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = what;
    dd.textContent = value;
    return [dt, dd];
  }));
  $("compare").hidden = !step.words;
  $("words").textContent = step.words || "";
  $("whole").hidden = !step.text;
  $("text").textContent = step.text || "";
  $("go").hidden = !asks;
  $("go").disabled = false;
  $("go").textContent = step.kind === "create" ? "Make the passkey" : "Sign with the passkey";
  say("", "");
  if (asks) $("go").focus();
  else $("title").focus();
}

$("go").addEventListener("click", async () => {
  $("go").disabled = true;
  say("Waiting for the passkey …");
  const asked = step;
  try {
    const answer = await (asked.kind === "create" ? makePasskey(asked) : usePasskey(asked));
    const response = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ n: asked.n, ...answer }) });
    const said = await response.json();
    if (!response.ok) throw new Error(said.error + (said.hint ? ". " + said.hint : ""));
    if (step !== asked) return; // the next one is here already
    say("Signed.", "good");
    $("go").hidden = true;
  } catch (e) {
    if (step !== asked) return;
    say(passkeyTrouble(e), "bad");
    $("go").disabled = false;
  }
});

async function watch() {
  for (;;) {
    try {
      const response = await fetch("step?after=" + step.n);
      if (!response.ok) throw new Error();
      const next = await response.json();
      if (next.n !== step.n) {
        step = next;
        show();
      }
      if (step.kind === "done") return;
    } catch {
      $("go").hidden = true;
      $("title").textContent = "The program has ended";
      say("Nothing more can be signed here. Close this page.", "bad");
      return;
    }
  }
}

watch();
