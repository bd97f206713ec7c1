// This page has a passkey answer what the program beside it asks, one question
// after the other. It decides nothing: what it sends is checked there.
"use strict";

const $ = id => document.getElementById(id);

const bytes = text => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), c => c.charCodeAt(0));
const text = buffer => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

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

async function create() {
  const c = await navigator.credentials.create({ publicKey: {
    rp: { id: step.rpId, name: "Sessio" },
    user: { id: bytes(step.userId), name: step.userName, displayName: step.userName },
    challenge: bytes(step.challenge),
    pubKeyCredParams: [-7, -8, -257].map(alg => ({ type: "public-key", alg })),
    authenticatorSelection: { residentKey: "required", requireResidentKey: true, userVerification: "required" },
    excludeCredentials: (step.credentials || []).map(id => ({ type: "public-key", id: bytes(id) })),
    attestation: "none",
    timeout: 300000,
  } });
  return { id: text(c.rawId), clientData: text(c.response.clientDataJSON), attestation: text(c.response.attestationObject) };
}

async function get() {
  const c = await navigator.credentials.get({ publicKey: {
    rpId: step.rpId,
    challenge: bytes(step.challenge),
    allowCredentials: step.credentials.map(id => ({ type: "public-key", id: bytes(id) })),
    userVerification: "required",
    timeout: 300000,
  } });
  return { id: text(c.rawId), clientData: text(c.response.clientDataJSON), authData: text(c.response.authenticatorData), signature: text(c.response.signature) };
}

// What a browser says where a prompt was closed, and where there is none.
function reason(e) {
  if (e.name === "NotAllowedError") return "The passkey was not used: the prompt was closed, or its time was over. Try again, or close this page.";
  if (e.name === "InvalidStateError") return "This passkey signs for the account already. Use another one.";
  if (e.name === "SecurityError") return "The browser does not let this page use passkeys: open exactly the address that the terminal shows.";
  return e.message;
}

$("go").addEventListener("click", async () => {
  $("go").disabled = true;
  say("Waiting for the passkey …");
  const asked = step;
  try {
    const answer = await (asked.kind === "create" ? create() : get());
    const response = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ n: asked.n, ...answer }) });
    const said = await response.json();
    if (!response.ok) throw new Error(said.error + (said.hint ? ". " + said.hint : ""));
    if (step !== asked) return; // the next one is here already
    say("Signed.", "good");
    $("go").hidden = true;
  } catch (e) {
    if (step !== asked) return;
    say(reason(e), "bad");
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
