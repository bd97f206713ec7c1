// What passkeys are asked, and how their answers are written. Nothing is decided
// here: who asked checks what comes.
"use strict";

const bytes = text => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), c => c.charCodeAt(0));
const text = buffer => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const keys = list => (list || []).map(id => ({ type: "public-key", id: bytes(id) }));

async function makePasskey(ask) {
  const c = await navigator.credentials.create({ publicKey: {
    rp: { id: ask.rpId, name: "Sessio" },
    user: { id: bytes(ask.userId), name: ask.userName, displayName: ask.userName },
    challenge: bytes(ask.challenge),
    pubKeyCredParams: [-7, -8, -257].map(alg => ({ type: "public-key", alg })),
    authenticatorSelection: { residentKey: "required", requireResidentKey: true, userVerification: "required" },
    excludeCredentials: keys(ask.credentials),
    attestation: "none",
    timeout: 300000,
  } });
  return { id: text(c.rawId), clientData: text(c.response.clientDataJSON), attestation: text(c.response.attestationObject) };
}

async function usePasskey(ask) {
  const c = await navigator.credentials.get({ publicKey: {
    rpId: ask.rpId,
    challenge: bytes(ask.challenge),
    allowCredentials: keys(ask.credentials),
    userVerification: "required",
    timeout: 300000,
  } });
  return { id: text(c.rawId), clientData: text(c.response.clientDataJSON), authData: text(c.response.authenticatorData), signature: text(c.response.signature),
    user: c.response.userHandle ? text(c.response.userHandle) : "" };
}

// What a browser says where a prompt was closed, and where there is none.
function passkeyTrouble(e) {
  if (e.name === "NotAllowedError") return "The passkey was not used: the prompt was closed, or its time was over. Try again, or close this page.";
  if (e.name === "InvalidStateError") return "This passkey belongs to the account already. Use another one.";
  if (e.name === "SecurityError") return "The browser does not let this page use passkeys: open exactly the address that the program has shown.";
  return e.message;
}
